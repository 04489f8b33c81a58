package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Finding is a fact that the provider tells, and where the log holds it.
type Finding struct {
	Resource string
	Fact
	Stored // Sequence is 0 if the log does not hold it
}

// A Reconciliation compares what the provider tells with what the log holds.
type Reconciliation struct {
	Watches []Watch
	Since   time.Time // what happened before is not compared
	Holds   func(context.Context, Event) (Stored, error)
	Found   func(Finding) error                   // called for each fact; its error ends it all
	Looks   func(resource string, done, jobs int) // called for each resource, and after each of its jobs
}

// Run looks at each resource once. It blocks until the provider has answered for every job.
// Trouble with one resource or job does not keep it from the others, and is returned
// at the end.
func (r Reconciliation) Run(ctx context.Context) error {
	var trouble []error
	for _, watch := range r.Watches {
		jobs, err := watch.Resource.List(ctx, 0)
		if err != nil {
			trouble = append(trouble, fmt.Errorf("list %s: %w", watch.Name, err))
			if errors.As(err, new(*Later)) || ctx.Err() != nil {
				break
			}
			continue
		}
		jobs = slices.DeleteFunc(jobs, func(j Job) bool { return !j.Updated.IsZero() && j.Updated.Before(r.Since) })
		r.Looks(watch.Name, 0, len(jobs))
		for i, job := range jobs {
			err := r.job(ctx, watch, job)
			r.Looks(watch.Name, i+1, len(jobs))
			if err == nil {
				continue
			}
			trouble = append(trouble, err)
			if later, ok := errors.AsType[*Later](err); ok {
				trouble = append(trouble, fmt.Errorf("the provider wants a pause; try again in %s", later.After))
			}
			if errors.As(err, new(*Later)) || errors.As(err, new(*ended)) || ctx.Err() != nil {
				return errors.Join(trouble...)
			}
		}
	}
	return errors.Join(trouble...)
}

// ended is an error of the log or of the caller: there is no use in going on.
type ended struct{ error }

func (e *ended) Unwrap() error { return e.error }

// job compares one job's facts. It asks for all that they say only if one of them is missing.
func (r Reconciliation) job(ctx context.Context, watch Watch, job Job) error {
	missing := false
	job.Brief = true
	err := r.facts(ctx, watch, job, func(f Fact, stored Stored) error {
		if missing = missing || stored.Sequence == 0; stored.Sequence > 0 {
			return r.Found(Finding{watch.Name, f, stored})
		}
		return nil
	})
	if err != nil || !missing {
		return err
	}
	job.Brief = false
	return r.facts(ctx, watch, job, func(f Fact, stored Stored) error {
		if stored.Sequence > 0 {
			return nil
		}
		return r.Found(Finding{watch.Name, f, stored})
	})
}

func (r Reconciliation) facts(ctx context.Context, watch Watch, job Job, found func(Fact, Stored) error) error {
	// Nothing is waited for: what is not known now is not known.
	facts, trouble := watch.Resource.Tell(ctx, job, Mark{First: time.Now(), Waits: GiveUp})
	if trouble != nil {
		trouble = fmt.Errorf("%s: %w", job.ID, trouble)
	}
	for _, fact := range facts {
		if fact.Event.CloudEvent.Time().Before(r.Since) {
			continue
		}
		stored, err := r.Holds(ctx, fact.Event)
		if err == nil {
			err = found(fact, stored)
		}
		if err != nil {
			return errors.Join(trouble, &ended{err})
		}
	}
	return trouble
}
