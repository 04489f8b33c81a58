package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

func (p *process) mustBeAway(t *testing.T, id string) {
	t.Helper()
	if status, _ := p.get(t, p.url+"/healthz"); status != http.StatusOK {
		t.Errorf("/healthz is %d, want 200", status)
	}
	if status, why := p.get(t, p.url+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(why, "NATS is not connected") {
		t.Errorf("/readyz is %d %s, want 503 and why", status, why)
	}
	a := p.mustSend(t, newBody(id), http.StatusServiceUnavailable)
	if a.Error != "Not stored" || a.Header.Get("Retry-After") == "" {
		t.Errorf("the answer is %+v, want Not stored with Retry-After", a)
	}
	p.waitLine(t, "the cause", func(line map[string]any) bool {
		why, _ := line["error"].(string)
		return line["event_id"] == id && line["outcome"] == "not_stored" && strings.HasPrefix(why, "not stored: ")
	})
}

func TestNATSIsAwayAtTheStart(t *testing.T) {
	t.Parallel()
	o := server.Options{Port: fixedPort(t)}
	p := launch{env: append([]string{fmt.Sprintf("NATS_URL=nats://127.0.0.1:%d", o.Port)}, withSecret...)}.start(t)
	p.mustBeAway(t, "evt_1")
	if r := p.verb(t, "health", "--url="+p.url); r.code != 1 || !strings.Contains(r.stderr, "not ready") {
		t.Errorf("health: %+v, want exit code 1 and why", r)
	}

	ns := runNATS(t, o)
	p.waitReady(t)
	if a := p.mustSend(t, newBody("evt_1"), http.StatusOK); a.Duplicate {
		t.Errorf("the event that was refused is there: %+v", a)
	}
	if n := len(messages(t, ns.ClientURL(), "TOGETHER")); n != 1 {
		t.Errorf("%d messages in the stream, want 1", n)
	}
}

func TestNATSRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	o := server.Options{Port: fixedPort(t), StoreDir: t.TempDir()}
	ns := runNATS(t, o)
	p := launch{env: append([]string{"NATS_URL=" + ns.ClientURL()}, withSecret...), args: []string{"--publish-timeout=500ms"}}.start(t).waitReady(t)
	senders := startLoad(p, "evt", secret, 4)
	senders.waitFor(t, 20)
	endNATS(ns)
	senders.waitFor(t, 20)
	ns = runNATS(t, o)
	p.waitReady(t)
	senders.waitFor(t, 20)
	answers := senders.end()

	// Whoever was told 503 sends again, and finds it stored or not. Each event is there once.
	there := ids(t, ns.ClientURL(), "TOGETHER")
	for id, status := range answers {
		if status != http.StatusOK && status != http.StatusServiceUnavailable || status == http.StatusOK && there[id] != 1 {
			t.Errorf("%s was answered %d and is in the stream %d times", id, status, there[id])
		}
		if status == http.StatusServiceUnavailable {
			p.mustSend(t, newBody(id), http.StatusOK)
		}
	}
	if n := len(messages(t, ns.ClientURL(), "TOGETHER")); n != len(answers) {
		t.Errorf("%d messages in the stream, %d were sent", n, len(answers))
	}
}

func TestFullStreamIsOurOutage(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret, args: []string{"--max-bytes=2000"}}.start(t).waitReady(t)
	stored := 0
	a, err := p.send(secret, newBody("evt_0"))
	for err == nil && a.Status == http.StatusOK && stored < 100 {
		stored++
		a, err = p.send(secret, newBody(fmt.Sprint("evt_", stored)))
	}
	if err != nil || a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
		t.Errorf("the answer of a full stream is %+v, %v; want 503 with Retry-After", a, err)
	}
	if status, why := p.get(t, p.url+"/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz of a full stream is %d %s", status, why)
	}
	if n := len(messages(t, p.nats, "TOGETHER")); n != stored || stored == 0 {
		t.Errorf("%d messages in the stream, %d were answered 200", n, stored)
	}
}

func TestNATSGoesAndComesBack(t *testing.T) {
	t.Parallel()
	o := server.Options{Port: fixedPort(t), StoreDir: t.TempDir()}
	ns := runNATS(t, o)
	p := launch{env: append([]string{"NATS_URL=" + ns.ClientURL()}, withSecret...)}.start(t).waitReady(t)
	p.mustSend(t, newBody("evt_1"), http.StatusOK)

	endNATS(ns)
	eventually(t, "not ready", func() bool {
		status, _ := p.get(t, p.url+"/readyz")
		return status == http.StatusServiceUnavailable
	})
	p.mustBeAway(t, "evt_2")

	ns = runNATS(t, o)
	p.waitReady(t)
	if there := ids(t, ns.ClientURL(), "TOGETHER"); there["evt_1"] != 1 || there["evt_2"] != 0 {
		t.Errorf("in the stream: %v; want evt_1 alone, and nothing sent behind our back", there)
	}
	if a := p.mustSend(t, newBody("evt_1"), http.StatusOK); !a.Duplicate {
		t.Errorf("evt_1 again: %+v, want a duplicate", a)
	}
	if a := p.mustSend(t, newBody("evt_2"), http.StatusOK); a.Duplicate {
		t.Errorf("evt_2: %+v, want it stored now", a)
	}
}
