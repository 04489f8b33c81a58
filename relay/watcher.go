package relay

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// A Look is what became of one look at a resource.
type Look struct {
	Resource string
	Jobs     int       // that the provider has listed, or that are registered
	Told     []Receipt // facts that were stored now, or found stored
	Missing  int       // facts that are known and not stored yet
	Err      error
	Took     time.Duration
	Next     time.Duration // until the next look
}

// A Watch is a resource and how often it is looked at.
type Watch struct {
	Name     string
	Resource Resource
	Every    time.Duration
	// Registered says that the provider does not list the jobs: whoever wants one watched
	// marks it in the ledger. All that has happened to it is news then.
	Registered bool
}

// A Watcher looks at the provider's resources and stores an event for each fact that is
// new. It stores first and marks then: a crash in between repeats an event, which the log
// drops by its id; the other order would lose one.
//
// The first look at a resource is its baseline: what was over by then is not news.
type Watcher struct {
	Watches []Watch
	Log     Log
	Check   func(Event) error // as for [Intake]
	Ledger  Ledger
	Turn    Turn
	Back    time.Duration // at the first look, what is no older than that is news all the same
	Done    func(Look)    // told of each look; looks at different resources may end at once
}

// Run watches whenever it is this watcher's turn. It blocks until ctx is done.
func (w *Watcher) Run(ctx context.Context) error {
	return w.Turn.Hold(ctx, func(ctx context.Context) {
		var all sync.WaitGroup
		for _, watch := range w.Watches {
			all.Go(func() { w.watch(ctx, watch) })
		}
		all.Wait()
	})
}

func (w *Watcher) watch(ctx context.Context, watch Watch) {
	r := &rounds{Watcher: w, Watch: watch}
	for failed := 0; ; {
		look, halted := r.look(ctx)
		if ctx.Err() != nil {
			return
		}
		if failed++; !halted {
			failed = 0
		}
		look.Next = pause(watch.Every, failed, look.Err)
		w.Done(look)
		select {
		case <-ctx.Done():
			return
		case <-time.After(look.Next):
		}
	}
}

const (
	maxPause  = 10 * time.Minute // between looks that fail
	maxHint   = 15 * time.Minute // that the provider may ask for
	soonAgain = 2 * time.Second  // when the failure is our own
)

// pause is the time until the next look. Several failures in a row make it longer; but what is
// seldom looked at is tried again sooner.
func pause(every time.Duration, failed int, err error) time.Duration {
	d := every
	if failed > 0 {
		d = min(min(every, time.Minute)<<min(failed-1, 20), maxPause)
	}
	if errors.As(err, new(*NotStored)) {
		d = min(every, soonAgain)
	}
	d = scatter(d*85/100, d*3/10)
	if later, ok := errors.AsType[*Later](err); ok && later.After > 0 {
		hint := min(later.After, maxHint)
		d = max(d, scatter(hint, hint/10))
	}
	return d
}

// scatter adds something up to more, so that relays do not march in step.
func scatter(d, more time.Duration) time.Duration {
	return d + rand.N(more+1) //nolint:gosec // chance is no secret here
}
