package main

import (
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestFaultMutations shows that the fault tests can fail: three relays that are broken each in
// its own way, and the promise that the checker must see broken by each.
func TestFaultMutations(t *testing.T) {
	faultTest(t, 0)
	for _, m := range []struct {
		broken, rule string
		set          func(*rig) (strike func() []violation)
	}{
		{answersEarly, ruleLost, earlyUnderKills},
		{dropsID, ruleOnce, noIDUnderRetries},
		{skipsFlush, ruleLost, noFlushUnderPowerCut},
	} {
		t.Run(m.broken, func(t *testing.T) {
			r := newRig(t, m.broken)
			strike := m.set(r)
			for range 5 {
				var early []violation
				found := r.once(func() { early = strike() })
				r.round++
				if slices.ContainsFunc(append(early, found...), func(v violation) bool { return v.rule == m.rule }) {
					t.Logf("found in round %d: %s", r.round, m.rule)
					return
				}
			}
			t.Errorf("five rounds, and the checker did not see that something is %q", m.rule)
		})
	}
}

func earlyUnderKills(r *rig) func() []violation {
	b := node{store: r.t.TempDir()}.startBroker(r.t)
	r.nats = func() string { return b.url }
	r.addBroken(answersEarly, b.url)
	return func() []violation {
		b.end(r.t, syscall.SIGKILL)
		hold(time.Second)
		b.start(r.t)
		b.waitHealthy(r.t)
		return nil
	}
}

// noIDUnderRetries needs no fault: senders lose answers on good days too.
func noIDUnderRetries(r *rig) func() []violation {
	b := node{store: r.t.TempDir()}.startBroker(r.t)
	r.nats = func() string { return b.url }
	r.addBroken(dropsID, b.url)
	return func() []violation {
		r.load.waitFor(r.t, 50)
		return nil
	}
}

func noFlushUnderPowerCut(r *rig) func() []violation {
	img := r.newImage()
	store := filepath.Join(img.dir, "data")
	u := r.addBroken(skipsFlush, store)
	r.nats = func() string { return readURL(r.t, store) }
	return func() []violation { return r.tryPower([]image{img}, []int{u.cmd.Process.Pid}, r.reopen) }
}
