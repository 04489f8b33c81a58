package togethersim

import "time"

// A File is the script of an uploaded file. Its states are PENDING, QUEUED, RUNNING, and at
// the end COMPLETED, FAILED or INVALID_FORMAT; the empty state is for a file that nobody
// validates.
type File struct {
	Script
	Name    string
	Purpose string // empty: fine-tune
	Error   string // what the validation has found
	Content []byte
}

// fileLines is what the validation counts in every file.
const fileLines = 120

func (f *File) purpose() string {
	if f.Purpose == "" {
		return "fine-tune"
	}
	return f.Purpose
}

func (f *File) show(now time.Time) row {
	at, _ := f.stage(now)
	r := row{
		"id": f.ID, "object": "file", "created_at": f.created().Unix(), "filename": f.Name,
		"bytes": int64(len(f.Content)), "purpose": f.purpose(), "FileType": "jsonl", "Processed": false,
		"download_url": "https://storage.invalid/" + f.ID + "?X-Amz-Signature=LEAK",
	}
	switch at.Status {
	case "":
		return r
	case "COMPLETED":
		r["Processed"] = true
		r["validation_report"] = row{"valid": true, "nlines": fileLines, "dataset_format": "conversation"}
	case "INVALID_FORMAT", "FAILED":
		r["validation_report"] = row{"valid": false, "error_type": "format", "error": f.Error}
	}
	r["processing_status"] = at.Status
	return r
}

// truth are the facts of a file.
func (f *File) truth() []Fact {
	end := f.ends()
	data := row{"file_id": f.ID, "purpose": f.purpose(), "filename": null(f.Name)}
	switch end.Status {
	case "COMPLETED":
		data["bytes"], data["lines"] = int64(len(f.Content)), fileLines
		return []Fact{{Type: "file.processed", At: end.At, Data: data}}
	case "INVALID_FORMAT":
		data["error_message"], data["error_type"] = null(f.Error), "format"
		return []Fact{{Type: "file.invalid", At: end.At, Data: data}}
	case "FAILED":
		data["error_message"], data["error_type"] = null(f.Error), "format"
		return []Fact{{Type: "file.failed", At: end.At, Data: data}}
	}
	return nil
}

// artefacts are the files that jobs have made up to a moment.
func (w *World) artefacts(now time.Time) []*File {
	var files []*File
	made := func(id, name string, at time.Time, content []byte) {
		if id != "" {
			files = append(files, &File{Script: Script{ID: id, Stages: []Stage{{At: at}}}, Name: name, Purpose: "batch-api-result", Content: content})
		}
	}
	for _, b := range shown(w.batches, now) {
		if at, _ := b.stage(now); ended(at.Status) {
			output, failures := b.contents()
			made(b.Output, "output.jsonl", at.At, output)
			made(b.Errors, "errors.jsonl", at.At, failures)
		}
	}
	for _, e := range shown(w.evaluations, now) {
		if at, _ := e.stage(now); at.Status == "completed" {
			made(e.Result, "results.jsonl", at.At, []byte("{\"score\":8}\n"))
		}
	}
	return files
}

// planFile plans a file that somebody uploads.
func planFile(d dice) *File {
	f := trainingFile(d)
	at := f.created()
	last := &f.Stages[len(f.Stages)-1]
	switch n := d.Float64(); {
	case n < 0.2:
		last.Status, f.Error = "INVALID_FORMAT", "line 4: a message has no role"
	case n < 0.3:
		last.Status, f.Error = "FAILED", "The validation broke down"
	case n < 0.45:
		f.Purpose, f.Stages = pick(d, []string{"eval", "batch-api"}), []Stage{{At: at}}
	}
	return f
}

// trainingFile plans the upload of a file that turns out well.
func trainingFile(d dice) *File {
	f := &File{Script: Script{ID: "file-" + d.uuid()}, Name: "train.jsonl", Content: []byte("{\"text\":\"LEAK: the customer's words\"}\n")}
	at := d.at
	f.Stages = []Stage{{at, "PENDING"}}
	if d.chance(0.7) {
		at = at.Add(d.span(time.Second, 20*time.Second))
		f.Stages = append(f.Stages, Stage{at, "QUEUED"})
		at = at.Add(d.span(time.Second, 20*time.Second))
		f.Stages = append(f.Stages, Stage{at, "RUNNING"})
	}
	f.Stages = append(f.Stages, Stage{at.Add(d.span(2*time.Second, 3*time.Minute)), "COMPLETED"})
	return f
}
