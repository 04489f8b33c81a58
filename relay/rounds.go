package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

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
	old             map[string]bool // until the baseline is set: the jobs that were there at the first look
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
		r.old = map[string]bool{}
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
		r.old = nil
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
	return r.tell(ctx, job, mark, facts, err, look, func(f Fact) bool {
		return !mark.Blind || job.Over && f.Key == facts[len(facts)-1].Key || !f.Event.CloudEvent.Time().Before(mark.First)
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
	mark.Waits = r.failed[job.ID]
	facts, err := r.Resource.Tell(ctx, job, mark)
	if err != nil && mark.Waits < MaxWaits { // facts that are not seen now would look new the next time
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
		mark.Waits, mark.Change, mark.Over, mark.Blind = 0, job.Change, job.Over, false
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
