package together

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"

	"together-relay/relay"
)

// Evaluations are the evaluation jobs, a [relay.Resource]. A look costs one request, and
// one for each job that is out of the list's sight.
type Evaluations struct{ api *API }

// Evaluations are the evaluation jobs of the key's project.
func (a *API) Evaluations() *Evaluations { return &Evaluations{a} }

// An evaluation is what may be read of one. Its parameters hold tokens for other services.
type evaluation struct {
	ID        word               `json:"workflow_id"`
	Type      state              `json:"type"`
	Status    state              `json:"status"`
	CreatedAt instant            `json:"created_at"`
	UpdatedAt instant            `json:"updated_at"`
	Results   maybe[evalResults] `json:"results"`
}

func (e *evaluation) id() string { return string(e.ID) }

func (e *evaluation) stage() stage {
	switch e.Status {
	case "pending", "queued":
		return waiting
	case "running":
		return running
	case "completed", "error", "user_error":
		return over
	}
	return unknown
}

// maxEvaluations is the most that the provider lists. There is no second page.
const maxEvaluations = "100"

// List asks once for the evaluations that the provider shows.
func (e *Evaluations) List(ctx context.Context, _ int) ([]relay.Job, error) {
	all, err := list(ctx, e.api, "/v1/evaluation", url.Values{"limit": {maxEvaluations}}, (*evaluation).id)
	return jobs(all, e.job), err
}

// Find asks for one evaluation.
func (e *Evaluations) Find(ctx context.Context, id string) (relay.Job, error) {
	found, err := e.find(ctx, id)
	if err != nil {
		return relay.Job{}, err
	}
	return e.job(found), nil
}

func (e *Evaluations) find(ctx context.Context, id string) (row[evaluation], error) {
	return find(ctx, e.api, "/v1/evaluation/", id, (*evaluation).id)
}

func (e *Evaluations) job(r row[evaluation]) relay.Job {
	t := &r.is
	if t.stage() == unknown {
		e.api.oddState("evaluation", t.Status)
	}
	return relay.Job{
		ID:      t.id(),
		Change:  strings.Join([]string{string(t.Status), t.UpdatedAt.raw}, "|"),
		Over:    t.stage() == over,
		Updated: latest(t.UpdatedAt.Time, t.CreatedAt.Time),
		Row:     r.raw,
	}
}

type evaluationCompletedData struct {
	ID      word         `json:"evaluation_id"`
	Type    *string      `json:"evaluation_type"`
	Results *evalFigures `json:"results"`
	File    *string      `json:"result_file_id"`
}

type evaluationFailedData struct {
	ID      word    `json:"evaluation_id"`
	Message string  `json:"error_message"`
	Class   string  `json:"error_class"`
	Type    *string `json:"evaluation_type"`
}

// Tell reads the row, and asks for the job if the list leaves its results out.
func (e *Evaluations) Tell(ctx context.Context, job relay.Job, mark relay.Mark) ([]relay.Fact, error) {
	if job.Gone {
		return nil, nil
	}
	var t evaluation
	if err := json.Unmarshal(job.Row, &t); err != nil {
		return nil, errors.New("read the row: it is no evaluation")
	}
	typ := evaluationEnd(t.Status)
	if typ == "" || mark.Has(typ) {
		return nil, nil
	}
	if !t.Results.ok && !job.Brief {
		found, err := e.find(ctx, job.ID)
		if stuck(err, mark) {
			return nil, err
		}
		if err == nil && found.is.Status == t.Status {
			t = found.is
		}
	}
	return []relay.Fact{e.api.origin.fact(typ, t.id(), "", t.UpdatedAt.Time, t.end())}, nil
}

// evaluationEnd is the type of the event that a state means the end by, empty for none.
func evaluationEnd(s state) string {
	switch s {
	case "completed":
		return "evaluation.completed"
	case "error", "user_error":
		return "evaluation.failed"
	}
	return ""
}

func (e *evaluation) end() any {
	kind := said(e.Type)
	results := &e.Results.is
	if e.Status == "completed" {
		data := evaluationCompletedData{ID: e.ID, Type: kind, File: or(results.File)}
		if e.Results.ok {
			data.Results = results.figures()
		}
		return data
	}
	data := evaluationFailedData{e.ID, "status=" + string(e.Status), classSystem, kind}
	if e.Status == "user_error" {
		data.Class = classUser
	}
	if text := said(results.Error); text != nil {
		data.Message = *text
	}
	return data
}
