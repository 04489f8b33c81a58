package main

import (
	"net/http"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const sourcesFile = `
sources:
  together:
    secrets: [first, "${SECOND}"]
  gateway:
    secret_file: ${FILE}
    uri: https://gateway.example
    prefix: gw.events
    timestamp: required
  slow:
    secrets: [slow]
    rate: 0.0001
`

// startSources runs a relay with three sources.
func startSources(t *testing.T, env ...string) *process {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.secret"), "gateway\n")
	file := writeFile(t, filepath.Join(dir, "relay.yaml"), sourcesFile)
	env = append(env, "RELAY_CONFIG="+file, "SECOND=second", "FILE="+filepath.Join(dir, "gateway.secret"))
	return launch{env: env}.start(t).waitReady(t)
}

func signature(s string) map[string]string { return map[string]string{"X-Together-Signature": s} }

func (p *process) mustDeliver(t *testing.T, source string, body []byte, header map[string]string, status int) answer {
	t.Helper()
	a, err := p.deliver(source, body, header)
	if err != nil || a.Status != status {
		t.Errorf("source %s: the answer is %+v, %v; want %d", source, a, err, status)
	}
	return a
}

func TestEachSourceHasItsOwnSecrets(t *testing.T) {
	t.Parallel()
	p := startSources(t)
	body := newBody("evt_1")
	p.mustDeliver(t, "together", body, signature(sign("first", body)), http.StatusOK)
	p.mustDeliver(t, "together", body, signature("sha256="+sign("second", body)), http.StatusOK)
	p.mustDeliver(t, "together", body, signature(sign("slow", body)), http.StatusUnauthorized)
	p.mustDeliver(t, "slow", body, signature(sign("first", body)), http.StatusUnauthorized)
	p.mustDeliver(t, "nosuch", body, signature(sign("first", body)), http.StatusNotFound)
}

func TestTheEnvironmentHasTheLastWordOnSecrets(t *testing.T) {
	t.Parallel()
	p := startSources(t, withSecret...)
	body := newBody("evt_1")
	p.mustDeliver(t, "together", body, signature(sign(secret, body)), http.StatusOK)
	p.mustDeliver(t, "together", body, signature(sign("first", body)), http.StatusUnauthorized)
}

func TestSourceWithURIPrefixAndTimestamp(t *testing.T) {
	t.Parallel()
	p := startSources(t)
	body := newBody("evt_1")
	stamped := func(secret string, when time.Time) map[string]string {
		stamp := strconv.FormatInt(when.Unix(), 10)
		return map[string]string{
			"X-Together-Timestamp": stamp,
			"X-Together-Signature": sign(secret, []byte(stamp), []byte("."), body),
		}
	}
	now := time.Now()
	p.mustDeliver(t, "gateway", body, signature(sign("gateway", body)), http.StatusUnauthorized)
	p.mustDeliver(t, "gateway", body, stamped("first", now), http.StatusUnauthorized)
	p.mustDeliver(t, "gateway", body, stamped("gateway", now.Add(-time.Hour)), http.StatusUnauthorized)
	p.mustDeliver(t, "gateway", body, stamped("gateway", now.Add(time.Hour)), http.StatusUnauthorized)
	a := p.mustDeliver(t, "gateway", body, stamped("gateway", now), http.StatusOK)
	if a.Subject != "gw.events.batch.done.b-1" {
		t.Errorf("subject %q, want the source's prefix", a.Subject)
	}

	// The same id at another source is another event.
	if a := p.mustDeliver(t, "together", body, signature(sign("first", body)), http.StatusOK); a.Duplicate {
		t.Errorf("the answer is %+v, want it stored", a)
	}
	type origin struct{ Subject, Source, ID string }
	var got []origin
	for _, msg := range messages(t, p.nats, "TOGETHER") {
		got = append(got, origin{msg.Subject, msg.Header.Get("ce-source"), msg.Header.Get("Nats-Msg-Id")})
	}
	want := []origin{
		{"gw.events.batch.done.b-1", "https://gateway.example", "gateway:evt_1"},
		{"together.batch.done.b-1", "https://api.together.ai", "together:evt_1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in the stream (-want +got):\n%s", diff)
	}
}

func TestTriggerSignsForEachSource(t *testing.T) {
	t.Parallel()
	p := startSources(t)
	for _, source := range []string{"together", "gateway"} {
		if r := p.verb(t, "trigger", "batch.done", "--source="+source); r.code != 0 {
			t.Errorf("trigger --source=%s: %+v", source, r)
		}
	}
}

func TestSourceWithARate(t *testing.T) {
	t.Parallel()
	p := startSources(t)
	first, second := newBody("evt_1"), newBody("evt_2")
	p.mustDeliver(t, "slow", first, signature(sign("slow", first)), http.StatusOK)
	a := p.mustDeliver(t, "slow", second, signature(sign("slow", second)), http.StatusTooManyRequests)
	if a.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	p.mustDeliver(t, "together", first, signature(sign("first", first)), http.StatusOK)
}
