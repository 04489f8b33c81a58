package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestMeasureTeams says what teams cost a relay with the embedded server, as shipped: 64
// senders post events, each of which one busy team wants, and those teams take and acknowledge
// theirs at the same time. Idle teams want nothing of it. One run, so that the rows can be compared.
func TestMeasureTeams(t *testing.T) {
	if !*figures {
		t.Skip("-measure is not set")
	}
	const events = 40_000
	table := &strings.Builder{}
	fmt.Fprintf(table, "| teams | all consumers after | events/s | of none | until all is acknowledged | CPU per event |\n|---|---|---|---|---|---|\n")
	var alone float64
	for _, n := range []struct {
		name       string
		busy, idle int
	}{{"none", 0, 0}, {"1000 idle", 0, 1000}, {"1 busy", 1, 0}, {"10 busy", 10, 0}, {"100 busy", 100, 0}, {"300 busy", 300, 0}} {
		m := measureTeams(t, n.busy, n.idle, events)
		if alone == 0 {
			alone = m.rate
		}
		fmt.Fprintf(table, "| %s | %.1f s | %.0f | %.0f %% | %.1f s | %.0f µs |\n", n.name, m.made.Seconds(), m.rate, 100*m.rate/alone, m.all.Seconds(), m.cpu)
	}
	t.Logf("%d events\n\n%s", events, table)
}

type teamsMeasured struct {
	made time.Duration // from the start of the process until each team has its consumers
	rate float64       // events stored in a second
	all  time.Duration // from the first delivery to the last acknowledgement
	cpu  float64       // of the relay and its embedded server, in microseconds per event
}

func measureTeams(t *testing.T, teams, idle, events int) (m teamsMeasured) {
	t.Helper()
	file := &strings.Builder{}
	for i := range teams {
		fmt.Fprintf(file, "  team-%d: {events: [busy%d.done]}\n", i, i)
	}
	for i := range idle {
		fmt.Fprintf(file, "  idle-%d: {events: [idle%d.done]}\n", i, i)
	}
	var args []string
	if teams+idle > 0 {
		args = []string{"--config=" + writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "teams:\n"+file.String())}
	}
	started := time.Now()
	p := launch{env: withSecret, args: args}.start(t).waitReady(t)
	defer p.stop(t)

	var taken atomic.Int64
	if teams+idle > 0 {
		js := connect(t, p.login(t))
		for _, name := range []string{"TOGETHER", "TOGETHER_REPLAY"} {
			eventually(t, "each team has its consumers", func() bool {
				s, err := js.Stream(t.Context(), name)
				return err == nil && s.CachedInfo().State.Consumers == teams+idle
			})
		}
		m.made = time.Since(started)
		for i := range teams {
			c := p.teamConsumer(t, js, fmt.Sprintf("team-%d", i), "is there", there)
			busy, err := c.Consume(func(msg jetstream.Msg) {
				if msg.Ack() == nil {
					taken.Add(1)
				}
			}, jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
			if err != nil {
				t.Fatal(err)
			}
			defer busy.Stop()
		}
	}
	before, began := cpuOf(t, p.cmd.Process.Pid), time.Now()
	var senders sync.WaitGroup
	var next atomic.Int64
	for range 64 {
		senders.Go(func() {
			for i := next.Add(1); i <= int64(events); i = next.Add(1) {
				body := typedBody(fmt.Sprintf("m-%d", i), fmt.Sprintf("busy%d.done", i%int64(max(teams, 1))), `{"busy_id":"b-1","padding":"`+strings.Repeat("x", 350)+`"}`)
				if a, err := p.send(secret, body); err != nil || a.Status != http.StatusOK {
					t.Errorf("the answer is %+v, %v", a, err)
					return
				}
			}
		})
	}
	senders.Wait()
	stored := time.Since(began)
	if teams > 0 {
		eventually(t, "all is acknowledged", func() bool { return taken.Load() >= int64(events) })
	}
	m.all, m.rate = time.Since(began), float64(events)/stored.Seconds()
	m.cpu = float64((cpuOf(t, p.cmd.Process.Pid) - before).Microseconds()) / float64(events)
	return m
}
