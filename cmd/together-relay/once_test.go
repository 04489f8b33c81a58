package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

func TestKilledUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	senders := startLoad(p, "evt", secret, 8)
	senders.waitFor(t, 100)
	p.kill(t)
	answers := senders.end()

	p = launch{env: withSecret, dir: p.dir}.start(t).waitReady(t)
	there := ids(t, p.nats, "TOGETHER")
	for id, status := range answers {
		if status == http.StatusOK && there[id] != 1 {
			t.Errorf("%s was answered 200 and is in the stream %d times", id, there[id])
		}
	}

	// Senders without an answer send again, and so may the others.
	for id := range answers {
		if a := p.mustSend(t, newBody(id), http.StatusOK); a.Duplicate != (there[id] == 1) {
			t.Errorf("%s is sent again: %+v; it was in the stream %d times", id, a, there[id])
		}
	}
	there = ids(t, p.nats, "TOGETHER")
	for id := range answers {
		if there[id] != 1 {
			t.Errorf("%s is in the stream %d times", id, there[id])
		}
	}
	if len(there) != len(answers) {
		t.Errorf("%d events in the stream, %d were sent", len(there), len(answers))
	}
}

// The note of a relay that was killed still lies there; it misleads nobody.
func TestVerbsAfterACrash(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	p.kill(t)
	for _, verb := range [][]string{{"trigger", "batch.done"}, {"events"}, {"dlq", "ls"}, {"health"}} {
		if r := p.verb(t, verb...); r.code != 1 || !strings.Contains(r.stderr, "running?") || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%s: %+v, want exit code 1 and one line that asks whether it runs", verb, r)
		}
	}
}

func TestTwoRelaysStoreOnce(t *testing.T) {
	t.Parallel()
	const events = 30
	ns := runNATS(t, server.Options{})
	env := append([]string{"NATS_URL=" + ns.ClientURL()}, withSecret...)
	relays := []*process{launch{env: env}.start(t), launch{env: env}.start(t)}
	for _, p := range relays {
		p.waitReady(t)
	}

	for i := range events {
		id := fmt.Sprintf("evt_%d", i)
		answers := make([]answer, len(relays))
		var both sync.WaitGroup
		for j, p := range relays {
			both.Go(func() { answers[j], _ = p.send(secret, newBody(id)) })
		}
		both.Wait()
		one, two := answers[0], answers[1]
		if one.Status != http.StatusOK || two.Status != http.StatusOK || one.Sequence != two.Sequence || one.Duplicate == two.Duplicate {
			t.Errorf("%s: %+v and %+v; want one stored, one duplicate", id, one, two)
		}
	}
	if there := ids(t, ns.ClientURL(), "TOGETHER"); len(there) != events {
		t.Errorf("%d events in the stream, %d were sent", len(there), events)
	}
	if n := len(messages(t, ns.ClientURL(), "TOGETHER")); n != events {
		t.Errorf("%d messages in the stream, want %d", n, events)
	}
}
