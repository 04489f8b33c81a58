package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
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

// A Ledger keeps what the watcher remembers, so that another one can go on with it.
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

// A Look is what became of one look at a resource.
type Look struct {
	Resource string
	Jobs     int       // that the provider has listed
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
	Done    func(Look)
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

// rounds are the looks at one resource, one after the other.
type rounds struct {
	*Watcher
	Watch
	marks map[string]Entry // nil until they are loaded; that of the baseline is among them
	round int
	broke string // the job at which the last look was broken off, if it was: the next begins behind it
	// How often in a row the details of a job could not be had, and the round before which
	// they are not asked for again.
	failed, resting map[string]int
	// Until the baseline is set: the jobs that were there at the first look, and how many
	// looks have failed to learn about one.
	old   map[string]bool
	tries map[string]int
}

// baseline is the id under which it is marked that a resource's baseline is set.
const baseline = ""

const (
	liveRounds = 5  // how often a live job is looked at closely without a change
	maxTrouble = 5  // jobs in trouble, one after the other, before the look is broken off
	maxRest    = 10 // rounds in which a job in trouble is left alone
)

// look looks at the resource once. It is halted if the provider, the log or the ledger
// has to be left alone for a while; trouble with single jobs does not halt it.
func (r *rounds) look(ctx context.Context) (look Look, halted bool) {
	began := time.Now()
	look = Look{Resource: r.Name}
	defer func() { look.Took = time.Since(began) }()
	if r.marks == nil || r.Registered { // somebody may have marked a job
		if r.marks, look.Err = r.Ledger.Load(ctx, r.Name); look.Err != nil {
			r.marks = nil
			return look, true
		}
	}
	known := 0
	for id, e := range r.marks {
		if id != baseline && !e.Over {
			known++
		}
	}
	jobs, err := r.Resource.List(ctx, known)
	if err != nil {
		look.Err = err
		return look, true
	}
	look.Jobs = len(jobs)
	r.round++
	_, set := r.marks[baseline]
	if r.Registered {
		look.Jobs, set = known, true
	}
	if !set && r.old == nil {
		r.old, r.tries = map[string]bool{}, map[string]int{}
		for _, job := range jobs {
			r.old[job.ID] = true
		}
	}
	trouble := 0
	bad := func(id string, asked bool, err error) (halt bool) {
		switch {
		case err == nil && asked:
			trouble = 0
		case err != nil && r.failed[id] <= maxTrouble: // else it says more of the job than of the provider
			trouble++
		}
		if err == nil {
			return false
		}
		look.Err = errors.Join(look.Err, err)
		return trouble >= maxTrouble || ctx.Err() != nil || r.marks == nil ||
			errors.As(err, new(*Later)) || errors.As(err, new(*NotStored))
	}
	if at := slices.IndexFunc(jobs, func(j Job) bool { return j.ID == r.broke }); at >= 0 {
		jobs = slices.Concat(jobs[at+1:], jobs[:at+1])
	}
	r.broke = ""
	listed := make(map[string]bool, len(jobs))
	for _, job := range jobs {
		if listed[job.ID] {
			continue
		}
		listed[job.ID] = true
		if r.round < r.resting[job.ID] {
			continue
		}
		asked, err := r.visit(ctx, job, &look)
		r.rest(job.ID, asked, err)
		if bad(job.ID, asked, err) {
			r.broke = job.ID
			return look, true
		}
	}
	for id, e := range r.marks {
		if id == baseline || e.Over || listed[id] || r.round < r.resting[id] {
			continue
		}
		err := r.miss(ctx, id, e, &look)
		r.rest(id, true, err)
		if bad(id, true, err) {
			return look, true
		}
	}
	if !set && look.Err == nil {
		r.old, r.tries = nil, nil
		if bad(baseline, false, r.save(ctx, baseline, Mark{Over: true, First: began})) {
			return look, true
		}
	}
	return look, false
}

// visit looks closely at a job if there may be something new about it, and says whether it
// did.
func (r *rounds) visit(ctx context.Context, job Job, look *Look) (bool, error) {
	e, known := r.marks[job.ID]
	switch {
	case !known && r.old[job.ID]:
		return true, r.settle(ctx, job, look)
	case !known: // some facts are told apart by the day on which they were seen first
		e.First = time.Now()
	case !e.Gone.IsZero(): // it is back
		if e.Over { // and begins anew
			e.First, e.Told, e.Blind = time.Now(), nil, true
		}
		e.Gone, e.Over, e.Change = time.Time{}, false, ""
	case e.Over, e.Change == job.Change && (!job.Live || r.round%liveRounds != 0):
		return false, nil
	}
	if err := r.save(ctx, job.ID, e.Mark); err != nil {
		return true, err
	}
	return true, r.follow(ctx, job, e.Mark, look)
}

// rest leaves a job alone for some rounds whose details cannot be had again and again.
func (r *rounds) rest(id string, asked bool, err error) {
	switch {
	case errors.As(err, new(*NotStored)): // that is not the job's fault
	case err != nil:
		if r.failed == nil {
			r.failed, r.resting = map[string]int{}, map[string]int{}
		}
		r.failed[id]++
		r.resting[id] = r.round + 1 + min(r.failed[id]/3, maxRest)
	case asked:
		delete(r.failed, id)
		delete(r.resting, id)
	}
}

// follow tells what is new about a job. If its past was not known at the first look, what
// happened before that is not news, but for the end of it.
func (r *rounds) follow(ctx context.Context, job Job, mark Mark, look *Look) error {
	facts, err := r.Resource.Tell(ctx, job, mark)
	if err != nil {
		err = fmt.Errorf("%s: %w", job.ID, err)
	}
	blind, ends := mark.Blind, len(facts)-1
	mark.Blind = blind && err != nil
	return r.tell(ctx, job, mark, facts, err, look, func(f Fact) bool {
		return !blind || job.Over && f.Key == facts[ends].Key || !f.Event.CloudEvent.Time().Before(mark.First)
	})
}

// settle makes a job part of the baseline: what has happened to it is not news, but for
// what lies within the look-back.
func (r *rounds) settle(ctx context.Context, job Job, look *Look) error {
	mark := Mark{First: time.Now()}
	since := mark.First.Add(-r.Back)
	if r.Back == 0 || job.Over && !job.Updated.IsZero() && job.Updated.Before(since) {
		if job.Over {
			mark.Change, mark.Over = job.Change, true
			return r.save(ctx, job.ID, mark)
		}
		job.Brief = true
	}
	mark.Waits = r.tries[job.ID]
	facts, err := r.Resource.Tell(ctx, job, mark)
	if err != nil && r.tries[job.ID] < MaxWaits { // facts that are not seen now would look new the next time
		r.tries[job.ID]++
		return fmt.Errorf("%s: %w", job.ID, err)
	}
	if err != nil { // what can be seen of its past later is told apart by its time
		mark.Blind = true
		return r.save(ctx, job.ID, mark)
	}
	mark.Waits = GiveUp // nothing of the past is waited for
	return r.tell(ctx, job, mark, facts, nil, look, func(f Fact) bool {
		return f.Ahead || r.Back > 0 && !job.Brief && !f.Event.CloudEvent.Time().Before(since)
	})
}

// miss is for a job that is not listed any more. Lists have been seen to lack what is
// there, so it is asked for, and gone only when it was missed twice.
func (r *rounds) miss(ctx context.Context, id string, e Entry, look *Look) error {
	job, err := r.Resource.Find(ctx, id)
	switch {
	case err == nil:
		_, err = r.visit(ctx, job, look)
		return err
	case !errors.Is(err, ErrGone):
		return fmt.Errorf("look for %s: %w", id, err)
	case e.Gone.IsZero():
		e.Gone = time.Now()
		return r.save(ctx, id, e.Mark)
	}
	return r.follow(ctx, Job{ID: id, Gone: true, Over: true, Change: e.Change}, e.Mark, look)
}

// tell stores the facts that are news, and marks the job then. The error partial says that
// there may be more facts than these.
func (r *rounds) tell(ctx context.Context, job Job, mark Mark, facts []Fact, partial error, look *Look, news func(Fact) bool) error {
	waits := false
	trouble := partial
	mark.Told = slices.Clip(mark.Told)
	for i, fact := range facts {
		if mark.Has(fact.Key) {
			continue
		}
		if news(fact) {
			if waits = fact.Wait && mark.Waits < MaxWaits; waits {
				look.Missing += len(facts) - i
				break // what came after it is told after it
			}
			receipt, err := r.store(ctx, fact.Event)
			if errors.As(err, new(*NotStored)) {
				look.Missing += len(facts) - i
				return errors.Join(trouble, err, r.save(ctx, job.ID, mark))
			}
			if err != nil {
				trouble = errors.Join(trouble, err) // it will never do better, and must not hold up the others
			} else {
				look.Told = append(look.Told, receipt)
			}
		}
		mark.Told = append(mark.Told, fact.Key)
	}
	switch {
	case waits:
		mark.Waits, mark.Change = mark.Waits+1, "" // to be looked at again
	case partial != nil:
		mark.Waits, mark.Change = min(mark.Waits+1, GiveUp), ""
	default:
		mark.Waits, mark.Change, mark.Over = 0, job.Change, job.Over
	}
	return errors.Join(trouble, r.save(ctx, job.ID, mark))
}

func (r *rounds) store(ctx context.Context, ev Event) (Receipt, error) {
	receipt := Receipt{ID: ev.CloudEvent.ID(), Type: ev.Type}
	if err := r.Check(ev); err != nil {
		return receipt, fmt.Errorf("%s of %s: %w", ev.Type, ev.Resource, err)
	}
	var err error
	receipt.Stored, err = r.Log.Append(ctx, ev)
	return receipt, err
}

// save marks a job, if there is something new to remember.
func (r *rounds) save(ctx context.Context, id string, mark Mark) error {
	old := r.marks[id]
	if old.Revision > 0 && same(old.Mark, mark) {
		return nil
	}
	revision, err := r.Ledger.Save(ctx, r.Name, id, mark, old.Revision)
	if err != nil {
		r.marks = nil // whatever is in the ledger now is what counts
		return err
	}
	r.marks[id] = Entry{mark, revision}
	return nil
}

func same(a, b Mark) bool {
	return a.Change == b.Change && a.Over == b.Over && a.Waits == b.Waits && a.Blind == b.Blind &&
		a.First.Equal(b.First) && a.Gone.Equal(b.Gone) && slices.Equal(a.Told, b.Told)
}
