package togethersim

import (
	"encoding/json"
	"math"
	"strings"
	"time"
)

// A Batch is the script of a batch. Its states are VALIDATING, IN_PROGRESS, CANCELING, and
// at the end COMPLETED, FAILED, EXPIRED or CANCELLED. All but the Script may be left out.
type Batch struct {
	Script
	Model          string
	Endpoint       string // empty: /v1/chat/completions
	Input          string // the input file
	Output, Errors string // the files that are there when it is over; empty is null
	Good, Bad      int    // lines in these files
	Error          string // why it failed; empty is null
	Deadline       time.Time
	written        *written
}

// written are the contents of a batch's files, and what they were written for.
type written struct {
	endpoint     string
	good, bad    int
	output, bads []byte
}

const (
	chat  = "/v1/chat/completions"
	audio = "/v1/audio/transcriptions"
)

func (b *Batch) endpoint() string {
	if b.Endpoint == "" {
		return chat
	}
	return b.Endpoint
}

func (b *Batch) deadline() time.Time {
	if b.Deadline.IsZero() {
		return b.created().Add(24 * time.Hour)
	}
	return b.Deadline
}

// show is the batch as the API shows it, in the list as well as by itself.
func (b *Batch) show(now time.Time) row {
	at, next := b.stage(now)
	r := row{
		"id": b.ID, "user_id": "user-7", "status": at.Status, "endpoint": b.endpoint(), "model_id": b.Model,
		"input_file_id": b.Input, "output_file_id": nil, "error_file_id": nil, "error": nil, "completed_at": nil,
		"progress": 0.0, "file_size_bytes": 1056749 + int64(b.Good),
		"created_at": stamp(b.created()), "job_deadline": stamp(b.deadline()),
	}
	switch {
	case ended(at.Status):
		r["output_file_id"], r["error_file_id"] = null(b.Output), null(b.Errors)
		if at.Status == "COMPLETED" {
			r["completed_at"], r["progress"] = stamp(at.At), 100.0
		}
		if at.Status == "FAILED" {
			r["error"] = null(b.Error)
		}
	case at.Status == "IN_PROGRESS" && !next.At.IsZero():
		done := float64(now.Sub(at.At)) / float64(next.At.Sub(at.At))
		r["progress"] = math.Floor(done*200) / 2
	}
	return r
}

// truth are the facts of a batch.
func (b *Batch) truth() []Fact {
	fact := func(kind string, at time.Time, data row) Fact {
		data["batch_id"] = b.ID
		return Fact{Type: "batch." + kind, At: at, Data: data}
	}
	facts := []Fact{fact("created", b.created(), row{"model_id": b.Model, "endpoint": b.endpoint(), "input_file_id": null(b.Input)})}
	end := b.ends()
	if at, until, ok := b.enters("IN_PROGRESS"); ok {
		f := fact("in_progress", at, row{"model_id": b.Model, "endpoint": b.endpoint(), "input_file_id": null(b.Input)})
		f.Until = until
		facts = append(facts, f)
	}
	if late := b.deadline(); !ended(end.Status) || end.At.After(late) {
		f := fact("overdue", late, row{"deadline": rfc3339(late), "model_id": b.Model})
		f.Since = late.Add(time.Millisecond)
		if ended(end.Status) {
			f.Until = end.At
		}
		facts = append(facts, f)
	}
	data := row{
		"output_url": nil, "output_file_id": null(b.Output), "error_file_id": null(b.Errors),
		"model_id": b.Model, "endpoint": b.endpoint(),
	}
	if b.Output != "" {
		data["output_url"] = "/v1/files/" + b.Output + "/content"
	}
	switch end.Status {
	case "COMPLETED":
		data["total_tokens"] = nil
		f := fact("done", end.At, data)
		switch {
		case b.Output != "" && b.endpoint() == chat:
			data["total_tokens"] = b.tokens()
		case b.Output != "": // audio has no usage, and the sum of nothing may be read either way
			f.Vague = []string{"total_tokens"}
		}
		facts = append(facts, f)
	case "FAILED":
		data["error_message"] = null(b.Error)
		facts = append(facts, fact("failed", end.At, data))
	case "EXPIRED", "CANCELLED":
		data["error_message"] = nil
		facts = append(facts, fact(strings.ToLower(end.Status), end.At, data))
	}
	return facts
}

func (b *Batch) usage(line int) (prompt, completion int64) {
	return int64(10 + line%7), int64(3 + line%50)
}

func (b *Batch) tokens() int64 {
	sum := int64(0)
	for i := range b.Good {
		prompt, completion := b.usage(i)
		sum += prompt + completion
	}
	return sum
}

// contents are the files with the answers and with the requests that went wrong.
func (b *Batch) contents() (output, failures []byte) {
	if w := b.written; w == nil || w.endpoint != b.endpoint() || w.good != b.Good || w.bad != b.Bad {
		b.written = &written{b.endpoint(), b.Good, b.Bad, b.output(), b.failures()}
	}
	return b.written.output, b.written.bads
}

// output is the file with the answers. The customer's own words are in it.
func (b *Batch) output() []byte {
	var lines []byte
	for i := range b.Good {
		body := row{"duration": 12.5, "text": "LEAK: what somebody said"}
		if b.endpoint() == chat {
			prompt, completion := b.usage(i)
			body = row{
				"choices": []any{row{"index": 0, "message": row{"role": "assistant", "content": "LEAK: what the model said"}, "finish_reason": "stop"}},
				"usage":   row{"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
			}
		}
		lines = line(lines, row{"custom_id": "request-" + digits(i), "response": row{"status_code": 200, "body": body}})
	}
	return lines
}

// failures is the file with the requests that went wrong.
func (b *Batch) failures() []byte {
	var lines []byte
	for i := range b.Bad {
		lines = line(lines, row{"custom_id": "request-" + digits(b.Good+i), "error": row{"message": "Invalid model specified", "code": "invalid_model"}})
	}
	return lines
}

func line(to []byte, r row) []byte {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return append(append(to, text...), '\n')
}

func planBatch(d dice) *Batch {
	b := &Batch{
		Script: Script{ID: d.uuid()}, Model: pick(d, baseModels), Input: "file-" + d.uuid(),
		Good: 1 + d.IntN(60), Deadline: d.at.Add(24 * time.Hour),
	}
	if d.chance(0.1) {
		b.Endpoint = audio
	}
	if d.chance(0.3) {
		b.Deadline = d.at.Add(d.span(30*time.Minute, 3*time.Hour))
	}
	enter := func(status string, low, high time.Duration) {
		d.at = d.at.Add(d.span(low, high))
		b.Stages = append(b.Stages, Stage{d.at, status})
	}
	output, errors := "file-"+d.uuid(), "file-"+d.uuid()
	enter("VALIDATING", 0, 0)
	fate := d.Float64()
	if fate < 0.08 {
		b.Error = "The input file holds a line that is no JSON"
		enter("FAILED", 30*time.Second, 5*time.Minute)
		return b
	}
	if fate > 0.1 { // else it is over before it was seen to work
		enter("IN_PROGRESS", 30*time.Second, 5*time.Minute)
	}
	switch {
	case fate < 0.15:
		b.Error, b.Output, b.Errors = "Too many requests failed", output, errors
		b.Bad = 1 + d.IntN(20)
		enter("FAILED", 2*time.Minute, 2*time.Hour)
	case fate < 0.22:
		b.Output = output
		if d.at = b.Deadline; d.chance(0.5) {
			d.at = b.Deadline.Add(d.span(10*time.Minute, 40*time.Minute))
		}
		b.Stages = append(b.Stages, Stage{d.at, "EXPIRED"})
	case fate < 0.3:
		if d.chance(0.6) {
			enter("CANCELING", time.Minute, time.Hour)
		}
		if d.chance(0.5) {
			b.Output = output
		}
		enter("CANCELLED", time.Minute, 10*time.Minute)
	default:
		b.Output, b.Errors = output, errors
		switch n := d.Float64(); {
		case n < 0.3:
			b.Bad = 1 + d.IntN(10)
		case n < 0.45:
			b.Errors = ""
		case n < 0.55: // every request went wrong
			b.Output, b.Bad, b.Good = "", b.Good+1, 0
		}
		enter("COMPLETED", 3*time.Minute, 4*time.Hour)
	}
	return b
}
