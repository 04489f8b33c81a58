package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func relayKilledEmbedded(r *rig) func() {
	u := r.addRelay(launch{}, "")
	return func() { r.restart(u) }
}

func relayKilledOutside(r *rig) func() {
	r.senders = manySenders
	u := r.addRelay(launch{}, node{store: r.t.TempDir()}.startBroker(r.t).url)
	return func() { r.restart(u) }
}

// restart kills the relay and starts it again.
func (r *rig) restart(u *underTest) {
	r.t.Helper()
	r.history.during(u.number, "SIGKILL", func() {
		u.kill(r.t)
		hold(r.between(0, 300*time.Millisecond))
		u.process = u.start()
	})
}

// relayStopped has senders that lose their patience while the relay stands still.
func relayStopped(r *rig) func() {
	u := r.addRelay(launch{}, "")
	r.giveUp = 4 * time.Second
	return func() {
		r.history.during(u.number, "SIGSTOP", func() {
			u.signal(r.t, syscall.SIGSTOP)
			hold(r.between(200*time.Millisecond, 5500*time.Millisecond))
			u.signal(r.t, syscall.SIGCONT)
			r.waitReady()
		})
	}
}

func twoRelays(r *rig) func() {
	b := node{store: r.t.TempDir()}.startBroker(r.t)
	one, two := r.addRelay(launch{}, b.url), r.addRelay(launch{}, b.url)
	return func() {
		r.restart(one)
		r.waitReady()
		r.load.waitFor(r.t, 10)
		r.restart(two)
	}
}

func brokerKilled(r *rig) func() {
	r.senders = manySenders
	b := node{store: r.t.TempDir()}.startBroker(r.t)
	r.addRelay(launch{}, b.url)
	return func() {
		b.end(r.t, syscall.SIGKILL)
		hold(r.between(0, 1500*time.Millisecond))
		b.start(r.t)
		b.waitHealthy(r.t)
	}
}

func brokerStopped(r *rig) func() {
	b := node{store: r.t.TempDir()}.startBroker(r.t)
	r.addRelay(launch{}, b.url)
	return func() {
		b.signal(r.t, syscall.SIGSTOP)
		hold(r.between(200*time.Millisecond, 2500*time.Millisecond))
		b.signal(r.t, syscall.SIGCONT)
	}
}

// brokerEmptied takes the store away. No relay can bring back what was in it; but it has to
// say so, and to go on with what comes.
func brokerEmptied(r *rig) func() {
	n := node{store: filepath.Join(r.t.TempDir(), "store")}
	b := n.startBroker(r.t)
	u := r.addRelay(launch{}, b.url)
	r.survived = "said aloud; each stored once since"
	return func() {
		said := countLines(u.log, "error", "gone")
		b.end(r.t, syscall.SIGKILL)
		hold(r.between(0, time.Second))
		if err := os.RemoveAll(n.store); err != nil {
			r.t.Fatal(err)
		}
		r.history.replace()
		b.start(r.t)
		b.waitHealthy(r.t)
		r.waitReady()
		if countLines(u.log, "error", "gone") == said {
			r.t.Errorf("round %d: the store was emptied, and the relay did not say so in its log", r.round)
		}
	}
}

func countLines(o *output, level, word string) (n int) {
	for _, line := range o.lines() {
		text, ok := line["message"].(string)
		if ok && line["level"] == level && strings.Contains(text, word) {
			n++
		}
	}
	return n
}

// clockStepped steps the clock of the senders, whose signed timestamps the relay judges by
// its own. No clock of the machine is touched; a relay whose own clock is wrong is, to a
// sender, the same. A sender that was refused is heard when its clock is right again.
func clockStepped(r *rig) func() {
	file := writeFile(r.t, filepath.Join(r.t.TempDir(), "relay.yaml"), "sources: {together: {timestamp: required}}\n")
	r.addRelay(launch{args: []string{"--config=" + file}}, "")
	var skew atomic.Int64
	r.stamp = func() (string, bool) {
		off := time.Duration(skew.Load())
		return strconv.FormatInt(time.Now().Add(off).Unix(), 10), off.Abs() < 5*time.Minute
	}
	step := func(least, most time.Duration) {
		off := r.between(least, most)
		if r.rng.IntN(2) == 0 {
			off = -off
		}
		skew.Store(int64(off))
		hold(r.between(200*time.Millisecond, 800*time.Millisecond))
	}
	return func() {
		step(6*time.Minute, 48*time.Hour)
		step(0, 4*time.Minute)
		step(6*time.Minute, 7*time.Minute)
		skew.Store(0)
	}
}
