package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"together-relay/adapters/together/togethersim"
)

// A day is a made-up Together whose clock the test turns, and what it served.
type day struct {
	world *togethersim.World
	clock *togethersim.Clock
	start time.Time
	base  string
	env   []string // of a relay that watches it
}

// newDay is a busy day that began with half a day of the past.
func newDay(t testing.TB, seed uint64) *day {
	t.Helper()
	return startDay(t, time.Date(2026, 7, 1, 9, 0, 0, 0, time.UTC), togethersim.Busy(seed))
}

func startDay(t testing.TB, start time.Time, cfg togethersim.Config) *day {
	t.Helper()
	d := &day{start: start.UTC()}
	d.clock = togethersim.NewClock(d.start)
	cfg.Keep = 0 // what lasts, lasts
	cfg.Start, cfg.Now, cfg.Key = d.start, d.clock.Now, keyOfTheDay
	d.world = togethersim.New(cfg)
	server := httptest.NewServer(d.world.Handler())
	t.Cleanup(server.Close)
	d.base = server.URL
	d.env = []string{"TOGETHER_API_KEY=" + cfg.Key, "TOGETHER_BASE_URL=" + server.URL + "/v1", "RELAY_WATCH_BUDGET=100000", "RELAY_WATCH_TOKENS=10MiB",
		"RELAY_WATCH_FINE_TUNES=50ms", "RELAY_WATCH_BATCHES=50ms", "RELAY_WATCH_EVALUATIONS=50ms", "RELAY_WATCH_FILES=50ms", "RELAY_WATCH_MODELS=50ms",
		"RELAY_WATCH_VIDEOS=50ms", "RELAY_WATCH_QUEUE=50ms"}
	return d
}

// baseline blocks until the relay has looked at everything once.
func (d *day) baseline(t testing.TB, p *process) {
	t.Helper()
	eventually(t, "the first looks", func() bool {
		_, text := p.get(t, p.admin+"/metrics")
		return strings.Count(text, `relay_watch_looks_total{resource=`) >= 7 && !strings.Contains(text, `result="failed"`)
	})
}

// A tale is what a watcher has to tell of a day.
type tale struct {
	must []togethersim.Fact          // seen by whoever looks at the end
	may  map[string]togethersim.Fact // seen by whoever looks often enough, by key
}

func (d *day) tale(t testing.TB, until time.Time) tale {
	t.Helper()
	var told tale
	waiting := d.waiting(t)
	told.may = map[string]togethersim.Fact{}
	for _, f := range d.world.Facts(d.start, until) {
		told.may[factKey(f)] = f
		if f.Until.IsZero() && (f.Type == "fine_tune.created" || !waiting[f.Resource]) {
			told.must = append(told.must, f)
		}
	}
	return told
}

// waiting are the jobs that the list shows as waiting. Some of them have begun, by their log, and that
// is told when it shows.
func (d *day) waiting(t testing.TB) map[string]bool {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, "/v1/fine-tunes", nil)
	req.Header.Set("Authorization", "Bearer "+keyOfTheDay)
	answer := httptest.NewRecorder()
	d.world.Handler().ServeHTTP(answer, req)
	var list struct {
		Data []struct{ ID, Status string }
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, job := range list.Data {
		ids[job.ID] = job.Status == "queued" || job.Status == "pending"
	}
	return ids
}

const keyOfTheDay = "key-of-the-tests"

// factKey names a fact, whoever has told it. The day of a change of the catalogue is the watcher's.
func factKey(f togethersim.Fact) string {
	key := f.Type + " " + f.Resource
	if f.Type == "fine_tune.checkpoint" {
		key += fmt.Sprintf(" %v %v", f.Data["step"], f.Data["checkpoint_type"])
	}
	if f.ID != "" && f.Type != "fine_tune.checkpoint" {
		key += " " + f.Discriminator
	}
	return key
}

// found are the events in the stream, by fact.
func (d *day) found(t testing.TB, url string, told tale) map[string][]foundEvent {
	t.Helper()
	keys := map[string]string{} // by the event's id
	for key, f := range told.may {
		keys[cmp.Or(f.ID, f.Type+" "+f.Resource)] = key
		keys["wh_"+f.ID] = key
	}
	all := map[string][]foundEvent{}
	for _, msg := range messages(t, url, "TOGETHER") {
		e := foundEvent{id: msg.Header.Get("ce-id"), typ: strings.TrimPrefix(msg.Header.Get("ce-type"), "ai.together."), subject: msg.Subject}
		if err := json.Unmarshal(msg.Data, &e.data); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(msg.Data), "LEAK") {
			t.Errorf("%s tells a secret: %s", e.id, msg.Data)
		}
		e.resource = msg.Header.Get("ce-subject")
		key := cmp.Or(keys[e.id], keys[e.typ+" "+e.resource])
		if e.data["confidence"] == "disappeared" { // it comes with the removal
			key = keys["model.removed "+e.resource]
		}
		if key == "" {
			t.Errorf("nobody did that: %s of %s, %s, %s", e.typ, e.resource, e.id, msg.Data)
			continue
		}
		all[key] = append(all[key], e)
	}
	return all
}

type foundEvent struct {
	id, typ, resource, subject string
	data                       map[string]any
}

// judge holds what is stored against what has happened.
func (d *day) judge(t testing.TB, url string) {
	t.Helper()
	told := d.tale(t, d.clock.Now())
	missing := func() []string {
		found := d.found(t, url, told)
		var names []string
		for _, f := range told.must {
			if len(found[factKey(f)]) == 0 {
				names = append(names, factKey(f))
			}
		}
		return names
	}
	end := time.Now().Add(patience)
	for len(missing()) > 0 && time.Now().Before(end) && !t.Failed() {
		<-time.After(100 * time.Millisecond)
	}
	for _, name := range missing() {
		t.Errorf("missing: %s", name)
	}
	seen := 0
	for key, events := range d.found(t, url, told) {
		if len(events) != 1 && !strings.HasPrefix(key, "model.") { // a model may come and go
			t.Errorf("%d events for %s: %v", len(events), key, events)
		}
		f := told.may[key]
		for _, e := range events {
			seen++
			if !strings.HasPrefix(e.id, "wh_") {
				compareData(t, key, f, e)
			}
		}
	}
	if len(told.must) < 100 {
		t.Errorf("only %d facts last, which proves little", len(told.must))
	}
	t.Logf("%d facts that last, %d that may be seen, %d events", len(told.must), len(told.may), seen)
}

// compareData holds the members of an event against what they should be.
func compareData(t testing.TB, key string, f togethersim.Fact, e foundEvent) {
	t.Helper()
	for name, want := range f.Data {
		// The world names a member of early_stopped otherwise, and kinds of checkpoints as they are labelled.
		if slices.Contains(f.Vague, name) || name == "output_url" || name == "eval_loss" && f.Type == "fine_tune.early_stopped" || name == "checkpoint_type" {
			continue
		}
		got, ok := e.data[name]
		if name == "job_deadline" { // it is deadline in the event
			got, ok = e.data["deadline"]
		}
		if want == nil && name == "model_name" && f.Type == "fine_tune.completed" {
			want = "" // the contract asks for a string
		}
		if name == "total_tokens" && fmt.Sprint(want) == "0" {
			want = nil // nothing in the output says a number
		}
		if fmt.Sprint(plain(got)) != fmt.Sprint(plain(want)) || !ok {
			t.Errorf("%s: %s is %v, want %v", key, name, got, want)
		}
	}
}

// plain makes values alike that are the same in JSON, also in a string that holds JSON.
func plain(v any) any {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		return err
	}
	if results, ok := out.(map[string]any); ok {
		for name, value := range results {
			var inner any
			if text, ok := value.(string); ok && json.Unmarshal([]byte(text), &inner) == nil {
				results[name] = inner
			}
		}
	}
	return out
}

// A course is what happens to a relay on a day.
type course struct {
	seed     uint64
	hours    int
	step     time.Duration // of the clock, for each look or so
	faults   togethersim.Faults
	webhooks bool // half of the facts come by webhook too
	kills    int  // and two relays
}

func (c course) run(t *testing.T) {
	t.Helper()
	d := newDay(t, c.seed)
	random := rand.New(rand.NewPCG(c.seed, 2))
	ns := runBroker(t)
	launches := []launch{{env: slices.Concat(withSecret, d.env, []string{"NATS_URL=" + ns})}}
	if c.kills > 0 {
		launches = append(launches, launches[0])
	}
	var relays []*process
	for _, l := range launches {
		relays = append(relays, l.start(t).waitReady(t))
		if len(relays) == 1 {
			d.baseline(t, relays[0])
		}
	}
	d.world.Set(c.faults)
	steps := c.hours * int(time.Hour/c.step)
	type delivery struct {
		step int
		f    togethersim.Fact
	}
	var due []delivery
	for i := range steps {
		before := d.clock.Now()
		now := d.clock.Turn(c.step)
		if c.webhooks {
			for _, f := range d.world.Facts(before, now) {
				if f.ID != "" && f.Until.IsZero() && !strings.HasSuffix(f.Type, "restarted") && random.IntN(2) == 0 {
					due = append(due, delivery{i + random.IntN(6), f})
				}
			}
			due = slices.DeleteFunc(due, func(w delivery) bool {
				if w.step > i {
					return false
				}
				d.deliver(t, relays[random.IntN(len(relays))], w.f)
				return true
			})
		}
		if c.kills > 0 && i%(steps/c.kills+1) == steps/c.kills/2 {
			n := i % len(relays)
			relays[n].kill(t)
			relays[n] = launches[n].start(t).waitReady(t)
			waitWatched(t, relays)
		}
		<-time.After(30 * time.Millisecond)
	}
	for _, w := range due {
		d.deliver(t, relays[0], w.f)
	}
	d.world.Set(togethersim.Faults{})
	d.judge(t, ns)
}

// waitWatched blocks until one of the relays looks again. The clock stands still meanwhile.
func waitWatched(t testing.TB, relays []*process) {
	t.Helper()
	looks := func() (counts []int) {
		for _, p := range relays {
			_, text := p.get(t, p.admin+"/metrics")
			n := 0
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "relay_watch_looks_total{") {
					var count float64
					_, _ = fmt.Sscan(line[strings.LastIndexByte(line, ' '):], &count)
					n += int(count)
				}
			}
			counts = append(counts, n)
		}
		return counts
	}
	before := looks()
	eventually(t, "one of the relays watches", func() bool { return !slices.Equal(before, looks()) })
}

// deliver posts a webhook for the fact, under an id of its own.
func (d *day) deliver(t testing.TB, p *process, f togethersim.Fact) {
	t.Helper()
	told := maps.Clone(f.Data)
	if path, ok := told["output_url"].(string); ok {
		told["output_url"] = d.base + path
	}
	if f.Type == "fine_tune.completed" && told["model_name"] == nil {
		told["model_name"] = ""
	}
	data, err := json.Marshal(told)
	if err != nil {
		t.Fatal(err)
	}
	p.mustSend(t, fmt.Appendf(nil, `{"id":"wh_%s","type":%q,"data":%s}`, f.ID, f.Type, data), 200)
}

func runBroker(t testing.TB) string {
	t.Helper()
	return runNATS(t, server.Options{}).ClientURL()
}

// What happens in some hours at Together is told once, by whichever way it comes.
func TestWatch(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]course{
		"by the API alone":      {seed: 1, hours: 8, step: 4 * time.Minute},
		"with webhooks as well": {seed: 2, hours: 6, step: 4 * time.Minute, webhooks: true},
		"with faults":           {seed: 3, hours: 6, step: 4 * time.Minute, faults: togethersim.Faults{Rate: 0.1}},
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); c.run(t) })
	}
}

// TestFaultWatch is a whole day, with everything at once.
func TestFaultWatch(t *testing.T) {
	faultTest(t, 4*time.Minute)
	for i := range max(*faultRounds/20, 1) {
		seed := *faultSeed + uint64(i)
		t.Logf("seed %d", seed)
		for name, c := range map[string]course{
			"faults":                     {seed: seed, hours: 24, step: 2 * time.Minute, faults: togethersim.Faults{Rate: 0.2}},
			"faults, webhooks and kills": {seed: seed, hours: 24, step: 2 * time.Minute, faults: togethersim.Faults{Rate: 0.1}, webhooks: true, kills: 6},
		} {
			t.Run(name, c.run)
		}
	}
}
