package relay_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"together-relay/relay"
	"together-relay/relay/relaytest"
)

// A world is a watcher and all that it touches. Its clock is that of synctest.
type world struct {
	relay.Watcher
	provider relaytest.Provider
	log      relaytest.Log
	ledger   relaytest.Ledger

	mu    sync.Mutex
	looks []relay.Look
}

const every = time.Minute

func newWorld() *world {
	w := &world{}
	w.Watcher = relay.Watcher{
		Watches: []relay.Watch{{Name: "jobs", Resource: &w.provider, Every: every}},
		Log:     &w.log, Ledger: &w.ledger, Turn: relaytest.Turn{},
		Check: func(relay.Event) error { return nil },
		Done: func(l relay.Look) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.looks = append(w.looks, l)
		},
	}
	return w
}

// watch runs part beside the watcher and ends both.
func (w *world) watch(t *testing.T, part func()) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		synctest.Wait()
		part()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// next waits for n more looks.
func (w *world) next(n int) {
	_, have := w.last()
	for now := have; now < have+n; _, now = w.last() {
		<-time.After(time.Second)
		synctest.Wait()
	}
}

// last is the last look, and how many there were.
func (w *world) last() (relay.Look, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looks[len(w.looks)-1], len(w.looks)
}

func (w *world) stored() []string {
	var ids []string
	for _, ev := range w.log.Events() {
		ids = append(ids, ev.CloudEvent.ID())
	}
	return ids
}

func (w *world) want(t *testing.T, ids ...string) {
	t.Helper()
	if diff := cmp.Diff(ids, w.stored()); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func TestWatcherTellsWhatIsNewSinceTheFirstLook(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.provider.End("old", "created", "completed")
	w.provider.Happen("running", "created", "running")
	w.watch(t, func() {
		w.want(t)
		if n := w.provider.Asked("tell old"); n != 0 {
			t.Errorf("asked %d times for details of a job that was over", n)
		}
		w.provider.End("running", "checkpoint", "completed")
		w.provider.End("new", "created", "completed")
		w.next(1)
		w.want(t, "new created", "new completed", "running checkpoint", "running completed")
		asked := w.provider.Asked("tell new")
		w.next(3)
		w.want(t, "new created", "new completed", "running checkpoint", "running completed")
		if n := w.provider.Asked("tell new"); n != asked {
			t.Error("asked for details of a job without news")
		}
	})
}

func TestWatcherLooksBack(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.Back = 100 * 365 * 24 * time.Hour // events of the fakes are of 2026, the clock begins at 2000
	w.provider.End("old", "created", "completed")
	w.watch(t, func() { w.want(t, "old created", "old completed") })
}

func TestWatcherOneBadJobHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.watch(t, func() {
		w.provider.Stick("bad", errors.New("500"))
		w.provider.Happen("bad", "created")
		w.provider.Happen("good", "created")
		w.next(1)
		w.want(t, "good created")
		if look, _ := w.last(); look.Err == nil || look.Next > every*6/5 {
			t.Errorf("look = %+v, want the error, and no pause", look)
		}
		w.provider.Stick("bad", nil)
		w.next(1)
		w.want(t, "good created", "bad created")
	})
}

// However many jobs are in trouble, and whatever pause their details ask for, the others
// have their turn.
func TestWatcherTroubleStarvesNobody(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.watch(t, func() {
		for i := range 12 {
			id := fmt.Sprint("bad", i)
			w.provider.Stick(id, errors.New("500"))
			w.provider.Happen(id, "created")
		}
		w.provider.Stick("bad9", &relay.Later{Cause: errors.New("503"), After: time.Minute})
		w.provider.Happen("good", "created")
		w.provider.Happen("zebra", "created")
		w.next(4)
		w.want(t, "good created", "zebra created")
		asked := w.provider.Asked("tell bad0")
		w.next(30)
		if n := w.provider.Asked("tell bad0") - asked; n < 2 || n > 12 {
			t.Errorf("asked %d times in 30 looks for what cannot be had", n)
		}
		if look, _ := w.last(); look.Next > 2*every {
			t.Errorf("the others wait %s for those in trouble", look.Next)
		}
	})
}

// A job whose details cannot be had must not keep the baseline open for ever.
func TestWatcherBaselineWithBadJob(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.provider.Past("old")
	w.provider.Happen("bad", "old")
	w.provider.Stick("bad", errors.New("500"))
	w.watch(t, func() {
		w.provider.Happen("new", "created")
		w.next(1)
		w.want(t, "new created")
		w.next(relay.MaxWaits) // by now the baseline is set, and the past of the job is not known
		w.provider.Stick("bad", nil)
		w.provider.End("bad", "checkpoint", "completed")
		w.next(3)
		w.want(t, "new created", "bad checkpoint", "bad completed")
	})
}

// An outage of the log while a job is told does not make news of what was not told by then.
func TestWatcherBlindJobAndOutage(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.provider.Past("old")
	w.provider.Happen("bad", "created")
	w.provider.Stick("bad", errors.New("500"))
	w.watch(t, func() {
		w.next(relay.MaxWaits + 1) // by now the past of the job is not known
		w.provider.Happen("bad", "old")
		w.provider.Stick("bad", nil)
		w.log.Fail(relaytest.ErrAway)
		w.next(3)
		w.log.Fail(nil)
		w.next(3)
		w.want(t, "bad created")
	})
}

func TestWatcherLeavesTheProviderAlone(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.watch(t, func() {
		pauseAfter := func(err error, n int) time.Duration {
			w.provider.Fail(err)
			w.next(n)
			look, _ := w.last()
			return look.Next
		}
		if d := pauseAfter(errors.New("502"), 4); d < 6*every || d > 10*every {
			t.Errorf("after four failures the pause is %s, want about eight minutes", d)
		}
		if d := pauseAfter(errors.New("502"), 10); d > 12*time.Minute {
			t.Errorf("after many failures the pause is %s, want at most ten minutes and some", d)
		}
		w.provider.Fail(nil)
		w.next(1)
		if d := pauseAfter(&relay.Later{Cause: errors.New("429"), After: 7 * time.Minute}, 1); d < 7*time.Minute || d > 8*time.Minute {
			t.Errorf("asked for seven minutes, the pause is %s", d)
		}
		if d := pauseAfter(&relay.Later{Cause: errors.New("429"), After: 24 * time.Hour}, 1); d > 17*time.Minute {
			t.Errorf("asked for a day, the pause is %s, want a bound", d)
		}
	})
}

func TestWatcherMissedJobs(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.provider.Past("created")
	w.provider.Happen("hidden", "created")
	w.provider.Happen("removed", "created")
	w.watch(t, func() {
		w.provider.Hide("hidden", true)
		w.provider.Remove("removed")
		w.next(1)
		w.want(t) // missed once
		w.next(1)
		w.want(t, "removed gone")
		w.provider.End("hidden", "completed")
		w.next(1)
		w.want(t, "removed gone", "hidden completed")
		w.provider.Happen("removed", "created", "back")
		w.next(1)
		w.want(t, "removed gone", "hidden completed", "removed back")
	})
}

func TestWatcherWaitsForMoreButNotForEver(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.provider.Happen("job", "created")
	w.watch(t, func() {
		w.provider.Happen("job", "checkpoint")
		w.provider.Wait("job", true)
		w.next(relay.MaxWaits)
		w.want(t)
		w.next(1)
		w.want(t, "job checkpoint")
	})
}

func TestWatcherOutageOfTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.watch(t, func() {
		w.log.Fail(relaytest.ErrAway)
		w.provider.End("job", "created", "completed")
		w.next(3)
		if look, _ := w.last(); look.Missing != 2 || look.Next > 3*time.Second {
			t.Errorf("look = %+v, want two facts missing, and another try soon", look)
		}
		w.log.Fail(nil)
		w.next(1)
		w.want(t, "job created", "job completed")
	})
}

// What the stream can never hold does not hold up what comes after it.
func TestWatcherUnusableFact(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.Check = func(ev relay.Event) error {
		if ev.Fact == "odd" {
			return &relay.Unusable{Reason: relay.ReasonSchema}
		}
		return nil
	}
	w.watch(t, func() {
		w.provider.End("job", "odd", "completed")
		w.next(1)
		if look, _ := w.last(); look.Err == nil {
			t.Error("an unusable fact is no error")
		}
		w.next(2)
		w.want(t, "job completed")
		if n := w.provider.Asked("tell job"); n != 1 {
			t.Errorf("asked %d times for the job, want once", n)
		}
	})
}

func TestWatcherWebhookWasFirst(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.watch(t, func() {
		if _, err := w.log.Append(t.Context(), relaytest.Shared("webhook", "evt_1", "job", "completed")); err != nil {
			t.Fatal(err)
		}
		w.provider.End("job", "created", "completed")
		w.next(2)
		w.want(t, "evt_1", "job created")
	})
}

// Wherever the watcher dies, another one goes on, and each fact is stored once.
func TestWatcherDiesAnywhere(t *testing.T) {
	t.Parallel()
	const points = 1000
	for seed := range uint64(points) {
		random := rand.New(rand.NewPCG(seed, 1))
		w := newWorld()
		w.provider.Happen("j0", "created")
		var want []string
		synctest.Test(t, func(t *testing.T) {
			// The baseline is set; from here on the watcher may die before or after any call.
			w.live(t, nil)
			left := random.IntN(12)
			for i := range 4 {
				job := fmt.Sprint("j", random.IntN(3))
				name := fmt.Sprint("fact", i)
				w.provider.Happen(job, name)
				want = append(want, job+" "+name)
				w.live(t, &mortal{left: &left, random: random})
			}
			w.live(t, nil)
		})
		got := w.stored()
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d: (-want +got):\n%s", seed, diff)
		}
	}
}

// live runs a watcher for one look. With a mortal it may die in it.
func (w *world) live(t *testing.T, m *mortal) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	next := w.Watcher
	next.Log, next.Ledger = &w.log, &w.ledger
	if m != nil {
		m.kill = cancel
		next.Log, next.Ledger = dyingLog{&w.log, m}, dyingLedger{&w.ledger, m}
	}
	next.Done = func(relay.Look) { cancel() }
	if err := next.Run(ctx); err != nil {
		t.Error(err)
	}
}

// A mortal dies after some calls: the call is not made, or it is made and nobody learns of it.
type mortal struct {
	left   *int
	random *rand.Rand
	kill   context.CancelFunc
	dead   bool
}

var errDead = errors.New("dead")

// call makes the call, unless the mortal is dead.
func (m *mortal) call(do func() error) error {
	if m.dead {
		return errDead
	}
	if *m.left--; *m.left == 0 {
		m.dead = true
		m.kill()
		*m.left = 1 + m.random.IntN(12)
		if m.random.IntN(2) == 0 {
			_ = do()
		}
		return errDead
	}
	return do()
}

type dyingLog struct {
	relay.Log
	*mortal
}

func (l dyingLog) Append(ctx context.Context, ev relay.Event) (stored relay.Stored, err error) {
	err = l.call(func() (err error) { stored, err = l.Log.Append(ctx, ev); return err })
	if errors.Is(err, errDead) {
		err = &relay.NotStored{Cause: err}
	}
	return stored, err
}

type dyingLedger struct {
	relay.Ledger
	*mortal
}

func (l dyingLedger) Save(ctx context.Context, resource, id string, mark relay.Mark, revision uint64) (next uint64, err error) {
	err = l.call(func() (err error) { next, err = l.Ledger.Save(ctx, resource, id, mark, revision); return err })
	return next, err
}

// register marks a job, as whoever wants it watched does.
func (w *world) register(t *testing.T, id string) {
	t.Helper()
	if _, err := w.ledger.Save(t.Context(), "jobs", id, relay.Mark{First: time.Now()}, 0); err != nil {
		t.Fatal(err)
	}
}

func TestWatcherRegistered(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.Watches[0].Registered = true
	for _, id := range []string{"running", "stranger", "over", "lost", "late"} {
		w.provider.Hide(id, true)
	}
	w.provider.Happen("running", "created")
	w.provider.End("stranger", "created", "completed")
	w.provider.End("over", "completed")
	w.watch(t, func() {
		w.next(2)
		w.want(t)
		for _, id := range []string{"running", "stranger", "over"} {
			if n := w.provider.Asked("find " + id); n != 0 {
				t.Errorf("asked %d times for %s, which nobody has registered", n, id)
			}
		}
		w.register(t, "running")
		w.register(t, "over")
		w.register(t, "late")
		w.next(1)
		w.provider.Happen("late", "created") // it was missed once
		w.next(1)
		w.provider.End("running", "completed")
		w.register(t, "lost")
		w.next(3)
		got := w.stored()
		slices.Sort(got)
		want := []string{"late created", "over completed", "running completed", "running created"}
		if diff := cmp.Diff(want, slices.DeleteFunc(got, func(id string) bool { return id == "lost gone" })); diff != "" {
			t.Errorf("stored (-want +got):\n%s", diff)
		}
		asked := map[string]int{}
		ids := []string{"running", "over", "lost"}
		for _, id := range ids {
			asked[id] = w.provider.Asked("find " + id)
		}
		if asked["lost"] != 2 {
			t.Errorf("asked %d times for what is not there, want twice", asked["lost"])
		}
		w.next(3)
		for _, id := range ids {
			if n := w.provider.Asked("find " + id); n != asked[id] {
				t.Errorf("asked for %s, which is over", id)
			}
		}
		if look, _ := w.last(); look.Jobs != 1 || look.Err != nil {
			t.Errorf("look = %+v, want one job", look)
		}
		marks, err := w.ledger.Load(t.Context(), "jobs")
		if _, set := marks[""]; set || err != nil {
			t.Errorf("a baseline where nothing is listed, %v", err)
		}
	})
}

// However many of the registered jobs cannot be had, the others have their turn.
func TestWatcherOfRegisteredTroubleStarvesNobody(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.Watches[0].Registered = true
	w.watch(t, func() {
		for i := range 12 {
			id := fmt.Sprint("bad", i)
			w.provider.Lose(id, errors.New("403"))
			w.register(t, id)
		}
		w.next(20)
		asked := w.provider.Asked("find bad0")
		w.provider.Hide("good", true)
		w.provider.Happen("good", "created")
		w.register(t, "good")
		w.next(1)
		w.want(t, "good created")
		w.next(29)
		if n := w.provider.Asked("find bad0") - asked; n < 2 || n > 12 {
			t.Errorf("asked %d times in 30 looks for what cannot be had", n)
		}
		if look, _ := w.last(); look.Next > 2*every {
			t.Errorf("the others wait %s for those in trouble", look.Next)
		}
	})
}

// Wherever the watcher of registered jobs dies, each fact is stored once.
func TestWatcherOfRegisteredDiesAnywhere(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 2))
		w := newWorld()
		w.Watches[0].Registered = true
		var want []string
		synctest.Test(t, func(t *testing.T) {
			left := 1 + random.IntN(8)
			for i := range 3 {
				id := fmt.Sprint("j", i)
				w.provider.Hide(id, true)
				w.provider.End(id, "created", "completed")
				w.register(t, id)
				want = append(want, id+" created", id+" completed")
				w.live(t, &mortal{left: &left, random: random})
			}
			w.live(t, nil)
		})
		got := w.stored()
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d: (-want +got):\n%s", seed, diff)
		}
	}
}
