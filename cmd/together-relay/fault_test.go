package main

import (
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

var (
	faultRun    = flag.Bool("fault", false, "run the fault tests: real processes, real kills")
	faultRounds = flag.Int("fault.rounds", 20, "rounds of each fault")
	faultSeed   = flag.Uint64("fault.seed", uint64(time.Now().UnixNano()), "seed of all that is left to chance")
	faultAtOnce = flag.Int("fault.at-once", 4, "faults that are tested at one time")
	faultTable  = flag.String("fault.table", "", "`file` for the table of what was survived")
)

// A fault is what can go wrong. Its set-up starts the relays, and the brokers if they are
// outside, and returns what strikes them and mends them again, once for each round.
type fault struct {
	name string
	set  func(*rig) (strike func())
}

// faults are all that the relay survives.
var faults = []fault{
	{"relay killed, embedded store", relayKilledEmbedded},
	{"relay killed, outside broker", relayKilledOutside},
	{"relay stopped and continued", relayStopped},
	{"two relays, both killed in turn", twoRelays},
	{"broker killed and restarted", brokerKilled},
	{"broker stopped and continued", brokerStopped},
	{"broker restarted with an empty store", brokerEmptied},
	{"network cut", networkCut},
	{"network slow", networkSlow},
	{"sender's clock stepped", clockStepped},
	{"disk full, embedded store", diskFullEmbedded},
	{"disk full, outside broker", diskFullOutside},
	{"power cut, embedded store", powerCutEmbedded},
	{"power cut, outside broker", powerCutOutside},
	{"power cut, all of three nodes", powerCutCluster},
	{"stream leader killed, three nodes", leaderKilled},
	{"stream leader stopped, three nodes", leaderStopped},
	{"two of three nodes killed", twoOfThreeGone},
	{"rolling restart of three nodes", rollingRestart},
	{"stream leader moved, three nodes", leaderMoved},
}

// faultTest skips a test that runs only with -fault, or that go test is going to cut off.
func faultTest(t *testing.T, needs time.Duration) {
	t.Helper()
	if !*faultRun {
		t.Skip("the fault tests run with -fault")
	}
	if end, ok := t.Deadline(); ok && time.Until(end) < needs {
		t.Skipf("it needs up to %s, and go test ends in %s: give it -timeout 1h", needs, time.Until(end).Round(time.Second))
	}
}

// TestFault proves the promise: what was answered 200 is stored, once, whatever fails.
//
//	go test ./cmd/together-relay -run Fault -fault -v                    # seven minutes
//	go test ./cmd/together-relay -run Fault -fault -fault.rounds 1       # half a minute
//
// Several faults are tested at one time, since each of them mostly waits. Full disks and
// power cuts need mounts, and so root; otherwise they are skipped, and the table says so.
func TestFault(t *testing.T) {
	faultTest(t, 0)
	t.Logf("seed %d, %d rounds of each fault", *faultSeed, *faultRounds)
	rigs := make([]*rig, len(faults))
	var workers sync.WaitGroup
	next := make(chan int)
	for range *faultAtOnce {
		workers.Go(func() {
			for i := range next {
				t.Run(slug(faults[i].name), func(t *testing.T) {
					rigs[i] = newRig(t, faults[i].name)
					rigs[i].run(faults[i].set(rigs[i]))
				})
			}
		})
	}
	for i := range slices.Backward(faults) { // the longest first
		next <- i
	}
	close(next)
	workers.Wait()
	writeTable(t, rigs)
}

// slug is the name as part of another one: of a test or a file.
func slug(name string) string { return strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(name) }

// writeTable says what was survived, as the README quotes it.
func writeTable(t *testing.T, rigs []*rig) {
	t.Helper()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	fmt.Fprintln(w, "| fault\t| rounds\t| answered 200\t| answered 503\t| no answer\t| outcome\t|")
	fmt.Fprintln(w, "| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t|")
	for _, r := range rigs {
		if r != nil { // one that was not asked for
			fmt.Fprintf(w, "| %s\t| %d\t| %d\t| %d\t| %d\t| %s\t|\n", r.name, r.round,
				r.history.count(http.StatusOK), r.history.count(http.StatusServiceUnavailable), r.history.count(0), r.outcome())
		}
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
	fmt.Printf("seed %d\n%s", *faultSeed, b.String())
	if *faultTable != "" {
		if err := os.WriteFile(*faultTable, []byte(b.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

func (r *rig) outcome() string {
	switch {
	case r.t.Skipped():
		return "not tested: " + r.skipped
	case r.t.Failed():
		return "FAILED"
	default:
		return r.survived
	}
}

// A rig is what one fault is tried on.
type rig struct {
	t       *testing.T
	name    string
	seed    uint64
	rng     *rand.Rand
	history *history
	round   int // that were completed
	skipped string

	relays   []*underTest
	nats     func() string // where the streams are read
	survived string        // what to say of it then
	senders  int
	giveUp   time.Duration         // of the senders
	stamp    func() (string, bool) // of the senders
	load     *senders              // of this round
}

func newRig(t *testing.T, name string) *rig {
	t.Helper()
	sum := fnv.New64()
	_, _ = sum.Write([]byte(name)) // it never fails
	seed := *faultSeed ^ sum.Sum64()
	r := &rig{t: t, name: name, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), history: newHistory(t, slug(name)), survived: "each stored once",
		senders: fewSenders, giveUp: 6 * time.Second}
	t.Cleanup(func() {
		if r.load != nil {
			r.load.endNow()
			r.load.finish()
		}
	})
	return r
}

// run is the rounds: load, the fault, load again, and the look at what is stored. It ends with
// the first broken promise.
func (r *rig) run(strike func()) {
	r.t.Helper()
	for range *faultRounds {
		if end, ok := r.t.Deadline(); ok && time.Until(end) < time.Minute { // it would end all at once, and leave mounts behind
			r.t.Fatalf("there is no time for round %d; run with -timeout 1h", r.round)
		}
		for _, v := range r.once(strike) {
			r.t.Errorf("round %d: %s", r.round, v)
		}
		if r.t.Failed() {
			return
		}
		r.round++
	}
}

// once is one round. What it returns is all that is broken since the first one.
func (r *rig) once(strike func()) []violation {
	r.t.Helper()
	urls := make([]string, len(r.relays))
	for i, u := range r.relays {
		urls[i] = u.url
	}
	r.load = startSenders(r.history, fmt.Sprintf("evt-%d", r.round), r.seed+uint64(r.round), r.senders, urls, r.giveUp, r.stamp)
	r.load.waitFor(r.t, 10+r.rng.Int64N(100))
	if r.senders == manySenders {
		r.load.waitFor(r.t, 300) // by then the relay has learnt whether batches pay
	}
	strike()
	r.waitReady()
	r.load.waitFor(r.t, 30)
	r.load.finish()
	r.load = nil
	all := readStored(r.t, r.nats())
	batched := 0
	for _, m := range all {
		if m.Batched {
			batched++
		}
	}
	r.t.Logf("round %d: %d messages are stored, %d of them came in batches", r.round, len(all), batched)
	return judge(r.history.record(all))
}

// skip leaves the fault out, loudly.
func (r *rig) skip(why string) {
	r.t.Helper()
	r.skipped = why
	r.t.Skip("NOT TESTED: " + why)
}

// between is a time left to chance.
func (r *rig) between(least, most time.Duration) time.Duration {
	return least + time.Duration(r.rng.Int64N(int64(most-least)))
}

// An underTest is a relay at an address that outlives it.
type underTest struct {
	*process
	number int
	url    string
	start  func() *process
}

// addRelay starts a relay of the real command, with the embedded store or with the brokers
// at natsURL, and waits until it is ready.
func (r *rig) addRelay(l launch, natsURL string) *underTest {
	r.t.Helper()
	if l.dir == "" {
		l.dir = r.t.TempDir()
	}
	address := fmt.Sprintf("127.0.0.1:%d", fixedPort(r.t))
	l.args = append([]string{"--publish-timeout=1s", "--listen=" + address}, l.args...)
	l.env = append(l.env, withSecret...)
	if natsURL != "" {
		l.env = append(l.env, "NATS_URL="+natsURL)
	}
	u := r.add("http://"+address, func() *process { return l.start(r.t) })
	r.nats = func() string { return u.nats }
	return u
}

func (r *rig) add(url string, start func() *process) *underTest {
	r.t.Helper()
	u := &underTest{number: len(r.relays), url: url, start: start, process: start()}
	r.relays = append(r.relays, u)
	r.waitReady()
	return u
}

// waitReady blocks until each relay says that it could store.
func (r *rig) waitReady() {
	r.t.Helper()
	for _, u := range r.relays {
		within(r.t, 2*patience, "the relay is ready", func() bool { return isOK(u.url + "/readyz") })
	}
}
