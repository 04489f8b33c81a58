package togethersim

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// A Fact is something that happens in the world and that a watcher has to tell.
type Fact struct {
	Type          string // such as fine_tune.completed
	Resource      string // the id of the job, or the name of the model
	Discriminator string // tells facts of one type and resource apart; see [ID]
	// ID is the event's id. That of fine_tune.restarted counts entries of one time from 1. It
	// is empty for model.added and model.removed: their discriminator is the day on which the
	// observer has seen them first, so that a model that comes twice on one day is one event.
	ID string
	// At is when it happened, by the time that the API gives for it; where it gives none,
	// the moment itself, of which an observer knows only when he looked.
	At time.Time
	// From Since on every look can see it, and none can from Until on; zero if it stays. A
	// batch that is IN_PROGRESS shows only as long as it is. A checkpoint may be seen a little
	// earlier in the log than in the list.
	Since, Until time.Time
	// Data is what a consumer should see, nil standing for null. An output_url is given
	// without the base of the API.
	Data map[string]any
	// Vague are members of Data that depend on when one looked: a loss that arrives after
	// its checkpoint, or one of two rows that are merged.
	Vague []string
}

// ID is the id of the event for a fact.
func ID(kind, resource, discriminator string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{"v1", "together", kind, resource, discriminator}, "\x1f")))
	return "evt_" + hex.EncodeToString(sum[:16])
}

// Facts are all facts that show after one moment and up to another, the other included,
// in the order in which they show. Both may lie in the future. Whether anybody cares about a
// model that is deprecated is not for the world to know.
func (w *World) Facts(after, until time.Time) []Fact {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.grow(until)
	var all []Fact
	for _, j := range w.all() {
		all = append(all, truth(j)...)
	}
	for _, m := range w.models {
		all = append(all, m.truth()...)
	}
	all = slices.DeleteFunc(all, func(f Fact) bool { return !f.Since.After(after) || f.Since.After(until) })
	slices.SortStableFunc(all, func(a, b Fact) int {
		return cmp.Or(a.Since.Compare(b.Since), a.At.Compare(b.At))
	})
	return all
}

// truth are the facts of a job, with what is the same for all of them filled in.
func truth(j job) []Fact {
	s := j.base()
	var facts []Fact
	for _, f := range j.truth() {
		f.Resource = s.ID
		f.ID = ID(f.Type, f.Resource, f.Discriminator)
		f.Since = later(f.Since, f.At)
		if gone := s.Deleted; !gone.IsZero() {
			if !f.Since.Before(gone) {
				continue
			}
			if f.Until.IsZero() || f.Until.After(gone) {
				f.Until = gone
			}
		}
		facts = append(facts, f)
	}
	return facts
}
