package jetstream

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// holder is a relay that wants the turn.
type holder struct {
	log     *Log
	working atomic.Bool
	cancel  context.CancelFunc
	done    chan error
}

func startHolder(t *testing.T, url string, ttl time.Duration) *holder {
	t.Helper()
	h := &holder{log: openLog(t, url, testConfig()), done: make(chan error, 1)}
	ready(t, h.log)
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	go func() {
		h.done <- (&Turn{h.log, ttl}).Hold(ctx, func(ctx context.Context) {
			h.working.Store(true)
			<-ctx.Done()
			h.working.Store(false)
		})
	}()
	t.Cleanup(h.leave)
	return h
}

func (h *holder) leave() {
	h.cancel()
	<-h.done
	h.done <- nil // for the clean-up, if it was not the one
}

func TestTurnIsOneRelaysAtATime(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	const ttl = 2 * time.Second
	a := startHolder(t, ns.ClientURL(), ttl)
	eventually(t, "the first relay works", a.working.Load)
	b := startHolder(t, ns.ClientURL(), ttl)
	<-time.After(2 * ttl) // long enough for a turn that is not kept alive to be lost
	if !a.working.Load() || b.working.Load() {
		t.Fatalf("the first works: %v, the second works: %v; want the first alone", a.working.Load(), b.working.Load())
	}
	a.leave()
	eventually(t, "the second relay takes over", b.working.Load)
}

func TestTurnOfADeadRelayExpires(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cable := newCable(t, ns.Addr().String())
	a := startHolder(t, cable.URL(), 2*time.Second)
	eventually(t, "the first relay works", a.working.Load)
	b := startHolder(t, ns.ClientURL(), 2*time.Second)
	cable.Cut() // it lives on, and cannot know
	var overlap bool
	eventually(t, "the second relay takes over", func() bool {
		overlap = overlap || a.working.Load() && b.working.Load()
		return b.working.Load()
	})
	if overlap {
		t.Error("both worked at one time")
	}
	cable.Mend()
	eventually(t, "the first is connected", func() bool { return a.log.nc.Status() == nats.CONNECTED })
	if !b.working.Load() {
		t.Error("the second lost its turn to the first, which came back")
	}
}
