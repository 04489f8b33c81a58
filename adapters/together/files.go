package together

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"together-relay/relay"
)

// Files are the uploads that the provider validates, a [relay.Resource]. A look costs one
// request, and one for each file whose report the list leaves out.
type Files struct{ api *API }

// Files are the files of the key's project. Those that are not validated do not count.
func (a *API) Files() *Files { return &Files{a} }

type file struct {
	ID        word                    `json:"id"`
	Name      word                    `json:"filename"`
	Purpose   word                    `json:"purpose"`
	Bytes     number                  `json:"bytes"`
	CreatedAt instant                 `json:"created_at"`
	Status    state                   `json:"processing_status"`
	Report    maybe[validationReport] `json:"validation_report"`
}

type validationReport struct {
	Error     message `json:"error"`
	ErrorType word    `json:"error_type"`
	Lines     number  `json:"nlines"`
}

func (f *file) id() string { return string(f.ID) }

func (f *file) stage() stage {
	switch f.Status {
	case "pending", "queued":
		return waiting
	case "running":
		return running
	case "completed", "failed", "invalid_format":
		return over
	}
	return unknown
}

// List asks once for all files.
func (f *Files) List(ctx context.Context, _ int) ([]relay.Job, error) {
	all, err := list(ctx, f.api, "/v1/files", nil, (*file).id)
	if err != nil {
		return nil, err
	}
	var jobs []relay.Job
	for i := range all {
		if all[i].is.Status != "" {
			jobs = append(jobs, f.job(all[i]))
		}
	}
	return jobs, nil
}

// Find asks for one file.
func (f *Files) Find(ctx context.Context, id string) (relay.Job, error) {
	found, err := f.find(ctx, id)
	if err != nil {
		return relay.Job{}, err
	}
	return f.job(found), nil
}

func (f *Files) find(ctx context.Context, id string) (row[file], error) {
	return find(ctx, f.api, "/v1/files/", id, (*file).id)
}

func (f *Files) job(r row[file]) relay.Job {
	t := &r.is
	if t.stage() == unknown && t.Status != "" {
		f.api.oddState("file", t.Status)
	}
	return relay.Job{
		ID:      t.id(),
		Change:  string(t.Status),
		Over:    t.stage() == over,
		Updated: t.CreatedAt.Time, // validation follows soon; the provider does not say when
		Row:     r.raw,
	}
}

type fileProcessedData struct {
	ID      word    `json:"file_id"`
	Name    *string `json:"filename"`
	Purpose *string `json:"purpose"`
	Bytes   *int64  `json:"bytes"`
	Lines   *int64  `json:"lines"`
}

type fileRefusedData struct {
	ID        word    `json:"file_id"`
	Message   *string `json:"error_message"`
	ErrorType *string `json:"error_type"`
	Name      *string `json:"filename"`
	Purpose   *string `json:"purpose"`
}

// Tell reads the row, and asks for the file if the list does not say what is wrong with it.
func (f *Files) Tell(ctx context.Context, job relay.Job, mark relay.Mark) ([]relay.Fact, error) {
	if job.Gone {
		return nil, nil
	}
	var t file
	if err := json.Unmarshal(job.Row, &t); err != nil {
		return nil, errors.New("read the row: it is no file")
	}
	var typ string
	switch t.Status {
	case "completed":
		typ = "file.processed"
	case "invalid_format":
		typ = "file.invalid"
	case "failed":
		typ = "file.failed"
	}
	if typ == "" || mark.Has(typ) {
		return nil, nil
	}
	if t.Status != "completed" && !t.Report.ok && !job.Brief {
		found, err := f.find(ctx, job.ID)
		if stuck(err, mark) {
			return nil, err
		}
		if err == nil {
			t.Report = found.is.Report
		}
	}
	name := said(bare(string(t.Name)))
	report := &t.Report.is
	var data any = fileRefusedData{t.ID, said(report.Error), said(report.ErrorType), name, or(t.Purpose)}
	if t.Status == "completed" {
		data = fileProcessedData{t.ID, name, or(t.Purpose), t.Bytes.int(), report.Lines.int()}
	}
	return []relay.Fact{f.api.origin.fact(typ, t.id(), "", time.Time{}, data)}, nil
}
