package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
)

// whereabouts is what where says of the teams, by the id of the event.
func (p *process) whereabouts(t *testing.T, args ...string) map[string][]whereTeamLine {
	t.Helper()
	r := p.verb(t, append([]string{"where", "-o", "json"}, args...)...)
	if r.code != 0 {
		t.Fatalf("where: %+v", r)
	}
	found := map[string][]whereTeamLine{}
	for text := range strings.Lines(r.stdout) {
		var line whereLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		found[line.ID] = line.Teams
	}
	return found
}

// Beside a relay that runs: taken, given up, dead, sent once more.
func TestWhereIsEachEvent(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "teams: {ml: {backoff: [1m], events: [batch.done]}, billing: {backoff: [1m], events: [model.deprecated]}}")
	p := launch{env: withSecret, args: []string{"--config=" + file}}.start(t).waitReady(t)
	js := connect(t, p.login(t))
	ml := p.teamConsumer(t, js, "ml", "is there", there)
	p.teamConsumer(t, js, "billing", "is there", there)
	var taken []jetstream.Msg
	for i := range 5 {
		p.mustSend(t, newBody(fmt.Sprint("evt_", i+1)), 200)
		if i == 4 {
			break
		}
		msg, err := ml.Next()
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, msg)
	}
	if err := taken[0].DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := taken[2].TermWithReason("no such batch"); err != nil {
		t.Fatal(err)
	}
	not := whereTeamLine{Team: "billing", whereStanding: whereStanding{State: "not_subscribed"}}
	state := func(s whereStanding, copies ...whereCopyLine) []whereTeamLine {
		return []whereTeamLine{not, {Team: "ml", whereStanding: s, Copies: copies}}
	}
	dead := whereStanding{State: "dead", Letter: &whereLetter{1, "terminated", "no such batch"}}
	want := map[string][]whereTeamLine{
		"evt_1": state(whereStanding{State: "acknowledged"}), "evt_2": state(whereStanding{State: "waiting"}), "evt_3": state(dead),
		"evt_4": state(whereStanding{State: "waiting"}), "evt_5": state(whereStanding{State: "pending"}),
	}
	eventually(t, "the dead letter is made", func() bool { return p.teamLines(t)["ml"].DeadLetters == 1 })
	if diff := cmp.Diff(want, p.whereabouts(t, "b-1"), cmp.AllowUnexported(whereTeamLine{}, whereCopyLine{})); diff != "" {
		t.Errorf("where (-want +got):\n%s", diff)
	}
	if r := p.verb(t, "where", "evt_3"); r.code != 0 || !strings.Contains(r.stdout, "  ml          dead letter 1, terminated: no such batch\n") {
		t.Errorf("where: %+v", r)
	}

	if r := p.verb(t, "replay", "--team=ml", "--from-seq=1", "--to-seq=1"); r.code != 0 {
		t.Fatalf("replay: %+v", r)
	}
	id := p.theReplay(t).ID
	copies, err := js.Consumer(t.Context(), "TOGETHER_REPLAY", "ml")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"pending", "waiting", "acknowledged"} {
		want := map[string][]whereTeamLine{"evt_1": state(whereStanding{State: "acknowledged"}, whereCopyLine{id, 1, whereStanding{State: s}})}
		eventually(t, "the copy is "+s, func() bool {
			return cmp.Equal(want, p.whereabouts(t, "evt_1", "--since=1h"), cmp.AllowUnexported(whereTeamLine{}, whereCopyLine{}))
		})
		switch s {
		case "pending":
			msg, err := copies.Next(jetstream.FetchMaxWait(patience))
			if err != nil {
				t.Fatal(err)
			}
			taken[0] = msg
		case "waiting":
			if err := taken[0].DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}

	if r := p.verb(t, "dlq", "retry", "1"); r.code != 0 {
		t.Fatalf("dlq retry: %+v", r)
	}
	retried := map[string][]whereTeamLine{"evt_3": state(whereStanding{State: "retried"}, whereCopyLine{"dlq-1", 2, whereStanding{State: "pending"}})}
	if diff := cmp.Diff(retried, p.whereabouts(t, "evt_3"), cmp.AllowUnexported(whereTeamLine{}, whereCopyLine{})); diff != "" {
		t.Errorf("after dlq retry (-want +got):\n%s", diff)
	}

	// One that was taken out of the file keeps its place, and that is said.
	writeFile(t, file, "teams: {billing: {backoff: [1m], events: [model.deprecated]}}")
	p.teamConsumer(t, js, "ml", "is paused", func(info *jetstream.ConsumerInfo) bool { return info.Paused })
	if r := p.verb(t, "where", "evt_5"); r.code != 0 || !strings.Contains(r.stdout, "  ml          pending; the team is paused\n") {
		t.Errorf("where: %+v", r)
	}
}

func TestWhereProgress(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	q := whereSearch{arg: "evt 1", stderr: &said}
	tell := q.progress(time.Now().Add(-time.Second))
	tell(10, 100)
	if said.Len() > 0 {
		t.Errorf("after a second it said %s", &said)
	}
	tell = q.progress(time.Now().Add(-3 * time.Second))
	tell(10, 100)
	tell(20, 100)
	if want := "together-relay: looking for the id evt 1 in the headers of all that is stored, 10 of 100; --since makes it shorter\n"; said.String() != want {
		t.Errorf("it said %s, want %s", &said, want)
	}
}
