package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
)

func typedBody(id, typ, data string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"type":%q,"created_at":"2026-07-01T09:00:00Z","data":%s}`, id, typ, data)
}

// teamConsumer waits for the team's consumer to be as it should.
func (p *process) teamConsumer(t *testing.T, js jetstream.JetStream, name, what string, is func(*jetstream.ConsumerInfo) bool) jetstream.Consumer {
	t.Helper()
	var found jetstream.Consumer
	eventually(t, name+": "+what, func() bool {
		c, err := js.Consumer(t.Context(), "TOGETHER", name)
		if err == nil && is(c.CachedInfo()) {
			found = c
		}
		return found != nil
	})
	return found
}

func there(*jetstream.ConsumerInfo) bool { return true }

// drain takes events until none has waited for a while, and counts them by id.
func drain(t *testing.T, c jetstream.Consumer) map[string]int {
	t.Helper()
	got := map[string]int{}
	for {
		batch, err := c.Fetch(200, jetstream.FetchMaxWait(500*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		before := len(got)
		for msg := range batch.Messages() {
			got[msg.Headers().Get("ce-id")]++
			if err := msg.Ack(); err != nil {
				t.Error(err)
			}
		}
		info, err := c.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == before && info.NumPending == 0 {
			return got
		}
	}
}

// asTeam is the team's consumer as the team itself sees it.
func (p *process) asTeam(t *testing.T, team string, args ...string) jetstream.Consumer {
	t.Helper()
	r := p.verb(t, append([]string{"teams", "creds", team, "-o", "json"}, args...)...)
	creds := map[string]string{}
	if err := json.Unmarshal([]byte(r.stdout), &creds); err != nil || r.code != 0 {
		t.Fatalf("teams creds: %+v, %v", r, err)
	}
	js := connect(t, strings.Replace(creds["nats_url"], "://", "://"+creds["nats_user"]+":"+creds["nats_password"]+"@", 1))
	c, err := js.Consumer(t.Context(), "TOGETHER", team)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lines are those of teams ls -o json by team.
func (p *process) teamLines(t *testing.T, args ...string) map[string]teamLine {
	t.Helper()
	r := p.verb(t, append([]string{"teams", "ls", "-o", "json"}, args...)...)
	if r.code != 0 {
		t.Fatalf("teams ls: %+v", r)
	}
	lines := map[string]teamLine{}
	for text := range strings.Lines(r.stdout) {
		var line teamLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		lines[line.Team] = line
	}
	return lines
}

func TestTeamsGetTheirEvents(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "teams: {ml: {backoff: [30s], events: ['fine_tune.*', model.deprecated]}, billing: {backoff: [30s], events: [batch.done, 'batch.*', bach.done]}}")
	p := launch{env: withSecret, args: []string{"--config=" + file}}.start(t).waitReady(t)
	p.waitLine(t, "a warning of the unknown type", func(line map[string]any) bool {
		text, _ := line["message"].(string)
		return line["level"] == "warn" && strings.Contains(text, `no known type is "bach.done"; did you mean "batch.done"?`)
	})
	p.mustSend(t, newBody("b1"), http.StatusOK)
	p.mustSend(t, typedBody("f1", "fine_tune.completed", `{"fine_tune_id":"ft-1","model_name":"m","eval_loss":null}`), http.StatusOK)
	p.mustSend(t, typedBody("m1", "model.deprecated", `{"model_id":"m-1","replacement_model":null,"sunset_date":null}`), http.StatusOK)
	p.mustSend(t, typedBody("m2", "model.other", `{}`), http.StatusOK)
	js := connect(t, p.login(t))
	ml, billing := p.teamConsumer(t, js, "ml", "is there", there), p.teamConsumer(t, js, "billing", "is there", there)

	eventually(t, "two wait for ml, which has both consumers", func() bool {
		line := p.teamLines(t, "--config="+file)["ml"]
		return line.Pending == 2 && line.State == ""
	})
	if line := p.teamLines(t, "--config="+file)["ml"]; line.Oldest == nil || len(line.Drift) > 0 || !slices.Equal(line.Events, []string{"fine_tune.*", "model.deprecated"}) {
		t.Errorf("ml is %+v", line)
	}
	if diff := cmp.Diff(map[string]int{"f1": 1, "m1": 1}, drain(t, ml)); diff != "" {
		t.Errorf("ml (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"b1": 1}, drain(t, billing)); diff != "" {
		t.Errorf("billing (-want +got):\n%s", diff)
	}
	eventually(t, "ml has acknowledged all", func() bool {
		line := p.teamLines(t)["ml"]
		return line.Pending == 0 && line.InFlight == 0 && line.Acknowledged.Sequence == 3 && line.Acknowledged.Time != nil && line.Oldest == nil
	})

	// A restart changes nothing, and nobody gets anything again.
	p.stop(t)
	p = launch{dir: p.dir, env: withSecret, args: []string{"--config=" + file}}.start(t).waitReady(t)
	p.mustSend(t, newBody("b2"), http.StatusOK)
	billing = p.teamConsumer(t, connect(t, p.login(t)), "billing", "is there", there)
	if diff := cmp.Diff(map[string]int{"b2": 1}, drain(t, billing)); diff != "" {
		t.Errorf("billing (-want +got):\n%s", diff)
	}
	for _, line := range p.log.lines() {
		if text, _ := line["message"].(string); strings.Contains(text, "differs") || strings.Contains(text, "was changed") {
			t.Errorf("log line %v after a restart", line)
		}
	}
}

// The file changes while events come in: the team loses none, and has its place kept.
func TestTeamsFileChangesUnderLoad(t *testing.T) {
	t.Parallel()
	for _, hangup := range []bool{false, true} {
		t.Run(fmt.Sprintf("hangup %v", hangup), func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "relay.yaml")
			write := func(text string) { writeFile(t, file, text) }
			write("teams: {billing: {backoff: [30s], events: [batch.done]}}")
			p := launch{env: withSecret, args: []string{"--config=" + file}}.start(t).waitReady(t)
			js := connect(t, p.login(t))
			billing := p.teamConsumer(t, js, "billing", "is there", there)
			load := startLoad(p, "load", secret, 2)
			load.waitFor(t, 20)
			first := drainSome(t, billing, 10)

			write("teams: {billing: {events: ['batch.>'], max_deliver: 7, backoff: [20s], max_ack_pending: 50}, late: {backoff: [30s], events: [batch.done]}}")
			if hangup {
				p.signal(t, syscall.SIGHUP)
			}
			p.teamConsumer(t, js, "billing", "is changed", func(info *jetstream.ConsumerInfo) bool {
				return info.Config.MaxDeliver == 7 && info.Config.MaxAckPending == 50 && info.Config.AckWait == 20*time.Second
			})
			p.teamConsumer(t, js, "late", "is there", there)
			load.waitFor(t, 20)
			answers := load.end()
			mustTake(t, answers)

			got := drain(t, billing)
			for id, n := range first {
				got[id] += n
			}
			sent := map[string]int{}
			for id := range maps.Keys(answers) {
				sent[id] = 1
			}
			if diff := cmp.Diff(sent, got); diff != "" {
				t.Errorf("billing (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(sent, drain(t, p.asTeam(t, "late", "--config="+file))); diff != "" {
				t.Errorf("late (-want +got):\n%s", diff)
			}

			// One that is wrong changes nothing.
			write("teams: {billing: {events: [batch.done], push: {}}}")
			if hangup {
				p.signal(t, syscall.SIGHUP)
				p.waitLog(t, "configuration not read again; the old one stays")
			} else {
				p.waitLog(t, "teams not read again; the old ones stay")
			}
			p.teamConsumer(t, js, "late", "is not paused", func(info *jetstream.ConsumerInfo) bool { return !info.Paused })
		})
	}
}

// drainSome takes and acknowledges n events.
func drainSome(t *testing.T, c jetstream.Consumer, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for len(got) < n {
		msg, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		got[msg.Headers().Get("ce-id")]++
		if err := msg.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func TestTeamTakenOutIsPaused(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "relay.yaml")
	both, one := "teams: {ml: {backoff: [30s], events: [batch.done]}, billing: {events: [batch.done]}}", "teams: {billing: {events: [batch.done]}}"
	writeFile(t, file, both)
	p := launch{env: withSecret, args: []string{"--config=" + file}}.start(t).waitReady(t)
	js := connect(t, p.login(t))
	p.teamConsumer(t, js, "ml", "is there", there)
	paused := func(info *jetstream.ConsumerInfo) bool { return info.Paused }
	awake := func(info *jetstream.ConsumerInfo) bool { return !info.Paused }

	writeFile(t, file, one)
	p.teamConsumer(t, js, "ml", "is paused", paused)
	p.waitLog(t, "the team is not in the file any more; it is paused and keeps its place. together-relay teams rm deletes it")
	p.teamConsumer(t, js, "billing", "is not paused", awake)
	p.mustSend(t, newBody("b1"), http.StatusOK)
	eventually(t, "the line of ml", func() bool {
		line := p.teamLines(t, "--config="+file)["ml"]
		return line.State == teamRemoved && line.Paused && line.Pending == 1
	})

	writeFile(t, file, both)
	ml := p.teamConsumer(t, js, "ml", "is resumed", awake)
	if diff := cmp.Diff(map[string]int{"b1": 1}, drain(t, ml)); diff != "" {
		t.Errorf("ml (-want +got):\n%s", diff)
	}

	// A relay that has no file at all says nothing about teams.
	p.stop(t)
	p = launch{dir: p.dir, env: withSecret}.start(t).waitReady(t)
	p.teamConsumer(t, connect(t, p.login(t)), "ml", "is not paused", awake)
	// One whose file has none has taken all of them out.
	p.stop(t)
	writeFile(t, file, "log_level: info")
	p = launch{dir: p.dir, env: withSecret, args: []string{"--config=" + file}}.start(t).waitReady(t)
	js = connect(t, p.login(t))
	p.teamConsumer(t, js, "ml", "is paused", paused)
	p.teamConsumer(t, js, "billing", "is paused", paused)
}
