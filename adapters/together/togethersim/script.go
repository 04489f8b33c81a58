package togethersim

import (
	"slices"
	"time"
)

// A Script says which states a job goes through, and when.
type Script struct {
	ID      string    // empty: one is made up
	Stages  []Stage   // in order of time; the job is made when the first begins. None: it begins now
	Deleted time.Time // from then on nobody knows of it; zero for never
}

// A Stage is a state, and when the job enters it.
type Stage struct {
	At     time.Time
	Status string
}

type job interface {
	base() *Script
	cut(after time.Time)
	truth() []Fact
}

func (s *Script) base() *Script { return s }

func (s *Script) created() time.Time { return s.Stages[0].At }

// there says whether the API knows the job at that moment.
func (s *Script) there(now time.Time) bool {
	return !now.Before(s.created()) && (s.Deleted.IsZero() || now.Before(s.Deleted))
}

// stage is where the job stands at that moment, and which stage comes after it; the zero
// stage if none does.
func (s *Script) stage(now time.Time) (at, next Stage) {
	i := 0
	for i+1 < len(s.Stages) && !now.Before(s.Stages[i+1].At) {
		i++
	}
	if i+1 < len(s.Stages) {
		next = s.Stages[i+1]
	}
	return s.Stages[i], next
}

// enters is when the job is in that state first, and when that ends; ok is false if it never is.
func (s *Script) enters(status string) (from, until time.Time, ok bool) {
	for i, stage := range s.Stages {
		if stage.Status != status {
			continue
		}
		if i+1 < len(s.Stages) {
			until = s.Stages[i+1].At
		}
		return stage.At, until, true
	}
	return time.Time{}, time.Time{}, false
}

// ends is the last stage.
func (s *Script) ends() Stage { return s.Stages[len(s.Stages)-1] }

func (s *Script) cut(after time.Time) {
	s.Stages = slices.DeleteFunc(s.Stages, func(st Stage) bool { return st.At.After(after) })
}

// find returns the job of that id, if the API knows it at that moment.
func find[T job](all []T, id string, now time.Time) (found T, ok bool) {
	for _, j := range all {
		if s := j.base(); s.ID == id && s.there(now) {
			return j, true
		}
	}
	return found, false
}

// shown are the jobs that the API knows at that moment, oldest first.
func shown[T job](all []T, now time.Time) []T {
	var some []T
	for _, j := range all {
		if j.base().there(now) {
			some = append(some, j)
		}
	}
	return some
}

func inOrder[T job](all []T) {
	slices.SortStableFunc(all, func(a, b T) int { return a.base().created().Compare(b.base().created()) })
}

// row is a JSON object that is about to be shown.
type row = map[string]any

// stamp is a time the way most of the API writes it, and null for no time.
func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return rfc3339(t)
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// null is null for the empty text.
func null(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// later is the later of the two.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
