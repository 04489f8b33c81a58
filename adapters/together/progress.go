package together

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"together-relay/relay"
)

// The kinds of job that one can wait for.
const (
	KindFineTune   = "fine_tune"
	KindBatch      = "batch"
	KindEvaluation = "evaluation"
)

// A Progress is how far a job has come. What the provider does not tell is zero or nil.
type Progress struct {
	Kind    string
	State   string // in the provider's words, in lower case
	Over    bool
	Type    string // of the event that the end means; empty while it is not over
	Step    int64
	Total   int64 // steps
	Loss    *float64
	Left    time.Duration // until the next state, as the provider reckons
	Percent *float64
	Fact    *relay.Fact // the end; nil while it is not over
}

// Progress asks how far a job has come, whatever kind of job the id names. It makes one
// request for each kind that is tried, and up to three more for the details of a
// fine-tune. The error is [relay.ErrGone] if there is no job of that id.
func (a *API) Progress(ctx context.Context, id string) (Progress, error) {
	if id == "" {
		return Progress{}, fmt.Errorf("the id is empty: %w", relay.ErrGone)
	}
	for _, kind := range kindsOf(id) {
		p, err := a.progressOf(ctx, kind, id)
		switch {
		case err == nil:
			p.Kind = kind
			return p, nil
		case !noneOfThem(err):
			return Progress{}, err
		}
	}
	return Progress{}, fmt.Errorf("%s: %w", id, relay.ErrGone)
}

// kindsOf are the kinds of job in the order that the id speaks for.
func kindsOf(id string) []string {
	switch {
	case strings.HasPrefix(id, "eval-"):
		return []string{KindEvaluation, KindFineTune, KindBatch}
	case strings.HasPrefix(id, "batch"), uuid.MatchString(id):
		return []string{KindBatch, KindFineTune, KindEvaluation}
	}
	return []string{KindFineTune, KindBatch, KindEvaluation}
}

// uuid is the form that the ids of batches have.
var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// noneOfThem says whether the provider knows no job of this kind and id, or takes the id
// for one that no such job can have.
func noneOfThem(err error) bool {
	switch status(err) {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return true
	}
	return errors.Is(err, relay.ErrGone)
}

// patient is the mark of a job whose details have been asked for often enough.
func patient() relay.Mark { return relay.Mark{Waits: relay.GiveUp} }

func (a *API) progressOf(ctx context.Context, kind, id string) (Progress, error) {
	switch kind {
	case KindBatch:
		return a.batchProgress(ctx, id)
	case KindEvaluation:
		return a.evaluationProgress(ctx, id)
	}
	return a.fineTuneProgress(ctx, id)
}

func (a *API) fineTuneProgress(ctx context.Context, id string) (Progress, error) {
	f := a.FineTunes()
	found, err := f.find(ctx, id)
	if err != nil {
		return Progress{}, err
	}
	t := &found.is
	p := Progress{State: string(t.Status), Over: t.stage() == over}
	if n := t.Steps.int(); n != nil {
		p.Step = *n
	}
	if n := t.TotalSteps.int(); n != nil && *n > 0 {
		p.Total = *n
		percent := min(100*float64(p.Step)/float64(p.Total), 100)
		p.Percent = &percent
	}
	s := tuning{FineTunes: f, job: t, mark: patient()}
	if !p.Over {
		if left := t.Progress.is.Left.int(); bool(t.Progress.is.Known) && left != nil && *left > 0 {
			p.Left = time.Duration(min(*left, int64(maxLeft/time.Second))) * time.Second
		}
		if p.Step > 0 && t.stage() == running {
			m, _, err := s.lossesAt(ctx, []save{{step: p.Step}})
			if err == nil { // it does without
				p.Loss, _ = lossAt(m, p.Step)
			}
		}
		return p, nil
	}
	if err := s.read(ctx); stuck(err, s.mark) {
		return p, err
	}
	end, err := s.end(ctx)
	p.end(end)
	return p, err
}

const maxLeft = 365 * 24 * time.Hour

func (p *Progress) end(fact relay.Fact) { p.Fact, p.Type = &fact, fact.Event.Type }

func (a *API) batchProgress(ctx context.Context, id string) (Progress, error) {
	b := a.Batches(0)
	found, err := b.find(ctx, id)
	if err != nil {
		return Progress{}, err
	}
	t := &found.is
	p := Progress{State: string(t.Status), Over: t.stage() == over, Percent: t.Progress.float()}
	err = p.last(ctx, b, b.job(found), batchEnd(t.Status))
	return p, err
}

func (a *API) evaluationProgress(ctx context.Context, id string) (Progress, error) {
	e := a.Evaluations()
	found, err := e.find(ctx, id)
	if err != nil {
		return Progress{}, err
	}
	t := &found.is
	p := Progress{State: string(t.Status), Over: t.stage() == over}
	err = p.last(ctx, e, e.job(found), evaluationEnd(t.Status))
	return p, err
}

// last takes the fact of that type, if there is to be one.
func (p *Progress) last(ctx context.Context, of relay.Resource, job relay.Job, typ string) error {
	if typ == "" {
		return nil
	}
	facts, err := of.Tell(ctx, job, patient())
	for _, fact := range facts {
		if fact.Event.Type == typ {
			p.end(fact)
		}
	}
	return err
}
