package together

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"together-relay/relay"
)

// Batches are the batch jobs, a [relay.Resource]. A look costs one request, and a download
// for each batch that is done if its tokens are to be counted.
type Batches struct {
	api    *API
	tokens int64
}

// Batches are the batch jobs of the key's project. The tokens of those that are done are
// counted by reading their output of at most so many bytes, never if that is 0: the
// provider does not tell their number.
func (a *API) Batches(tokensCap int64) *Batches { return &Batches{a, tokensCap} }

type batch struct {
	ID        word    `json:"id"`
	Status    state   `json:"status"`
	Model     word    `json:"model_id"`
	Endpoint  word    `json:"endpoint"`
	Input     word    `json:"input_file_id"`
	Output    word    `json:"output_file_id"`
	Errors    word    `json:"error_file_id"`
	Error     message `json:"error"`
	Progress  number  `json:"progress"` // percent
	Deadline  instant `json:"job_deadline"`
	CreatedAt instant `json:"created_at"`
	EndedAt   instant `json:"completed_at"`
}

func (b *batch) id() string { return string(b.ID) }

func (b *batch) stage() stage {
	switch b.Status {
	case "validating":
		return waiting
	case "in_progress":
		return running
	case "cancelling", "cancel_requested":
		return ending
	case "completed", "failed", "expired", "cancelled":
		return over
	}
	return unknown
}

// overdue says whether the deadline has passed, which is no end.
func (b *batch) overdue(now time.Time) bool {
	return b.stage() != over && !b.Deadline.IsZero() && now.After(b.Deadline.Time)
}

// List asks once for all batches; the provider knows no filter.
func (b *Batches) List(ctx context.Context, _ int) ([]relay.Job, error) {
	all, err := list(ctx, b.api, "/v1/batches", nil, (*batch).id)
	return jobs(all, b.job), err
}

// Find asks for one batch.
func (b *Batches) Find(ctx context.Context, id string) (relay.Job, error) {
	found, err := b.find(ctx, id)
	if err != nil {
		return relay.Job{}, err
	}
	return b.job(found), nil
}

func (b *Batches) find(ctx context.Context, id string) (row[batch], error) {
	return find(ctx, b.api, "/v1/batches/", id, (*batch).id)
}

func (b *Batches) job(r row[batch]) relay.Job {
	t := &r.is
	if t.stage() == unknown {
		b.api.oddState("batch", t.Status)
	}
	job := relay.Job{
		ID: t.id(),
		Change: strings.Join([]string{string(t.Status), string(t.Progress), string(t.Output), string(t.Errors),
			t.EndedAt.raw, strconv.FormatBool(t.overdue(r.at))}, "|"),
		Over:    t.stage() == over,
		Updated: t.EndedAt.Time,
		Row:     r.raw,
	}
	// Where the provider does not say when it ended, that was by the deadline, mostly.
	if job.Over && job.Updated.IsZero() && t.Deadline.Before(r.at) {
		job.Updated = t.Deadline.Time
	}
	return job
}

type batchStartedData struct {
	ID       word    `json:"batch_id"`
	Model    *string `json:"model_id"`
	Endpoint *string `json:"endpoint"`
	Input    *string `json:"input_file_id"`
}

type batchDoneData struct {
	ID     word    `json:"batch_id"`
	URL    *string `json:"output_url"`
	Tokens *int64  `json:"total_tokens"`
	batchOutput
}

type batchEndedData struct {
	ID      word    `json:"batch_id"`
	Message *string `json:"error_message"`
	URL     *string `json:"output_url"`
	batchOutput
}

type batchOutput struct {
	Auth     string  `json:"output_url_auth"` // the URL needs the API key
	Output   *string `json:"output_file_id"`
	Errors   *string `json:"error_file_id"`
	Model    *string `json:"model_id"`
	Endpoint *string `json:"endpoint"`
}

type batchOverdueData struct {
	ID       word      `json:"batch_id"`
	Deadline time.Time `json:"deadline"`
	Progress *float64  `json:"progress"`
	Model    *string   `json:"model_id"`
}

// Tell reads the row. There is no log of a batch: a state that no look has seen is not told.
func (b *Batches) Tell(ctx context.Context, job relay.Job, mark relay.Mark) ([]relay.Fact, error) {
	if job.Gone {
		return nil, nil
	}
	var t batch
	if err := json.Unmarshal(job.Row, &t); err != nil {
		return nil, errors.New("read the row: it is no batch")
	}
	if t.Status == "" { // a row as odd as that is no source of facts
		return nil, nil
	}
	var facts []relay.Fact
	add := func(typ string, at time.Time, data any) {
		if !mark.Has(factKey(typ, "")) {
			facts = append(facts, b.api.origin.fact(typ, t.id(), "", at, data))
		}
	}
	begun := batchStartedData{t.ID, or(t.Model), or(t.Endpoint), or(t.Input)}
	add("batch.created", t.CreatedAt.Time, begun)
	if t.stage() == running {
		add("batch.in_progress", time.Time{}, begun)
	}
	if strings.HasSuffix(job.Change, "|true") {
		add("batch.overdue", t.Deadline.Time, batchOverdueData{t.ID, t.Deadline.UTC(), t.Progress.float(), or(t.Model)})
	}
	switch end := batchEnd(t.Status); end {
	case "":
	case "batch.done":
		if mark.Has(end) {
			break
		}
		data, err := b.done(ctx, &t, mark, job.Brief)
		if err != nil {
			return facts, err
		}
		add(end, t.EndedAt.Time, data)
	default:
		add(end, t.EndedAt.Time, batchEndedData{t.ID, said(t.Error), b.outputURL(&t), t.output()})
	}
	return facts, nil
}

// batchEnd is the type of the event that a state means the end by, empty for none.
func batchEnd(s state) string {
	switch s {
	case "completed":
		return "batch.done"
	case "failed", "expired", "cancelled":
		return "batch." + string(s)
	}
	return ""
}

// output is what there is to be fetched. A batch that is completed may have an empty error
// file, and one that is not may have an output.
func (b *batch) output() batchOutput {
	return batchOutput{"bearer", or(b.Output), or(b.Errors), or(b.Model), or(b.Endpoint)}
}

func (b *Batches) outputURL(t *batch) *string {
	if t.Output == "" {
		return nil
	}
	address := b.api.base + contentPath(t.Output)
	return &address
}

func contentPath(file word) string { return "/v1/files/" + url.PathEscape(string(file)) + "/content" }

func (b *Batches) done(ctx context.Context, t *batch, mark relay.Mark, brief bool) (batchDoneData, error) {
	data := batchDoneData{ID: t.ID, URL: b.outputURL(t), batchOutput: t.output()}
	if b.tokens <= 0 || t.Output == "" || brief {
		return data, nil
	}
	tokens, err := b.countTokens(ctx, t.Output)
	if stuck(err, mark) {
		return data, err
	}
	data.Tokens = tokens
	return data, nil
}
