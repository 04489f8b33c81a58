package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFaultReplay proves that a replay brings each event once, whatever fails beneath it: nodes of a
// cluster, and the replay itself, which is killed and taken up again.
func TestFaultReplay(t *testing.T) {
	t.Parallel()
	faultTest(t, 3*time.Minute)
	r := newRig(t, "replay, three nodes")
	stores := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	c := r.startCluster(func(i int) string { return stores[i] })
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "teams: {ml: {backoff: [30s], events: [batch.done]}}")
	u := r.addRelay(launch{args: []string{"--replicas=3", "--publish-timeout=8s", "--config=" + file}}, c.urls())
	c.waitWhole()
	const n = 150
	for i := range n {
		u.mustSend(t, newBody(fmt.Sprint("evt_", i+1)), 200)
	}
	js := connect(t, c.urls())
	within(t, patience, "the consumer of copies is there", func() bool {
		_, err := js.Consumer(t.Context(), "TOGETHER_REPLAY", "ml")
		return err == nil
	})
	faults := []func(){
		func() { // a node is killed, and comes back
			b := c.leader()
			b.end(t, syscall.SIGKILL)
			hold(r.between(0, 3*time.Second))
			b.start(t)
		},
		func() { // a node stands still
			b := c.leader()
			b.signal(t, syscall.SIGSTOP)
			hold(r.between(500*time.Millisecond, 6*time.Second))
			b.signal(t, syscall.SIGCONT)
		},
		func() {
			for range 3 {
				c.moveLeader("TOGETHER_REPLAY")
				c.moveLeader("KV_TOGETHER_REPLAYS")
				hold(r.between(0, 200*time.Millisecond))
				c.waitWhole()
			}
		},
		func() {}, // only the replay is killed
	}
	for round := range *faultRounds {
		args := []string{"replay", "--team=ml", "--to-seq=" + fmt.Sprint(n), "--rate=50"}
		cmd, stdout, stderr := u.newVerb(t, args...)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("round %d, before it was killed:\n%s%s", round, stdout, stderr)
			}
		})
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		within(t, patience, "it has begun", func() bool { return strings.Contains(stderr.String(), "replay --resume ") })
		_, id, _ := strings.Cut(stderr.String(), "replay --resume ")
		id, _, _ = strings.Cut(id, " ")
		hold(r.between(0, time.Second))
		killed, life := make(chan struct{}), r.between(0, 2*time.Second)
		go func() {
			defer close(killed)
			hold(life)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		faults[round%len(faults)]()
		<-killed
		c.waitWhole()
		done := u.verb(t, "replay", "--resume="+id, "--rate=200")
		if done.code != 0 || !strings.Contains(done.stdout, fmt.Sprintf("%s\tdone\t%d of %d", id, n, n)) {
			t.Fatalf("round %d: %+v", round, done)
		}
		var copies []stored
		within(t, 2*patience, "the copies can be read", func() (ok bool) {
			all, err := readOne(js, "TOGETHER_REPLAY", false)
			copies = all
			return err == nil
		})
		times := map[string]int{}
		for _, m := range copies {
			times[m.ID]++
		}
		for i := range n {
			if got := times[fmt.Sprint("evt_", i+1)]; got != round+1 {
				t.Errorf("round %d, replay %s: event %d was copied %d times, want %d", round, id, i+1, got, round+1)
			}
		}
		if t.Failed() {
			return
		}
		t.Logf("round %d: each of %d events once", round, n)
	}
}
