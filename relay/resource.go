package relay

import (
	"context"
	"errors"
	"slices"
	"time"
)

// A Resource is one kind of thing at the provider that can be looked at again and again:
// its fine-tunes, its batches, its files. Each method blocks until the provider has
// answered; an error may be a [*Later]. The watcher calls them from one goroutine.
type Resource interface {
	// List asks once for all that there is; known is how many jobs were there before. A row
	// that cannot be read is left out and does not spoil the others.
	List(ctx context.Context, known int) ([]Job, error)
	// Tell says in order what has happened to the job up to now. What is in the mark already
	// may be told again or left out. Facts beside an error are good, and not all.
	Tell(ctx context.Context, job Job, mark Mark) ([]Fact, error)
	// Find asks for one job that the list does not show. Its error is [ErrGone] if there is none.
	Find(ctx context.Context, id string) (Job, error)
}

// A Ledger keeps what the watcher remembers, so that another one can go on with it. Its
// methods block for an answer, may be called for several resources at once, and fail with a
// [*NotStored] where trying again can help.
type Ledger interface {
	// Load returns all marks of a resource by the job's id.
	Load(ctx context.Context, resource string) (map[string]Entry, error)
	// Save writes a mark over the one of that revision, 0 for none, and returns the new
	// revision. It fails if somebody else has written since.
	Save(ctx context.Context, resource, id string, mark Mark, revision uint64) (uint64, error)
}

// A Turn lets one of several watchers work at a time.
type Turn interface {
	// Hold runs work whenever it is this watcher's turn. The context of the work ends when
	// the turn is lost. It blocks until ctx is done.
	Hold(ctx context.Context, work func(context.Context)) error
}

// A Job is one thing of a resource, as the provider shows it.
type Job struct {
	ID      string
	Change  string    // another text whenever there may be something new about the job
	Over    bool      // nothing more will happen to it
	Live    bool      // something may happen to it that does not show in Change
	Updated time.Time // when something happened to it last; zero if that is not known
	Gone    bool      // it was there and is no more; Row is empty
	Brief   bool      // for Tell: only the keys of the facts count, not what they say
	Row     []byte    // for the resource alone
}

// A Fact is something that has happened to a job.
type Fact struct {
	Event Event
	Key   string // its name among the facts of its job
	Ahead bool   // it speaks of what is to come, so that it is news whenever it is seen first
	Wait  bool   // the next look may know more of it
}

// A Mark is what the watcher remembers of a job.
type Mark struct {
	Change string    `json:"change,omitempty"` // when it was looked at last
	Over   bool      `json:"over,omitempty"`
	Told   []string  `json:"told,omitempty"`  // keys of the facts that are stored, or were there at the first look
	First  time.Time `json:"first"`           // when it was seen first
	Gone   time.Time `json:"gone,omitzero"`   // when it was missed first
	Waits  int       `json:"waits,omitempty"` // looks in a row that did not learn all
	Blind  bool      `json:"blind,omitempty"` // what happened to it before First is not news, and not known
}

// Has says whether the fact is known already.
func (m Mark) Has(key string) bool { return slices.Contains(m.Told, key) }

// An Entry is a mark in the ledger.
type Entry struct {
	Mark
	Revision uint64
}

// How many looks in a row have patience with a job.
const (
	MaxWaits    = 2  // a fact is held back for what it may still say
	MaxFailures = 5  // the end of a job is held back for details that cannot be had
	GiveUp      = 30 // details are asked for that cannot be had
)

// ErrGone says that the provider knows no such job.
var ErrGone = errors.New("no such job")

// ErrKeyRefused says that the provider does not take the API key.
var ErrKeyRefused = errors.New("the API key is refused")

// Later says that the provider wants to be left alone for a while.
type Later struct {
	Cause error
	After time.Duration // 0 if it does not say
}

func (e *Later) Error() string { return e.Cause.Error() }

func (e *Later) Unwrap() error { return e.Cause }
