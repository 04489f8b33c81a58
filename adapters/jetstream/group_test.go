package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"together-relay/relay"
	"together-relay/relay/relaytest"
)

// eager opens a log that sends every group of more than a few as a batch.
func eager(t *testing.T, url string) (*Log, *atomic.Int64) {
	t.Helper()
	l := openLog(t, url, testConfig())
	ready(t, l)
	var batches atomic.Int64
	all := l.group.all
	l.group.all = func(now []*ticket, more func([]*ticket) []*ticket) ([]*ticket, error) {
		batches.Add(1)
		// However long it takes, a batch stays the cheaper way.
		defer func() { l.group.mu.Lock(); l.group.single = guess(time.Hour); l.group.mu.Unlock() }()
		return all(now, more)
	}
	l.group.single = guess(time.Hour)
	return l, &batches
}

// hold makes all that comes wait, as if a batch were on its way.
func hold(g *group) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy = true
}

// release waits until n messages wait, and sends them.
func release(t *testing.T, g *group, n int) {
	t.Helper()
	eventually(t, "all wait", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return len(g.waiting) == n })
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy = false
	g.next()
}

// In a group each message has its own sequence and its own duplicate, and an oversized one
// harms no other.
func TestGroupedMessagesStandForThemselves(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l, batches := eager(t, ns.ClientURL())
	js := admin(t, ns.ClientURL())
	s, err := js.Stream(context.Background(), "TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxMsgSize = 4000
	if _, err := js.UpdateStream(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
	for round := range 5 {
		var wg sync.WaitGroup
		hold(l.group)
		var mu sync.Mutex
		fresh, at := map[string]int{}, map[string]uint64{}
		for i := range 100 {
			wg.Go(func() {
				id := fmt.Sprintf("evt_%d_%d", round, i/2) // each id twice at once
				data := `{}`
				if i == 50 || i == 51 {
					data = `{"x":"` + strings.Repeat("x", 5000) + `"}`
				}
				stored, err := l.Append(context.Background(), relaytest.NewEvent("together", id, data))
				if len(data) > 2 {
					if !errors.As(err, new(*relay.Unusable)) {
						t.Errorf("the oversized one: %v, want Unusable", err)
					}
					return
				}
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if !stored.Duplicate {
					fresh[id]++
				}
				if was, ok := at[id]; ok && was != stored.Sequence {
					t.Errorf("%s has sequences %d and %d", id, was, stored.Sequence)
				}
				at[id] = stored.Sequence
			})
		}
		release(t, l.group, 100)
		wg.Wait()
		if len(fresh) != 49 {
			t.Errorf("%d were new, want 49", len(fresh))
		}
		for id, n := range fresh {
			if n != 1 {
				t.Errorf("%s was new %d times", id, n)
			}
		}
		for _, m := range readEvents(t, openReader(t, ns.ClientURL()), Query{}) {
			if want, ok := at[m.CloudEvent.ID()]; ok && want != m.Sequence {
				t.Errorf("%s lies at %d, its senders were told %d", m.CloudEvent.ID(), m.Sequence, want)
			}
		}
	}
	if n := len(readEvents(t, openReader(t, ns.ClientURL()), Query{})); n != 5*49 {
		t.Errorf("%d events are stored, want %d", n, 5*49)
	}
	if batches.Load() == 0 {
		t.Error("no batch was sent")
	}
}

func TestGroupsAreBatchesOnlyWhereTheStreamAllows(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	js := admin(t, ns.ClientURL())
	s, err := js.Stream(context.Background(), "TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	if !s.CachedInfo().Config.AllowAtomicPublish || !l.grouped.Load() {
		t.Error("a stream of one replica that we make allows batches")
	}
	cfg := s.CachedInfo().Config
	cfg.AllowAtomicPublish = false
	if _, err := js.UpdateStream(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := l.Look(context.Background()); err != nil || l.grouped.Load() {
		t.Errorf("still in groups on a stream that does not allow batches: %v", err)
	}
	appendEvent(t, l, "evt_1")

	flushing := testConfig()
	flushing.Batches = false
	other := newLog(flushing, l.log)
	if err := other.use(l.nc); err != nil {
		t.Fatal(err)
	}
	if err := other.Look(context.Background()); err != nil || other.grouped.Load() {
		t.Errorf("in groups where nobody wants them: %v", err)
	}
}

// A few go one by one, at once; what comes beyond them waits, and is a batch if it is more
// than a few. What comes while the server opens a batch is in it; what comes later waits for its
// end.
func TestGroupSendsAFewOneByOne(t *testing.T) {
	t.Parallel()
	g := newGroup(nil, nil)
	answer, batched, end := make(chan struct{}), make(chan int), make(chan struct{})
	g.one = func(*nats.Msg, time.Time) (ack, error) { <-answer; return ack{1, false}, nil }
	g.all = func(now []*ticket, more func([]*ticket) []*ticket) ([]*ticket, error) {
		batched <- len(now)
		<-end
		now = more(now)
		batched <- len(now)
		<-end
		return now, nil
	}
	g.single, g.room = guess(time.Hour), few
	var wg sync.WaitGroup
	state := func(out, waiting int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d are on their way and %d wait", out, waiting), func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.out == out && len(g.waiting) == waiting
		})
	}
	send := func(n int) {
		for range n {
			wg.Go(func() { _, _ = g.publish(&nats.Msg{Header: nats.Header{nats.MsgIdHdr: {nuid.Next()}}}, time.Time{}) })
		}
	}
	send(few + few)
	state(few, few)
	answer <- struct{}{} // room for one
	state(few, few-1)
	send(2)
	if n := <-batched; n != few+1 {
		t.Errorf("a batch of %d, want %d", n, few+1)
	}
	state(few, 0)
	send(3) // while the server opens the batch
	state(few, 3)
	end <- struct{}{}
	if n := <-batched; n != few+4 {
		t.Errorf("a batch of %d, want %d", n, few+4)
	}
	send(4) // while it commits the batch
	state(few, 4)
	close(answer)
	state(0, 4)
	end <- struct{}{}
	state(0, 0)
	wg.Wait()
}

// After a batch, one goes alone, and more only as they are answered: those who were in the
// batch come back, and are the next one.
func TestGroupBeginsWithOne(t *testing.T) {
	t.Parallel()
	answer := make(chan struct{})
	g := newGroup(func(*nats.Msg, time.Time) (ack, error) { <-answer; return ack{1, false}, nil }, nil)
	var wg sync.WaitGroup
	for range 7 {
		wg.Go(func() { _, _ = g.publish(&nats.Msg{Header: nats.Header{nats.MsgIdHdr: {nuid.Next()}}}, time.Time{}) })
	}
	for _, want := range []struct{ out, waiting int }{{1, 6}, {2, 4}, {3, 2}, {4, 0}} {
		eventually(t, fmt.Sprintf("%d are on their way and %d wait", want.out, want.waiting), func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.out == want.out && len(g.waiting) == want.waiting
		})
		answer <- struct{}{}
	}
	close(answer)
	wg.Wait()
}

// Sixty-four senders get what the better way gives, within a few per cent, whether the
// server flushes or not; also after a stall, and after a server of the other kind.
func TestGroupLearnsWhatPays(t *testing.T) {
	t.Parallel()
	const senders, batch = 64, 4 * time.Millisecond
	g := newGroup(nil, nil)
	if g.most() != math.MaxInt {
		t.Error("nothing is known, and messages wait for a batch")
	}
	// load is 64 messages at once, many times, and returns how long each message took.
	load := func(times int, each time.Duration) time.Duration {
		var took time.Duration
		for range times {
			if g.most() == few {
				took += batch
				g.shared.learn(batch, senders, &g.single)
				continue
			}
			for range senders {
				took += each
				g.single.learn(each, 1, &g.shared)
			}
		}
		return took / time.Duration(times*senders)
	}
	for _, server := range []struct{ each, best time.Duration }{
		{220 * time.Microsecond, batch / senders},
		{30 * time.Microsecond, 30 * time.Microsecond},
		{220 * time.Microsecond, batch / senders},
	} {
		load(4000, server.each)
		if took := load(4000, server.each); took > server.best*106/100 {
			t.Errorf("a message takes %s, and the better way %s", took, server.best)
		}
		g.single.learn(time.Minute, 1, &g.shared)
		g.shared.learn(time.Minute, senders, &g.single)
		if took := load(4000, server.each); took > server.best*120/100 {
			t.Errorf("after a stall a message takes %s, and the better way %s", took, server.best)
		}
	}
}

func TestGroupTakesAnIDOnce(t *testing.T) {
	t.Parallel()
	g := newGroup(nil, nil)
	for _, id := range []string{"a", "b", "a", "c", "a"} {
		g.waiting = append(g.waiting, &ticket{msg: &nats.Msg{Header: nats.Header{nats.MsgIdHdr: {id}}}})
	}
	sizes := []int{}
	for len(g.waiting) > 0 {
		sizes = append(sizes, len(g.take(nil)))
	}
	if fmt.Sprint(sizes) != "[3 1 1]" {
		t.Errorf("groups of %v, want [3 1 1]", sizes)
	}
}

func TestLostConnectionEndsAGroup(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cable := newCable(t, ns.Addr().String())
	l, _ := eager(t, cable.URL())
	cable.Mute()
	var wg sync.WaitGroup
	var failed atomic.Int64
	for i := range 20 {
		wg.Go(func() {
			_, err := l.Append(context.Background(), relaytest.NewEvent("together", fmt.Sprint("evt_", i), `{}`))
			if errors.As(err, new(*relay.NotStored)) {
				failed.Add(1)
			}
		})
	}
	eventually(t, "something is in the stream", func() bool { return len(readEvents(t, openReader(t, ns.ClientURL()), Query{})) > 0 })
	cable.Cut()
	cable.Listen()
	wg.Wait()
	if failed.Load() != 20 {
		t.Errorf("%d of 20 were not stored", failed.Load())
	}
	cable.Mend()
	ready(t, l)
	for i := range 20 {
		appendEvent(t, l, fmt.Sprint("evt_", i))
	}
	if n := len(readEvents(t, openReader(t, ns.ClientURL()), Query{})); n != 20 {
		t.Errorf("%d events are stored, want 20", n)
	}
}

var _ jetstream.JetStreamError = (*jetstream.APIError)(nil)

// A message that fits alone and not with the headers of a batch harms nobody.
func TestMessageThatOnlyABatchMakesTooLarge(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l, batches := eager(t, ns.ClientURL())
	big := relaytest.NewEvent("together", "evt_big", "")
	msg, err := encode("x", big)
	if err != nil {
		t.Fatal(err)
	}
	msg.Header[nats.ExpectedStreamHdr] = []string{"TOGETHER"}
	room := int(l.maxPayload.Load()) - headerSize(msg.Header)
	big.CloudEvent.DataEncoded = []byte(`{"x":"` + strings.Repeat("x", room-8) + `"}`)
	hold(l.group)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			ev := relaytest.NewEvent("together", fmt.Sprint("evt_", i), `{}`)
			if i == 20 {
				ev = big
			}
			if _, err := l.Append(context.Background(), ev); err != nil {
				t.Errorf("%s: %v", ev.CloudEvent.ID(), err)
			}
		})
	}
	release(t, l.group, 40)
	wg.Wait()
	if batches.Load() == 0 {
		t.Error("no batch was sent")
	}
}
