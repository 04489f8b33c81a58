package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A team terminates every event while its relay, and the NATS server in it, is killed again and
// again. No event is two letters. NATS says once that an event was terminated, after it has taken the
// word for it: how many of these say-so's a kill in between has cost is logged. An event of which
// NATS said nothing, and that came again, is no such case.
//
//	go test ./cmd/together-relay -run FaultDeadLetters -fault -v
func TestFaultDeadLetters(t *testing.T) {
	t.Parallel()
	faultTest(t, 3*time.Minute)
	chance := rand.New(rand.NewPCG(*faultSeed, 5))
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "teams: {ml: {backoff: [1s], max_deliver: 100, events: ['>']}}")
	l := launch{dir: filepath.Join(t.TempDir(), "data"), env: withSecret, args: []string{"--config=" + file}}
	var last time.Time // of what NATS has taken
	terminated := map[string]bool{}
	sent := 0
	for round := range *faultRounds + 1 {
		p := l.start(t).waitReady(t)
		for range 40 {
			p.mustSend(t, newBody(fmt.Sprint("e-", sent)), http.StatusOK)
			sent++
		}
		js := connect(t, p.login(t))
		c := p.teamConsumer(t, js, "ml", "is there", there)
		end := round == *faultRounds
		var killed atomic.Bool
		if !end {
			after := time.Duration(chance.Int64N(int64(60 * time.Millisecond)))
			time.AfterFunc(after, func() { killed.Store(true); _ = p.cmd.Process.Kill() })
		}
		for !killed.Load() {
			batch, err := c.Fetch(10, jetstream.FetchMaxWait(time.Second))
			if err != nil {
				break
			}
			n := 0
			for msg := range batch.Messages() {
				n++
				if killed.Load() {
					continue
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := js.Conn().RequestMsgWithContext(ctx, &nats.Msg{Subject: msg.Reply(), Data: []byte("+TERM no")})
				cancel()
				if err == nil {
					terminated[msg.Headers().Get("ce-id")], last = true, time.Now()
				}
			}
			if info, err := c.Info(t.Context()); end && n == 0 && err == nil && info.NumPending == 0 && info.NumAckPending == 0 {
				break
			}
		}
		if end {
			within(t, 2*time.Minute, "no advisory waits", func() bool {
				s, err := js.Stream(t.Context(), "TOGETHER_ADVISORIES")
				return err == nil && s.CachedInfo().State.Msgs == 0
			})
			count := ids(t, p.login(t), "TOGETHER_DLQ")
			missing := 0
			for i := range sent {
				id := fmt.Sprint("e-", i)
				if n := count[id]; n > 1 {
					t.Errorf("event %s is %d letters", id, n)
				} else if n == 0 {
					missing++
				}
			}
			t.Logf("seed %d: %d kills, %d events, %d of them known to be terminated, the last at %s; %d without a letter",
				*faultSeed, round, sent, len(terminated), last.Format(time.TimeOnly), missing)
			return
		}
		p.wait(t)
		if got := p.cmd.ProcessState.ExitCode(); got != -1 {
			t.Errorf("the relay ended with %d", got)
		}
	}
}

// The node that leads the stream of advisories is killed while a team terminates event after
// event. No event is two letters, and those that the team knows to be terminated are counted that have none:
// each relay hears what the stream misses, unless it was connected to the node that was killed.
func TestFaultDeadLettersOfACluster(t *testing.T) {
	t.Parallel()
	faultTest(t, 3*time.Minute)
	r := newRig(t, "dead letters, three nodes")
	stores := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	c := r.startCluster(func(i int) string { return stores[i] })
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "teams: {ml: {backoff: [5s], max_deliver: 100, events: ['>']}}")
	u := r.addRelay(launch{args: []string{"--replicas=3", "--publish-timeout=8s", "--config=" + file}}, c.urls())
	r.addRelay(launch{args: []string{"--replicas=3", "--publish-timeout=8s", "--config=" + file}}, c.urls())
	c.waitWhole()
	const events = 1000
	for round := range *faultRounds {
		for i := range events {
			u.mustSend(t, newBody(fmt.Sprintf("e-%d-%d", round, i)), http.StatusOK)
		}
		js := connect(t, c.urls())
		consumer := u.teamConsumer(t, js, "ml", "is there", there)
		terminated, stop, done := map[string]bool{}, make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
				}
				msg, err := consumer.Next(jetstream.FetchMaxWait(time.Second))
				if err != nil {
					continue
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err = js.Conn().RequestMsgWithContext(ctx, &nats.Msg{Subject: msg.Reply(), Data: []byte("+TERM no")})
				cancel()
				if err == nil {
					terminated[msg.Headers().Get("ce-id")] = true
				}
			}
		}()
		hold(r.between(100*time.Millisecond, 500*time.Millisecond))
		b := c.leaderOf("TOGETHER_ADVISORIES")
		b.end(t, syscall.SIGKILL)
		within(t, patience, "all is delivered", func() bool {
			info, err := consumer.Info(t.Context())
			return err == nil && info.NumPending == 0 && info.NumAckPending == 0
		})
		b.start(t)
		c.waitWhole()
		close(stop)
		<-done
		count := map[string]int{}
		missing := func() (n int) {
			for id := range terminated {
				if count[id] == 0 {
					n++
				}
			}
			return n
		}
		// What was missed is told when there is a new leader.
		deadline := time.Now().Add(30 * time.Second)
		for count = ids(t, c.urls(), "TOGETHER_DLQ"); missing() > 0 && time.Now().Before(deadline); count = ids(t, c.urls(), "TOGETHER_DLQ") {
			hold(time.Second)
		}
		for id, n := range count {
			if n > 1 {
				t.Errorf("round %d: event %s is %d letters", round, id, n)
			}
		}
		t.Logf("round %d: %d events, %d of them known to be terminated; %d of these without a letter", round, events, len(terminated), missing())
	}
}
