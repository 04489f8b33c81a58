package relaytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/types"

	"together-relay/relay"
)

// A Provider is a [relay.Resource] in memory with failure dials. The zero value has no jobs.
type Provider struct {
	mu    sync.Mutex
	jobs  map[string]*job
	hide  map[string]bool
	fail  error
	stuck map[string]error
	lost  map[string]error
	past  map[string]bool
	asked map[string]int
}

type job struct {
	facts []string // what has happened, in order
	over  bool
	waits bool
}

// Happen makes something happen to a job, which begins to be with it.
func (p *Provider) Happen(id string, facts ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.jobs == nil {
		p.jobs = map[string]*job{}
	}
	if p.jobs[id] == nil {
		p.jobs[id] = &job{}
	}
	p.jobs[id].facts = append(p.jobs[id].facts, facts...)
}

// End makes something happen to a job, and nothing after it.
func (p *Provider) End(id string, facts ...string) {
	p.Happen(id, facts...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jobs[id].over = true
}

// Wait makes the newest fact of a job one of which more may be known soon.
func (p *Provider) Wait(id string, waits bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jobs[id].waits = waits
}

// Remove removes a job.
func (p *Provider) Remove(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.jobs, id)
}

// Hide leaves a job out of lists that is still there.
func (p *Provider) Hide(id string, hidden bool) { turn(p, &p.hide, id, hidden) }

// Fail makes lists fail; nil ends that.
func (p *Provider) Fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

// Stick makes the details of a job fail; nil ends that.
func (p *Provider) Stick(id string, err error) { turn(p, &p.stuck, id, err) }

// Lose makes the search for a job fail; nil ends that.
func (p *Provider) Lose(id string, err error) { turn(p, &p.lost, id, err) }

// Past dates the facts of that name back to before all clocks.
func (p *Provider) Past(name string) { turn(p, &p.past, name, true) }

// turn sets one of the dials.
func turn[T any](p *Provider, dial *map[string]T, name string, to T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if *dial == nil {
		*dial = map[string]T{}
	}
	(*dial)[name] = to
}

// Asked is how often something was asked for: "list", "find <id>", "tell <id>".
func (p *Provider) Asked(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[what]
}

func (p *Provider) note(what string) {
	if p.asked == nil {
		p.asked = map[string]int{}
	}
	p.asked[what]++
}

// List implements [relay.Resource].
func (p *Provider) List(context.Context, int) ([]relay.Job, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note("list")
	if p.fail != nil {
		return nil, p.fail
	}
	var jobs []relay.Job
	for _, id := range slices.Sorted(maps.Keys(p.jobs)) {
		if !p.hide[id] {
			jobs = append(jobs, p.job(id))
		}
	}
	return jobs, nil
}

func (p *Provider) job(id string) relay.Job {
	j := p.jobs[id]
	return relay.Job{ID: id, Over: j.over, Change: fmt.Sprint(len(j.facts))}
}

// Find implements [relay.Resource].
func (p *Provider) Find(_ context.Context, id string) (relay.Job, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note("find " + id)
	if err := p.lost[id]; err != nil {
		return relay.Job{}, err
	}
	if p.jobs[id] == nil {
		return relay.Job{}, relay.ErrGone
	}
	return p.job(id), nil
}

// Tell implements [relay.Resource]. An event's id is the job's and the fact's.
func (p *Provider) Tell(_ context.Context, j relay.Job, _ relay.Mark) ([]relay.Fact, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note("tell " + j.ID)
	if err := p.stuck[j.ID]; err != nil {
		return nil, err
	}
	if p.jobs[j.ID] == nil {
		return []relay.Fact{p.fact(j.ID, "gone")}, nil
	}
	var facts []relay.Fact
	for i, name := range p.jobs[j.ID].facts {
		fact := p.fact(j.ID, name)
		fact.Wait = p.jobs[j.ID].waits && i == len(p.jobs[j.ID].facts)-1
		facts = append(facts, fact)
	}
	return facts, nil
}

func (p *Provider) fact(id, name string) relay.Fact {
	ev := Shared("api", id+" "+name, id, name)
	if p.past[name] {
		ctx := ev.CloudEvent.Context.AsV1() // a copy
		ctx.Time = &types.Timestamp{Time: time.Unix(0, 0)}
		ev.CloudEvent.Context = ctx
	}
	return relay.Fact{Event: ev, Key: name}
}

// A Ledger is a [relay.Ledger] in memory. The zero value is empty.
type Ledger struct {
	mu    sync.Mutex
	fail  error
	last  uint64
	marks map[string]map[string]relay.Entry
}

// Fail makes every call fail; nil ends that.
func (l *Ledger) Fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

// ErrRace says that somebody else has written the mark.
var ErrRace = errors.New("somebody else was first")

// Load implements [relay.Ledger].
func (l *Ledger) Load(_ context.Context, resource string) (map[string]relay.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	marks := map[string]relay.Entry{}
	maps.Copy(marks, l.marks[resource])
	return marks, l.fail
}

// Save implements [relay.Ledger].
func (l *Ledger) Save(_ context.Context, resource, id string, mark relay.Mark, revision uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return 0, l.fail
	}
	if l.marks == nil {
		l.marks = map[string]map[string]relay.Entry{}
	}
	if l.marks[resource] == nil {
		l.marks[resource] = map[string]relay.Entry{}
	}
	if l.marks[resource][id].Revision != revision {
		return 0, ErrRace
	}
	l.last++
	mark.Told = slices.Clone(mark.Told)
	l.marks[resource][id] = relay.Entry{Mark: mark, Revision: l.last}
	return l.last, nil
}

// A Turn is a [relay.Turn] that is always this watcher's.
type Turn struct{}

// Hold implements [relay.Turn].
func (Turn) Hold(ctx context.Context, work func(context.Context)) error {
	work(ctx)
	return nil
}
