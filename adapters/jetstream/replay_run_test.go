package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"together-relay/relay/relaytest"
)

// silent is told how far a replay has got, and does not care.
func silent(Replay, error) {}

// replayer is one with a connection of its own.
func (h *teamHouse) replayer(t *testing.T) *Replayer {
	t.Helper()
	r, err := OpenReader(h.url, Auth{}, "TOGETHER", Patient())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	p, err := r.Replayer(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// begin plans a replay and begins it.
func (p *Replayer) begin(t *testing.T, c Choice) Replay {
	t.Helper()
	plan, err := p.Plan(t.Context(), c)
	if err == nil {
		plan, err = p.Begin(t.Context(), plan)
	}
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// run runs a replay to its end.
func (p *Replayer) run(t *testing.T, plan Replay) Replay {
	t.Helper()
	got, err := p.Run(t.Context(), plan, silent)
	if err != nil || got.State != ReplayDone {
		t.Fatalf("Run = %+v, %v", got, err)
	}
	return got
}

// copies lists the originals of the copies that are stored for a team, in order.
func (h *teamHouse) copies(t *testing.T, team string) []uint64 {
	t.Helper()
	c, err := openCursor(t.Context(), h.js, "TOGETHER_REPLAY", span{filters: []string{replaySubject(team, ">")}, batch: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	var all []uint64
	for {
		msg, _, ok, err := c.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return all
		}
		_, original := copyMarks(msg.Headers())
		all = append(all, original)
	}
}

// fill stores n events of each type, in turn.
func (h *teamHouse) fill(t *testing.T, n int, types ...string) {
	t.Helper()
	for i := range n {
		for _, typ := range types {
			h.append(t, typ, fmt.Sprintf("%s-%d-%d", typ, i, time.Now().UnixNano()))
		}
	}
}

func sequences(from, to, step uint64) []uint64 {
	var all []uint64
	for seq := from; seq <= to; seq += step {
		all = append(all, seq)
	}
	return all
}

func TestReplay(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", "fine_tune.*", "batch.done"), newTeam("billing", ">"))
	h.fill(t, 10, "batch.done", "fine_tune.failed", "model.deprecated") // 1 to 30
	before := map[string]*jetstream.ConsumerInfo{"ml": h.info(t, "ml"), "billing": h.info(t, "billing")}
	p := h.replayer(t)
	for _, c := range []struct {
		name   string
		choice Choice
		want   []uint64
	}{
		{"beyond the end", Choice{From: 29, To: 99}, []uint64{29}},
		{"what the team subscribes to", Choice{From: 4, To: 30}, slices.DeleteFunc(sequences(4, 30, 1), func(s uint64) bool { return s%3 == 0 })},
		{"a type", Choice{Types: []string{"batch.*"}, To: 30}, sequences(1, 30, 3)},
		{"two types", Choice{Types: []string{"batch.done", "fine_tune.>"}, To: 6}, []uint64{1, 2, 4, 5}},
		{"a resource", Choice{Resource: "ft-1", From: 28, To: 30}, []uint64{28, 29}},
		{"whatever it is", Choice{Any: true, From: 26, To: 28}, []uint64{26, 27, 28}},
		{"another type", Choice{Any: true, Types: []string{"model.deprecated"}, To: 6}, []uint64{3, 6}},
	} {
		c.choice.Team = "ml"
		already := len(h.copies(t, "ml"))
		plan := p.begin(t, c.choice)
		h.append(t, "batch.done", "later "+c.name) // is not part of it
		got := p.run(t, plan)
		if diff := cmp.Diff(c.want, h.copies(t, "ml")[already:]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if got.Copied != uint64(len(c.want)) || got.Total != got.Copied || got.Last != c.want[len(c.want)-1] {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	if copies := h.copies(t, "billing"); len(copies) > 0 {
		t.Errorf("another team got %v", copies)
	}
	if last := h.state(t, "TOGETHER").LastSeq; last != 37 {
		t.Errorf("the stream of events ends with %d", last)
	}
	for name, old := range before {
		if now := h.info(t, name); now.Delivered.Stream != old.Delivered.Stream || now.AckFloor.Stream != old.AckFloor.Stream {
			t.Errorf("%s was at %+v and is at %+v", name, old, now)
		}
	}
	for name := range h.js.StreamNames(t.Context()).Name() {
		stream, err := h.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Consumers; strings.HasPrefix(name, "TOGETHER") && n > 2 {
			eventually(t, name+" keeps no reader", func() bool { info, err := stream.Info(t.Context()); return err == nil && info.State.Consumers <= 2 })
		}
	}
	all, err := p.Replays(t.Context())
	if err != nil || len(all) != 7 || all[0].State != ReplayDone || !slices.ContainsFunc(all, func(r Replay) bool { return slices.Equal(r.Types, []string{"batch.*"}) }) {
		t.Errorf("Replays = %+v, %v", all, err)
	}
	if !slices.IsSortedFunc(all, func(a, b Replay) int { return a.Started.Truncate(time.Second).Compare(b.Started.Truncate(time.Second)) }) {
		t.Errorf("Replays are not sorted: %+v", all)
	}
}

// The team takes live events and copies at the same time, from a consumer each.
func TestReplayBesideLiveEvents(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	team := newTeam("ml", ">")
	team.MaxAckPending = 1000
	h.relay(t, ProvisionCreate, team)
	h.fill(t, 50, "batch.done")
	h.take(t, "ml", 50)
	p := h.replayer(t)
	plan := p.begin(t, Choice{Team: "ml", From: 1, Rate: 500})
	var working sync.WaitGroup
	working.Go(func() { h.fill(t, 50, "batch.done") })
	working.Go(func() { p.run(t, plan) })
	live, copies := 0, 0
	for live+copies < 100 {
		for _, from := range TeamStreams("TOGETHER") {
			c, err := h.js.Consumer(t.Context(), from, "ml")
			if err != nil {
				t.Fatal(err)
			}
			batch, err := c.FetchNoWait(10)
			if err != nil {
				t.Fatal(err)
			}
			for msg := range batch.Messages() {
				if err := msg.DoubleAck(t.Context()); err != nil {
					t.Error(err)
				}
				if msg.Headers().Get("ce-replay") == "" {
					live++
				} else {
					copies++
				}
			}
		}
	}
	working.Wait()
	if info := h.info(t, "ml"); live != 50 || copies != 50 || info.AckFloor.Stream != 100 || info.NumPending != 0 || h.state(t, "TOGETHER").LastSeq != 100 {
		t.Errorf("%d live events, %d copies, %+v", live, copies, info)
	}
	if delivered, acknowledged := p.Taken(t.Context(), p.found(t, plan.ID)); delivered != "all" || acknowledged != "all" {
		t.Errorf("Taken = %s, %s", delivered, acknowledged)
	}
}

func (p *Replayer) found(t *testing.T, id string) Replay {
	t.Helper()
	r, err := p.Find(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReplayTimes(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", "batch.done"))
	h.fill(t, 2, "batch.done", "model.deprecated")
	<-time.After(50 * time.Millisecond)
	middle := time.Now()
	<-time.After(50 * time.Millisecond)
	h.fill(t, 2, "model.deprecated", "batch.done")
	p := h.replayer(t)
	for _, c := range []struct {
		choice   Choice
		from, to uint64
		total    uint64
	}{
		{Choice{Since: middle}, 5, 8, 2},
		{Choice{Until: middle}, 1, 4, 2},
		{Choice{Since: middle.Add(-time.Hour), Until: middle}, 1, 4, 2},
		{Choice{Since: middle, To: 6}, 5, 6, 1},
		{Choice{Until: middle.Add(time.Hour), From: 3}, 3, 8, 3},
	} {
		c.choice.Team = "ml"
		plan, err := p.Plan(t.Context(), c.choice)
		if err != nil || plan.From != c.from || plan.To != c.to || plan.Total != c.total || plan.Before != 0 {
			t.Errorf("%+v: %+v, %v", c.choice, plan, err)
		}
	}

	// What is not stored any more is said.
	stream, err := h.js.Stream(t.Context(), "TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(6)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []Choice{{From: 3}, {Since: middle.Add(-time.Hour)}} {
		c.Team = "ml"
		if plan, err := p.Plan(t.Context(), c); err != nil || plan.Before != 6 || plan.From != 6 || plan.Total != 2 {
			t.Errorf("%+v: %+v, %v", c, plan, err)
		}
	}
	for _, c := range []struct {
		choice Choice
		want   EmptyError
	}{
		{Choice{Until: middle}, EmptyError{Gone: true, First: 6}},
		{Choice{To: 5}, EmptyError{Gone: true, First: 6}},
		{Choice{From: 7, To: 7}, EmptyError{Others: 1, First: 6}},
		{Choice{From: 9}, EmptyError{First: 6}},
		{Choice{Since: time.Now().Add(time.Hour)}, EmptyError{First: 6}},
		{Choice{Types: []string{"model.*"}}, EmptyError{Others: 1, First: 6}},
		{Choice{Types: []string{"no.such"}, Any: true}, EmptyError{First: 6}},
	} {
		c.choice.Team = "ml"
		_, err := p.Plan(t.Context(), c.choice)
		empty, ok := errors.AsType[*EmptyError](err)
		if !ok || empty.Gone != c.want.Gone || empty.Others != c.want.Others || empty.First != c.want.First {
			t.Errorf("%+v: %+v", c.choice, err)
		}
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Plan(t.Context(), Choice{Team: "ml", To: 5}); err == nil || err.Error() != "nothing to replay: what was chosen is not stored any more, nor is anything else" {
		t.Errorf("of an empty stream: %v", err)
	}
	if _, err := p.Plan(t.Context(), Choice{Team: "nobody"}); !errors.Is(err, ErrNoTeam) {
		t.Errorf("nobody: %v", err)
	}
	if _, err := p.Plan(t.Context(), Choice{Team: "ml", Types: []string{"*.done", "batch.*"}}); !errors.Is(err, ErrOverlap) {
		t.Errorf("overlapping types: %v", err)
	}
}

// However it ends, whoever goes on makes no copy twice and leaves none out; also when the stream of
// the copies has forgotten every id, and when the mark is older than the copies.
func TestReplayIsInterrupted(t *testing.T) {
	t.Parallel()
	const window = 150 * time.Millisecond
	for _, c := range []struct {
		name string
		mark func(t *testing.T, h *teamHouse, plan *Replay) // what became of the mark
	}{
		{"its mark is there", func(*testing.T, *teamHouse, *Replay) {}},
		{"its mark is old", func(_ *testing.T, _ *teamHouse, plan *Replay) {
			plan.Copied, plan.Last, plan.Copy = 1, 1, plan.CopiesAfter+1
		}},
		{"it has no mark", func(_ *testing.T, _ *teamHouse, plan *Replay) { plan.Copied, plan.Last, plan.Copy = 0, 0, 0 }},
		{"the mark outlived its copies", func(t *testing.T, h *teamHouse, plan *Replay) {
			stream, err := h.js.Stream(t.Context(), "TOGETHER_REPLAY")
			if err != nil {
				t.Fatal(err)
			}
			cfg := stream.CachedInfo().Config
			if err := h.js.DeleteStream(t.Context(), "TOGETHER_REPLAY"); err != nil {
				t.Fatal(err)
			}
			if _, err := h.js.CreateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			h.relay(t, ProvisionCreate, newTeam("ml", ">"))
			// Another team's copies stand where this replay's were.
			for range plan.Copy {
				if err := h.log.SendTo(t.Context(), "billing", h.original(t, 1), newOwner()); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newTeamHouse(t)
			h.relay(t, ProvisionCreate, newTeam("ml", ">"))
			h.shorten(t, window)
			h.fill(t, 40, "batch.done")
			p := h.replayer(t)
			plan := p.begin(t, Choice{Team: "ml", From: 1})
			for i := range 4 {
				ctx, cancel := context.WithCancel(t.Context())
				goal := len(h.copies(t, "ml")) + 5
				w := &replaying{Replayer: p, Replay: plan, told: silent, limit: newLimit(100)}
				w.Owner = newOwner()
				ended := make(chan error, 1)
				go func() { ended <- w.pass(ctx) }()
				eventually(t, "some are copied", func() bool { return len(h.copies(t, "ml")) >= goal })
				cancel()
				err := <-ended
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("pass %d = %v", i, err)
				}
				plan = w.Replay
				plan.revision = p.found(t, plan.ID).revision
				c.mark(t, h, &plan)
				<-time.After(2 * window)
			}
			p.run(t, plan)
			if diff := cmp.Diff(sequences(1, 40, 1), h.copies(t, "ml")); diff != "" {
				t.Errorf("copies (-want +got):\n%s", diff)
			}
		})
	}
}

// Two processes that go on with the same replay make one copy of each; one of them gives way.
func TestReplayTwiceAtOnce(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.fill(t, 150, "batch.done")
	plan := h.replayer(t).begin(t, Choice{Team: "ml", From: 1, Rate: 100})
	var working sync.WaitGroup
	ends := make([]error, 3)
	for i := range ends {
		p := h.replayer(t)
		working.Go(func() { _, ends[i] = p.Run(t.Context(), plan, silent) })
	}
	working.Wait()
	taken := 0
	for _, err := range ends {
		if errors.Is(err, ErrReplayTaken) {
			taken++
		} else if err != nil {
			t.Error(err)
		}
	}
	if taken != 2 {
		t.Errorf("they ended with %v", ends)
	}
	if diff := cmp.Diff(sequences(1, 150, 1), h.copies(t, "ml")); diff != "" {
		t.Errorf("copies (-want +got):\n%s", diff)
	}
}

// Of two replays of the same events that begin at the same moment one goes on, also if its process
// is killed then, and the other is refused. Those of other events do not get into their way.
func TestReplaysBeginAtOnce(t *testing.T) {
	t.Parallel()
	const rounds = 25
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.fill(t, 2*rounds, "batch.done")
	ps := []*Replayer{h.replayer(t), h.replayer(t), h.replayer(t), h.replayer(t)}
	again := h.replayer(t)
	for round := range uint64(rounds) {
		plans, errs := make([]Replay, len(ps)), make([]error, len(ps))
		for i, p := range ps { // two of the round's first event, two of its second
			seq := 2*round + 1 + uint64(i%2)
			if plans[i], errs[i] = p.Plan(t.Context(), Choice{Team: "ml", From: seq, To: seq}); errs[i] != nil {
				t.Fatal(errs[i])
			}
		}
		var working sync.WaitGroup
		start := make(chan struct{})
		for i, p := range ps {
			working.Go(func() {
				<-start
				plans[i], errs[i] = p.Begin(t.Context(), plans[i])
			})
		}
		close(start)
		working.Wait()
		for one := range 2 {
			if errs[one] != nil {
				one += 2
			}
			other := (one + 2) % len(ps)
			if errs[one] != nil || errs[other] == nil || !strings.Contains(errs[other].Error(), "replay "+plans[one].ID+" copies some of the same events to team ml and is not done; go on with replay --resume ") {
				t.Errorf("round %d: %v, %v", round, errs[one], errs[other])
			}
		}
		for i, plan := range plans {
			switch {
			case errs[i] != nil:
			case round%2 == 0:
				ps[i].run(t, plan)
			default: // it was killed
				again.run(t, again.found(t, plan.ID))
			}
		}
	}
	copies := h.copies(t, "ml")
	slices.Sort(copies)
	if diff := cmp.Diff(sequences(1, 2*rounds, 1), copies); diff != "" {
		t.Errorf("copies (-want +got):\n%s", diff)
	}

	// What was removed with its team does not stand in the way of the team that comes back.
	r := openReader(t, h.url)
	if err := r.RemoveTeam(t.Context(), "ml"); err != nil {
		t.Fatal(err)
	}
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	ps[0].run(t, ps[0].begin(t, Choice{Team: "ml", To: 3}))
	if diff := cmp.Diff(sequences(1, 3, 1), h.copies(t, "ml")); diff != "" {
		t.Errorf("copies for the team that is back (-want +got):\n%s", diff)
	}
}

// A replay that waits, for its rate or for room, learns as soon that it was stopped. For one whose
// process does not answer, nobody waits long.
func TestReplayIsStoppedWhileItWaits(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.fill(t, 3, "batch.done")
	p := h.replayer(t)
	done := make(chan error, 1)

	slow := p.begin(t, Choice{Team: "ml", From: 1, Rate: 0.01})
	go func() { _, err := p.Run(t.Context(), slow, silent); done <- err }()
	eventually(t, "one is copied", func() bool { return h.state(t, "TOGETHER_REPLAY").Msgs == 1 })
	if r, err := h.replayer(t).Stop(t.Context(), slow.ID); err != nil || r.Owner != "" || r.Copied != 1 {
		t.Errorf("Stop = %+v, %v", r, err)
	}
	if err := <-done; !errors.Is(err, ErrReplayStopped) {
		t.Errorf("Run = %v", err)
	}

	stream, err := h.js.Stream(t.Context(), "TOGETHER_REPLAY")
	if err != nil {
		t.Fatal(err)
	}
	small := stream.CachedInfo().Config
	small.MaxMsgs = 1
	if _, err := h.js.UpdateStream(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	full := p.begin(t, Choice{Team: "ml", From: 1})
	waits := make(chan struct{}, 100)
	go func() {
		_, err := p.Run(t.Context(), full, func(_ Replay, err error) {
			if err != nil {
				waits <- struct{}{}
			}
		})
		done <- err
	}()
	<-waits
	if r, err := h.replayer(t).Stop(t.Context(), full.ID); err != nil || r.Owner != "" || r.Copied != 0 {
		t.Errorf("Stop = %+v, %v", r, err)
	}
	if err := <-done; !errors.Is(err, ErrReplayStopped) {
		t.Errorf("Run = %v", err)
	}

	killed := p.begin(t, Choice{Team: "ml", From: 1})
	w := &replaying{Replayer: p, Replay: killed, told: silent, limit: newLimit(0)}
	w.Owner = newOwner()
	if err := w.mark(t.Context()); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if r, err := h.replayer(t).Stop(soon, killed.ID); err != nil || r.State != ReplayStopped || r.Owner == "" {
		t.Errorf("Stop = %+v, %v", r, err)
	}
}

func TestReplayIsStopped(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"), newTeam("billing", ">"))
	h.fill(t, 200, "batch.done")
	p := h.replayer(t)
	plan := p.begin(t, Choice{Team: "ml", From: 1, Rate: 50})
	for _, choice := range []Choice{{Team: "ml", From: 100}, {Team: "ml", Types: []string{"batch.*"}}} {
		same, err := p.Plan(t.Context(), choice)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Begin(t.Context(), same); err == nil || !strings.Contains(err.Error(), plan.ID) {
			t.Errorf("a second one of the same events, %+v: %v", choice, err)
		}
	}
	p.begin(t, Choice{Team: "billing", From: 1, Rate: 50}) // another team

	done := make(chan error, 1)
	var ran Replay
	go func() {
		var err error
		ran, err = p.Run(t.Context(), plan, silent)
		done <- err
	}()
	eventually(t, "some are copied", func() bool { return h.state(t, "TOGETHER_REPLAY").Msgs > 3 })
	stopped, err := h.replayer(t).Stop(t.Context(), plan.ID)
	if err != nil {
		t.Errorf("Stop = %v", err)
	}
	if err := <-done; !errors.Is(err, ErrReplayStopped) {
		t.Errorf("Run = %v", err)
	}
	copies := uint64(len(h.copies(t, "ml")))
	for what, r := range map[string]Replay{"Stop": stopped, "Run": ran, "Find": p.found(t, plan.ID)} {
		if r.State != ReplayStopped || r.Copied != copies || r.Last != copies || what != "Run" && r.Owner != "" {
			t.Errorf("%s = %+v, and there are %d copies", what, r, copies)
		}
	}
	if _, err := p.Stop(t.Context(), "nothing"); !errors.Is(err, ErrNoReplay) {
		t.Errorf("Stop = %v", err)
	}
	second := p.begin(t, Choice{Team: "ml", From: 100, Rate: 50})

	// With its team, a replay is gone, and its copies.
	go func() { _, err := p.Run(t.Context(), second, silent); done <- err }()
	eventually(t, "some more are copied", func() bool { return len(h.copies(t, "ml")) > 10 })
	if err := openReader(t, h.url).RemoveTeam(t.Context(), "ml"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrReplayGone) {
		t.Errorf("Run = %v", err)
	}
	if all, err := p.Replays(t.Context()); err != nil || len(all) != 1 || all[0].Team != "billing" {
		t.Errorf("Replays = %+v, %v", all, err)
	}
}

// A stream that is full, and a server that is away, are waited out.
func TestReplayWaits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ns := startServer(t, dir, -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	h := &teamHouse{log: l, js: admin(t, ns.ClientURL()), url: ns.ClientURL()}
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.fill(t, 60, "batch.done")
	limit := func(n int64) {
		stream, err := h.js.Stream(t.Context(), "TOGETHER_REPLAY")
		if err != nil {
			t.Fatal(err)
		}
		cfg := stream.CachedInfo().Config
		cfg.MaxMsgs = n
		if _, err := h.js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	limit(20)
	p := h.replayer(t)
	plan := p.begin(t, Choice{Team: "ml", From: 1, Rate: 200})
	waits := make(chan string, 100)
	done := make(chan error, 1)
	go func() {
		_, err := p.Run(t.Context(), plan, func(r Replay, trouble error) {
			if trouble != nil {
				waits <- strconv.FormatUint(r.Copied, 10) + " " + trouble.Error()
			}
		})
		done <- err
	}()
	if why := <-waits; !strings.HasPrefix(why, "20 ") || !strings.Contains(why, "maximum messages exceeded") {
		t.Errorf("it waits with %s", why)
	}
	limit(-1)
	eventually(t, "it goes on", func() bool { return h.state(t, "TOGETHER_REPLAY").Msgs > 25 })
	port := ns.Addr().String()
	stopServer(ns)
	why := <-waits
	for strings.Contains(why, "maximum messages") {
		why = <-waits
	}
	_, digits, _ := strings.Cut(port, ":")
	n, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	startServer(t, dir, n)
	if err := <-done; err != nil {
		t.Error(err)
	}
	eventually(t, "the copies are there", func() bool { return h.log.Ready(t.Context()) == nil })
	if diff := cmp.Diff(sequences(1, 60, 1), h.copies(t, "ml")); diff != "" {
		t.Errorf("copies (-want +got):\n%s", diff)
	}
}

func TestReplayRate(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.fill(t, 21, "batch.done")
	p := h.replayer(t)
	start := time.Now()
	p.run(t, p.begin(t, Choice{Team: "ml", From: 1, Rate: 50}))
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("21 copies at 50 a second took %s", took)
	}
}

// An event that leaves no room for the marks of a copy is passed over and told.
func TestReplayOfLargeEvents(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.append(t, "batch.done", "1")
	for size := int(h.log.maxPayload.Load()); ; size -= 5 { // as large as it can be
		large := relaytest.NewEvent("together", "2", `"`+strings.Repeat("a", size-2)+`"`)
		if _, err := h.log.Append(t.Context(), large); err == nil {
			break
		}
	}
	h.append(t, "batch.done", "3")
	p := h.replayer(t)
	var told []string
	got, err := p.Run(t.Context(), p.begin(t, Choice{Team: "ml", From: 1}), func(_ Replay, trouble error) {
		if trouble != nil {
			told = append(told, trouble.Error())
		}
	})
	if err != nil || got.State != ReplayDone || got.Copied != 2 || got.Skipped != 1 || len(told) != 1 || !strings.Contains(told[0], "event 2 ") {
		t.Errorf("Run = %+v, %v, told %v", got, err, told)
	}
}

func TestReplayIDs(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var ids []string
	for i := range 100 {
		ids = append(ids, newReplayID(now.Add(time.Duration(i)*time.Minute)))
	}
	if !slices.IsSorted(ids) || len(ids[0]) != 10 {
		t.Errorf("ids %v", ids)
	}
	var same []string
	for range 10 {
		same = append(same, newReplayID(now))
	}
	slices.Sort(same)
	if len(slices.Compact(same)) < 8 {
		t.Errorf("in the same second they are %v", same)
	}
}

// Copies of another replay are not taken for those of this one.
func TestReplaysOfTheSameEvents(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.fill(t, 30, "batch.done")
	p := h.replayer(t)
	plan := p.begin(t, Choice{Team: "ml", From: 1, Rate: 100})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { _, err := p.Run(ctx, plan, silent); ended <- err }()
	eventually(t, "some are copied", func() bool { return len(h.copies(t, "ml")) > 3 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for _, seq := range sequences(1, 30, 1) {
		if err := h.log.SendTo(t.Context(), "ml", h.original(t, seq), "another"); err != nil {
			t.Fatal(err)
		}
	}
	p.run(t, p.found(t, plan.ID))
	times := map[uint64]int{}
	for _, original := range h.copies(t, "ml") {
		times[original]++
	}
	for _, seq := range sequences(1, 30, 1) {
		if times[seq] != 2 {
			t.Errorf("event %d has %d copies, want one of each replay", seq, times[seq])
		}
	}
}

// A process that was asleep for longer than the stream remembers ids sees what another one has
// copied meanwhile.
func TestReplayThatSlept(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.shorten(t, 100*time.Millisecond)
	h.fill(t, 3, "batch.done")
	p := h.replayer(t)
	plan := p.begin(t, Choice{Team: "ml", From: 1, Rate: 2})
	ended := make(chan error, 1)
	go func() { _, err := p.Run(t.Context(), plan, silent); ended <- err }()
	eventually(t, "the first is copied", func() bool { return len(h.copies(t, "ml")) == 1 })
	if err := h.log.SendTo(t.Context(), "ml", h.original(t, 2), plan.ID); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sequences(1, 3, 1), h.copies(t, "ml")); diff != "" {
		t.Errorf("copies (-want +got):\n%s", diff)
	}
}

// shorten lets the stream of the copies remember ids for that long only.
func (h *teamHouse) shorten(t *testing.T, window time.Duration) {
	t.Helper()
	stream, err := h.js.Stream(t.Context(), "TOGETHER_REPLAY")
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.Duplicates = window
	if _, err := h.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}
