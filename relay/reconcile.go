package relay

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Finding is a fact that the provider tells, and where the log holds it.
type Finding struct {
	Resource string
	Fact
	Stored // Sequence is 0 if the log does not hold it
}

// Reconcile lists what has happened at the provider since then, and looks for each fact in
// the log. The function found is called for each; its error ends it. Trouble with one
// resource or job does not keep it from the others, and is returned at the end.
func Reconcile(ctx context.Context, watches []Watch, since time.Time, holds func(context.Context, Event) (Stored, error), found func(Finding) error) error {
	var trouble []error
	for _, watch := range watches {
		jobs, err := watch.Resource.List(ctx, 0)
		if err != nil {
			trouble = append(trouble, fmt.Errorf("list %s: %w", watch.Name, err))
			continue
		}
		for _, job := range jobs {
			if !job.Updated.IsZero() && job.Updated.Before(since) {
				continue
			}
			// Nothing is waited for: what is not known now is not known.
			facts, err := watch.Resource.Tell(ctx, job, Mark{First: time.Now(), Waits: GiveUp})
			if err != nil {
				trouble = append(trouble, fmt.Errorf("%s: %w", job.ID, err))
			}
			for _, fact := range facts {
				if fact.Event.CloudEvent.Time().Before(since) {
					continue
				}
				stored, err := holds(ctx, fact.Event)
				if err == nil {
					err = found(Finding{watch.Name, fact, stored})
				}
				if err != nil {
					return errors.Join(append(trouble, err)...)
				}
			}
			if later, ok := errors.AsType[*Later](err); ok {
				return errors.Join(append(trouble, fmt.Errorf("the provider wants a pause; try again in %s", later.After))...)
			}
		}
	}
	return errors.Join(trouble...)
}
