package together

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"

	"together-relay/relay"
)

// QueueJobs are the jobs of queues that somebody has registered, a [relay.Resource]: the API
// lists none. A look costs one request for each that is not over.
//
// The API wants the model and the request, so the id of a job is both; see [QueueJobID].
type QueueJobs struct{ api *API }

// QueueJobs are the registered queue jobs of the key's project.
func (a *API) QueueJobs() *QueueJobs { return &QueueJobs{a} }

// QueueJobID is the id of a job among the queue jobs.
func QueueJobID(model, request string) string { return model + queueSign + request }

// SplitQueueJobID is the model and the request of a job's id.
func SplitQueueJobID(id string) (model, request string) {
	i := strings.LastIndex(id, queueSign)
	if i < 0 {
		return "", id
	}
	return id[:i], id[i+len(queueSign):]
}

// queueSign stands in no name of a model and in no id of a request.
const queueSign = "#"

// CheckID says what is wrong with the id of something that is to be asked for; nil if
// nothing is.
func CheckID(id string) error {
	switch {
	case id == "":
		return errors.New("it is empty")
	case len(id) > maxSubject:
		return errors.New("it is longer than 1024 bytes")
	case id == ".", id == "..":
		return errors.New("it is a path")
	case strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xfffd }), strings.Contains(id, queueSign):
		return errors.New("it holds a character that no id has")
	}
	return nil
}

// A queueJob is what may be read of one. What went in and came out is the customer's.
type queueJob struct {
	ID        word    `json:"request_id"`
	Model     word    `json:"model"`
	Status    state   `json:"status"`
	CreatedAt instant `json:"created_at"`
	DoneAt    instant `json:"done_at"`
	Error     message `json:"error"`
}

func (q *queueJob) stage() stage {
	switch q.Status {
	case "pending":
		return waiting
	case "running":
		return running
	case "done", "failed", "cancelled":
		return over
	}
	return unknown
}

// List is empty: the API lists no queue jobs.
func (*QueueJobs) List(context.Context, int) ([]relay.Job, error) { return nil, nil }

// Find asks for one queue job.
func (q *QueueJobs) Find(ctx context.Context, id string) (relay.Job, error) {
	const path = "/v1/queue/status"
	model, request := SplitQueueJobID(id)
	found, err := detail[queueJob](ctx, q.api, path, url.Values{"model": {model}, "request_id": {request}})
	if err != nil {
		return relay.Job{}, ofOne(err)
	}
	t := &found.is
	if t.ID != "" && string(t.ID) != request {
		return relay.Job{}, errors.New("GET " + path + ": 200, the answer is about something else")
	}
	if t.stage() == unknown {
		q.api.oddState("queue job", t.Status)
	}
	return relay.Job{
		ID:      id,
		Change:  string(t.Status),
		Over:    t.stage() == over,
		Updated: latest(t.DoneAt.Time, t.CreatedAt.Time),
		Row:     found.raw,
	}, nil
}

type queueJobData struct {
	ID    string  `json:"queue_job_id"`
	Model *string `json:"model"`
}

type queueJobFailedData struct {
	queueJobData
	Message *string `json:"error_message"`
}

// Tell reads the row.
func (q *QueueJobs) Tell(_ context.Context, job relay.Job, _ relay.Mark) ([]relay.Fact, error) {
	if job.Gone {
		return nil, nil
	}
	var t queueJob
	if err := json.Unmarshal(job.Row, &t); err != nil {
		return nil, errors.New("read the row: it is no queue job")
	}
	model, request := SplitQueueJobID(job.ID)
	if t.Model != "" {
		model = string(t.Model)
	}
	same := queueJobData{request, said(model)}
	fact := func(typ string, data any) ([]relay.Fact, error) {
		return []relay.Fact{q.api.origin.fact(typ, request, "", t.DoneAt.Time, data)}, nil
	}
	switch t.Status {
	case "done":
		return fact("queue_job.done", same)
	case "failed":
		return fact("queue_job.failed", queueJobFailedData{same, said(t.Error)})
	case "cancelled":
		return fact("queue_job.canceled", same)
	}
	return nil, nil
}
