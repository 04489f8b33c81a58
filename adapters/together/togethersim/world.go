package togethersim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Config says what a world is like. The zero value of a field is what its comment says.
type Config struct {
	Seed   uint64
	Start  time.Time        // when the world's present begins; zero: when it is made
	Before time.Duration    // how much of the past it has, in which jobs have been made
	Now    func() time.Time // the world's clock; nil: the real one
	Key    string           // the one API key that is taken; empty: any
	Rates  Rates            // what arrives by itself; none: only what is added
	Models int              // in the catalogue at the start
	// Keep is how long what has arrived by itself stays after it is over; zero: for ever. The
	// world forgets it for good some time after that, so that a long life needs no more memory.
	Keep time.Duration
}

// Rates say how much arrives by itself, per hour.
type Rates struct {
	FineTunes, Batches, Evaluations, Files float64
	Models                                 float64 // changes of the catalogue
}

// Busy is a world with something of everything, and half a day of the past. What is over
// stays for a day.
func Busy(seed uint64) Config {
	return Config{
		Seed:   seed,
		Before: 12 * time.Hour,
		Rates:  Rates{FineTunes: 6, Batches: 8, Evaluations: 3, Files: 4, Models: 0.5},
		Models: 40,
		Keep:   24 * time.Hour,
	}
}

// A World holds scripted jobs. Its methods are safe for concurrent use.
type World struct {
	config Config

	mu          sync.Mutex
	slot        int // hours from the start, up to which all that arrives by itself is there
	forgot      int // the slot at which old jobs were forgotten last
	fineTunes   []*FineTune
	batches     []*Batch
	evaluations []*Evaluation
	files       []*File
	videos      []*Video
	queueJobs   []*QueueJob
	models      []*Model
	hooks       []row
	made        int // ids that were made up
	faults      Faults
	requests    map[string]int
}

// New makes a world.
func New(c Config) *World {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Start.IsZero() {
		c.Start = c.Now()
	}
	c.Start = c.Start.UTC().Truncate(time.Millisecond)
	w := &World{config: c, requests: map[string]int{}}
	w.slot = -int((c.Before + time.Hour - 1) / time.Hour)
	w.models = firstModels(c)
	return w
}

// Now is the time in the world.
func (w *World) Now() time.Time { return w.config.Now().UTC().Truncate(time.Millisecond) }

// grow sees to it that all is there that arrives by itself up to a moment, and may be more.
func (w *World) grow(until time.Time) {
	old := w.slot
	for ; !w.config.Start.Add(time.Duration(w.slot) * time.Hour).After(until); w.slot++ {
		w.arrive(w.slot)
	}
	if w.slot > old {
		w.sort()
	}
}

func (w *World) sort() {
	inOrder(w.fineTunes)
	inOrder(w.batches)
	inOrder(w.evaluations)
	inOrder(w.files)
	inOrder(w.videos)
	inOrder(w.queueJobs)
}

// arrive adds what arrives in an hour. It depends on the seed and the hour alone.
func (w *World) arrive(slot int) {
	begins := w.config.Start.Add(time.Duration(slot) * time.Hour)
	for kind, k := range []struct {
		rate float64
		plan func(dice)
	}{
		{w.config.Rates.FineTunes, func(d dice) { w.planFineTune(d) }},
		{w.config.Rates.Batches, func(d dice) { w.batches = append(w.batches, keep(w, planBatch(d))) }},
		{w.config.Rates.Evaluations, func(d dice) { w.evaluations = append(w.evaluations, keep(w, planEvaluation(d))) }},
		{w.config.Rates.Files, func(d dice) { w.files = append(w.files, keep(w, planFile(d))) }},
		{w.config.Rates.Models, func(d dice) { w.moveModels(d) }},
	} {
		d := roll(w.config.Seed, uint64(kind), uint64(int64(slot)))
		n := int(k.rate)
		if d.chance(k.rate - float64(n)) {
			n++
		}
		var at []time.Time
		for range n {
			at = append(at, begins.Add(d.span(0, time.Hour)))
		}
		slices.SortFunc(at, time.Time.Compare)
		for _, d.at = range at {
			k.plan(d)
		}
	}
}

// keep sets when a job that has arrived by itself goes.
func keep[T job](w *World, j T) T {
	if s := j.base(); w.config.Keep > 0 {
		s.Deleted = s.ends().At.Add(w.config.Keep)
	}
	return j
}

// forget drops jobs that have been gone for long.
func (w *World) forget(now time.Time) {
	if w.config.Keep <= 0 || w.forgot == w.slot {
		return
	}
	w.forgot = w.slot
	before := now.Add(-w.config.Keep)
	w.fineTunes = forget(w.fineTunes, before)
	w.batches = forget(w.batches, before)
	w.evaluations = forget(w.evaluations, before)
	w.files = forget(w.files, before)
}

func forget[T job](all []T, before time.Time) []T {
	return slices.DeleteFunc(all, func(j T) bool {
		gone := j.base().Deleted
		return !gone.IsZero() && gone.Before(before)
	})
}

// all are the jobs of all kinds.
func (w *World) all() []job {
	return slices.Concat(jobs(w.fineTunes), jobs(w.batches), jobs(w.evaluations), jobs(w.files), jobs(w.videos), jobs(w.queueJobs))
}

func jobs[T job](of []T) []job {
	all := make([]job, len(of))
	for i, j := range of {
		all[i] = j
	}
	return all
}

// AddFineTune adds a job with a script of its own and returns its id.
func (w *World) AddFineTune(f FineTune) string {
	return add(w, &w.fineTunes, &f, "pending", "ft-")
}

// AddBatch adds a batch with a script of its own and returns its id.
func (w *World) AddBatch(b Batch) string {
	return add(w, &w.batches, &b, "VALIDATING", "")
}

// AddEvaluation adds an evaluation with a script of its own and returns its id.
func (w *World) AddEvaluation(e Evaluation) string {
	return add(w, &w.evaluations, &e, "pending", "eval-")
}

// AddFile adds a file with a script of its own and returns its id.
func (w *World) AddFile(f File) string {
	return add(w, &w.files, &f, "PENDING", "file-")
}

func add[T job](w *World, all *[]T, j T, first, prefix string) string {
	now := w.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := j.base()
	if s.ID == "" {
		w.made++
		s.ID = prefix + roll(w.config.Seed, 1000, uint64(w.made)).uuid()
	}
	if len(s.Stages) == 0 {
		s.Stages = []Stage{{now, first}}
	}
	*all = append(*all, j)
	w.sort()
	return s.ID
}

// Move puts a job into a state from now on, and forgets what was to come after it. A model
// is moved to added, removed or deprecated. It panics if there is no such job now.
func (w *World) Move(id, status string) {
	now := w.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.grow(now)
	for _, m := range w.models {
		if m.ID == id {
			m.move(now, status)
			return
		}
	}
	j := w.must(id, now)
	j.cut(now)
	s := j.base()
	s.Stages = append(s.Stages, Stage{now, status})
}

// EditFineTune changes the script of a job. It panics if there is no such job now.
func (w *World) EditFineTune(id string, edit func(*FineTune)) { change(w, id, edit) }

// EditBatch changes the script of a batch. It panics if there is no such batch now.
func (w *World) EditBatch(id string, edit func(*Batch)) { change(w, id, edit) }

func change[T any](w *World, id string, edit func(*T)) {
	now := w.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.grow(now)
	t, ok := any(w.must(id, now)).(*T)
	if !ok {
		panic(fmt.Sprintf("togethersim: %s is of another kind", id))
	}
	edit(t)
}

// Delete makes the API forget a job from now on. It panics if there is no such job now.
func (w *World) Delete(id string) {
	now := w.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.grow(now)
	w.must(id, now).base().Deleted = now
}

func (w *World) must(id string, now time.Time) job {
	j, ok := find(w.all(), id, now)
	if !ok {
		panic(fmt.Sprintf("togethersim: there is no %s now", id))
	}
	return j
}

// dice are what chance in a world comes from. They fall the same way every time.
type dice struct {
	*rand.Rand
	at time.Time // when what is planned with them begins
}

func roll(seed, kind, n uint64) dice {
	return dice{Rand: rand.New(rand.NewPCG(seed, kind<<48^n))} //nolint:gosec // worlds are to repeat
}

func (d dice) chance(p float64) bool { return d.Float64() < p }

// span is a time between the two, in whole milliseconds.
func (d dice) span(low, high time.Duration) time.Duration {
	return (low + time.Duration(d.Int64N(int64(high-low)+1))).Truncate(time.Millisecond)
}

func (d dice) uuid() string {
	a, b := d.Uint64(), d.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>52, b&0xffffffffffff)
}

func (d dice) short() string { return fmt.Sprintf("%08x", d.Uint32()) }

func pick[T any](d dice, from []T) T { return from[d.IntN(len(from))] }
