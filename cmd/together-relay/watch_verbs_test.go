package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"together-relay/adapters/together/togethersim"
)

// quiet is a made-up Together in which only happens what the test makes happen.
func quiet(t testing.TB) *day {
	t.Helper()
	return startDay(t, time.Now(), togethersim.Config{Models: 3})
}

func (d *day) watch(t testing.TB, args ...string) *process {
	t.Helper()
	p := launch{env: slices.Concat(withSecret, d.env), args: args}.start(t).waitReady(t)
	d.baseline(t, p)
	return p
}

// has says whether an event of the type and resource is stored.
func (p *process) has(t testing.TB, typ, resource string) bool {
	t.Helper()
	return strings.Contains(p.verb(t, "events", "--resource", resource).stdout, "\t"+typ+"\t")
}

func TestWaitEndsWithTheJob(t *testing.T) {
	t.Parallel()
	d := quiet(t)
	ft := d.world.AddFineTune(togethersim.FineTune{})
	gone := d.world.AddBatch(togethersim.Batch{})
	p := d.watch(t)

	waits := map[string]chan result{}
	for _, mode := range []string{"with the API", "without it"} {
		done := make(chan result, 1)
		waits[mode] = done
		cmd, stdout, stderr := p.newVerb(t, "wait", ft, "--every=50ms", "--timeout=30s", "-o", "json")
		if mode == "without it" {
			cmd.Env = slices.DeleteFunc(slices.Clone(cmd.Env), func(v string) bool { return strings.HasPrefix(v, "TOGETHER_API_KEY=") })
		}
		go func() {
			_ = cmd.Run()
			done <- result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
		}()
	}
	d.clock.Turn(time.Minute)
	d.world.Move(ft, "running")
	eventually(t, "it runs", func() bool { return p.has(t, "fine_tune.running", ft) })
	d.clock.Turn(time.Minute)
	d.world.Move(ft, "completed")
	for mode, done := range waits {
		r := <-done
		var end ending
		if err := json.Unmarshal([]byte(r.stdout), &end); err != nil || r.code != exitDone || end.Outcome != "done" || end.Type != "fine_tune.completed" || end.ID != ft {
			t.Errorf("%s: exit code %d, %s, %s", mode, r.code, r.stdout, r.stderr)
		}
	}

	// What is over is found, by the store or by the API.
	if r := p.verb(t, "wait", ft); r.code != exitDone || !strings.Contains(r.stdout, "fine_tune.completed") {
		t.Errorf("wait for what is over: %+v", r)
	}
	for status, code := range map[string]int{"FAILED": exitJobFailed, "EXPIRED": exitJobCancelled, "CANCELLED": exitJobCancelled} {
		id := d.world.AddBatch(togethersim.Batch{})
		d.clock.Turn(time.Minute)
		d.world.Move(id, status)
		if r := p.verb(t, "wait", id, "--every=50ms"); r.code != code {
			t.Errorf("%s: %+v, want exit code %d", status, r, code)
		}
	}
	if r := p.verb(t, "wait", gone, "--timeout=200ms"); r.code != exitTimedOut || r.stdout != "" {
		t.Errorf("a wait in vain: %+v", r)
	}
	if r := p.verb(t, "wait", "ft-1", "--timeout=-1s"); r.code != exitUsage {
		t.Errorf("a negative time: %+v", r)
	}
}

func TestReconcileFindsWhatIsMissing(t *testing.T) {
	t.Parallel()
	d := startDay(t, time.Now(), togethersim.Busy(4)) // with half a day of the past, which the first look leaves out
	d.env = append(d.env, "RELAY_WATCH_MODELS=0s")
	p := launch{env: slices.Concat(withSecret, d.env)}.start(t).waitReady(t)
	r := p.verb(t, "reconcile", "--since=3h")
	gaps := strings.Count(r.stdout, "\tmissing\n")
	if r.code != exitFailed || gaps < 10 {
		t.Fatalf("%d gaps, exit code %d: %s", gaps, r.code, r.stderr)
	}
	if r := p.verb(t, "reconcile", "--since=3h", "--fix", "-o", "json"); r.code != exitDone || strings.Count(r.stdout, `"sequence":`) < gaps {
		t.Errorf("--fix: exit code %d, %s%s", r.code, r.stdout, r.stderr)
	}
	if r := p.verb(t, "reconcile", "--since=3h"); r.code != exitDone || r.stdout != "" {
		t.Errorf("after --fix: %+v", r)
	}
	for id, n := range ids(t, p.nats, "TOGETHER") {
		if n != 1 {
			t.Errorf("%s is stored %d times", id, n)
		}
	}
}

func TestWebhooksVerbs(t *testing.T) {
	t.Parallel()
	d := quiet(t)
	p := d.watch(t)
	register := []string{"webhooks", "register", "--url=https://relay.example.com/webhooks/together"}
	for _, args := range [][]string{register, {"webhooks", "ls"}, {"webhooks", "rm", "wh_1"}} {
		if r := p.verb(t, args...); r.code != exitFailed || !strings.Contains(r.stderr, "no webhooks at Together") || !strings.Contains(r.stderr, "TOGETHER_API_KEY") {
			t.Errorf("%s: %+v", args[1], r)
		}
	}
	d.world.Set(togethersim.Faults{Webhooks: true})
	if r := p.verb(t, register...); r.code != exitDone || !strings.Contains(r.stdout, "https://relay.example.com/webhooks/together") {
		t.Fatalf("register: %+v", r)
	}
	r := p.verb(t, "webhooks", "ls", "-o", "json")
	var hook struct{ ID, URL string }
	if err := json.Unmarshal([]byte(r.stdout), &hook); err != nil || hook.ID == "" || strings.Contains(r.stdout, secret) {
		t.Fatalf("ls: %+v, %v", r, err)
	}
	if r := p.verb(t, "webhooks", "rm", hook.ID); r.code != exitDone {
		t.Errorf("rm: %+v", r)
	}
	if r := p.verb(t, "webhooks", "register", "--url=relay.example.com"); r.code != exitUsage {
		t.Errorf("an address that is none: %+v", r)
	}
}

func TestRefusedKeyIsLeftAlone(t *testing.T) {
	t.Parallel()
	d := quiet(t)
	p := d.watch(t)
	d.world.Set(togethersim.Faults{Status: http.StatusUnauthorized})
	eventually(t, "readiness speaks of the key", func() bool {
		status, text := p.get(t, p.url+"/readyz")
		return status == http.StatusOK && strings.Contains(text, "refuses the key") && strings.Contains(text, "401")
	})
	eventually(t, "a metric speaks of the key", func() bool {
		_, text := p.get(t, p.admin+"/metrics")
		return strings.Contains(text, "relay_watch_key_accepted 0")
	})
	asked := func() (n int) {
		for _, count := range d.world.Requests() {
			n += count
		}
		return n
	}
	before := asked()
	<-time.After(500 * time.Millisecond) // ten intervals
	if after := asked(); after > before+5 {
		t.Errorf("%d requests with a refused key", after-before)
	}
	if a := p.mustSend(t, newBody("evt_1"), http.StatusOK); a.Duplicate { // webhooks go on
		t.Error("a duplicate")
	}
}

// One list for each look, and details only of what has moved.
func TestWatchHasManners(t *testing.T) {
	t.Parallel()
	d := quiet(t)
	ft := d.world.AddFineTune(togethersim.FineTune{})
	d.clock.Turn(time.Minute)
	p := d.watch(t)
	before := d.world.Requests()
	<-time.After(500 * time.Millisecond)
	for pattern, n := range d.world.Requests() {
		if n > before[pattern] && strings.Contains(pattern, "{id}") {
			t.Errorf("%d requests %s while nothing happens", n-before[pattern], pattern)
		}
	}
	d.world.Move(ft, "cancelled")
	eventually(t, "the job is over", func() bool { return p.has(t, "fine_tune.cancelled", ft) })
	moved := 0
	for pattern, n := range d.world.Requests() {
		if strings.HasPrefix(pattern, "GET /v1/fine-tunes/{id}") {
			moved += n - before[pattern]
		}
	}
	if moved > 5 {
		t.Errorf("%d requests for details of one change", moved)
	}
}

// The look-back is told, and what lies before it is not.
func TestWatchLooksBack(t *testing.T) {
	t.Parallel()
	d := startDay(t, time.Now(), togethersim.Busy(5)) // the look-back is by our clock
	d.env = append(d.env, "RELAY_SINCE=3h")
	p := d.watch(t)
	now := d.clock.Now()
	stored, waiting := ids(t, p.nats, "TOGETHER"), d.waiting(t)
	want := 0 // of a file it is not known when it was checked
	for _, f := range d.world.Facts(now.Add(-3*time.Hour+time.Minute), now) {
		if f.Until.IsZero() && f.ID != "" && !strings.HasPrefix(f.Type, "model.") && !strings.HasPrefix(f.Type, "file.") && !waiting[f.Resource] {
			want++
			if stored[f.ID] != 1 {
				t.Errorf("%s of %s at %s is missing", f.Type, f.Resource, f.At)
			}
		}
	}
	for _, m := range messages(t, p.nats, "TOGETHER") {
		when, err := time.Parse(time.RFC3339Nano, m.Header.Get("ce-time"))
		if err != nil || when.Before(now.Add(-3*time.Hour-time.Minute)) {
			t.Errorf("%s of %s, %v", m.Subject, when, err)
		}
	}
	if want < 10 {
		t.Errorf("only %d facts in the look-back", want)
	}
}

func TestSimulate(t *testing.T) {
	t.Parallel()
	p := launch{args: []string{"--dev", "--simulate", "--log-format=json"}}.start(t).waitReady(t)
	eventually(t, "living events", func() bool { return len(messages(t, p.nats, "TOGETHER")) > 3 })
	if !strings.Contains(p.out.String(), "TOGETHER_BASE_URL=http://127.0.0.1:") {
		t.Errorf("the banner does not say where the made-up Together is: %s", p.out)
	}
}
