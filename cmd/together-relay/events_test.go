package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// A hook is an endpoint that keeps what it is sent.
type hook struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	bodies   [][]byte
}

func startHook(t *testing.T, status int) *hook {
	t.Helper()
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.requests, h.bodies = append(h.requests, r), append(h.bodies, body)
		w.WriteHeader(status)
	}))
	t.Cleanup(h.Close)
	return h
}

// paths are the paths of the requests so far.
func (h *hook) paths() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var paths []string
	for _, r := range h.requests {
		paths = append(paths, r.URL.Path)
	}
	return paths
}

func TestForwardSendsTheOriginalBytes(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	bodies := [][]byte{
		newBody("evt_1"),
		[]byte(" {\"data\" :{\"b\":1.0, \"a\":\"\\u00e9é\",\"b\":1e2},\n\"more\":[1,  2], \"type\":\"brand.new\",\t\"id\":\"evt\\u002d2\", \"created\":1.5}\n"),
	}
	for _, body := range bodies {
		p.mustSend(t, body, http.StatusOK)
	}
	h := startHook(t, http.StatusNoContent)
	r := p.verb(t, "events", "--forward-to="+h.URL+"/hook")
	if want := "204  No Content  evt_1  seq 1\n204  No Content  evt-2  seq 2\n"; r.code != 0 || r.stdout != want {
		t.Errorf("events --forward-to: %+v, want %q", r, want)
	}
	if len(h.bodies) != len(bodies) {
		t.Fatalf("%d requests arrived, want %d", len(h.bodies), len(bodies))
	}
	for i, body := range bodies {
		got := h.requests[i]
		if !bytes.Equal(h.bodies[i], body) {
			t.Errorf("the body is %q, want %q", h.bodies[i], body)
		}
		if s := got.Header.Get("X-Together-Signature"); s != sign(secret, body) {
			t.Errorf("the signature is %q, want that of the body", s)
		}
		if got.Method != http.MethodPost || got.URL.Path != "/hook" || got.Header.Get("Content-Type") != "application/json" {
			t.Errorf("the request is %s %s with %v", got.Method, got.URL, got.Header)
		}
	}
}

func TestForwardSignsFreshly(t *testing.T) {
	t.Parallel()
	p := startSources(t)
	if r := p.verb(t, "trigger", "batch.done", "--source=gateway"); r.code != 0 {
		t.Fatalf("trigger: %+v", r)
	}
	h := startHook(t, http.StatusOK)
	before := time.Now().Truncate(time.Second)
	if r := p.verb(t, "events", "--forward-to="+h.URL); r.code != 0 {
		t.Fatalf("events: %+v", r)
	}
	stamp := h.requests[0].Header.Get("X-Together-Timestamp")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || time.Unix(seconds, 0).Before(before) {
		t.Errorf("the timestamp is %q, want one of now", stamp)
	}
	if s := h.requests[0].Header.Get("X-Together-Signature"); s != sign("gateway", []byte(stamp), []byte("."), h.bodies[0]) {
		t.Errorf("the signature %q does not cover timestamp and body", s)
	}
}

func TestForwardSaysWhatWasNotTaken(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	for i := range 2 {
		p.mustSend(t, newBody(fmt.Sprint("evt_", i)), http.StatusOK)
	}
	for _, status := range []int{http.StatusTeapot, http.StatusFound, http.StatusInternalServerError} {
		h := startHook(t, status)
		r := p.verb(t, "events", "--forward-to="+h.URL, "-o=json")
		want := fmt.Sprintf(`{"id":"evt_0","sequence":1,"status":%d}`, status)
		if r.code != 1 || !strings.Contains(r.stdout, want) || !strings.Contains(r.stderr, "2 events were not taken") {
			t.Errorf("events --forward-to: %+v, want exit code 1 and %s", r, want)
		}
		if len(h.bodies) != 2 {
			t.Errorf("%d requests arrived, want 2", len(h.bodies))
		}
	}
}

func TestFollowGoesOnUntilItIsStopped(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	p.mustSend(t, newBody("evt_1"), http.StatusOK)
	cmd, stdout, stderr := p.newVerb(t, "events", "--follow")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	eventually(t, "what was stored is shown", func() bool { return strings.Contains(stdout.String(), "\tevt_1\t") })
	p.mustSend(t, newBody("evt_2"), http.StatusOK)
	eventually(t, "what is stored now is shown", func() bool { return strings.Contains(stdout.String(), "\tevt_2\t") })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("events --follow: %v, want exit code 0:\n%s", err, stderr)
	}
}

// bury puts a dead letter on the stream as an older relay would have, which did not
// know that the body is good.
func bury(t *testing.T, p *process, source string, body []byte, header map[string]string) {
	t.Helper()
	msg := nats.NewMsg("relay.dlq.ingest." + source + ".schema")
	msg.Data = body
	for name, value := range header {
		msg.Header.Set(name, value)
	}
	msg.Header.Set("Relay-Source", source)
	msg.Header.Set("Relay-Reason", "schema")
	msg.Header.Set("Relay-Received", "2026-07-01T09:00:00Z")
	if _, err := connect(t, p.nats).PublishMsg(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
}

func TestRetryStoresWhatIsUsableNow(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	good, unproven := newBody("evt_1"), newBody("evt_2")
	bury(t, p, "together", good, signature(sign(secret, good)))
	bury(t, p, "together", unproven, signature(sign("a secret of old", unproven)))
	bury(t, p, "nosuch", good, signature(sign(secret, good)))

	r := p.verb(t, "dlq", "retry", "1", "2", "3")
	if r.code != 1 || !strings.HasPrefix(r.stdout, "1\tstored\ttogether.batch.done.b-1\tseq 1\n2\tstays\tinvalid signature") ||
		!strings.Contains(r.stderr, "2 of 3 dead letters stay") {
		t.Errorf("dlq retry: %+v", r)
	}
	if there := ids(t, p.nats, "TOGETHER"); len(there) != 1 || there["evt_1"] != 1 {
		t.Errorf("in the stream: %v, want evt_1", there)
	}
	if r := p.verb(t, "dlq", "ls"); !strings.HasPrefix(r.stdout, "2\t") || strings.Count(r.stdout, "\n") != 2 {
		t.Errorf("dlq ls: %+v, want 2 and 3 alone", r)
	}
	if a := p.mustSend(t, good, http.StatusOK); !a.Duplicate {
		t.Errorf("evt_1 again: %+v, want a duplicate", a)
	}
}

// A letter that is opened late is judged by the time when it arrived.
func TestRetryJudgesByTheArrival(t *testing.T) {
	t.Parallel()
	p := startSources(t)
	body, stamp := newBody("evt_1"), strconv.FormatInt(time.Date(2026, 7, 1, 9, 1, 0, 0, time.UTC).Unix(), 10)
	bury(t, p, "gateway", body, map[string]string{
		"X-Together-Signature": sign("gateway", []byte(stamp+"."), body),
		"X-Together-Timestamp": stamp,
	})
	if r := p.verb(t, "dlq", "retry", "1"); r.code != 0 || !strings.Contains(r.stdout, "1\tstored\tgw.events.batch.done.b-1\t") {
		t.Errorf("dlq retry: %+v", r)
	}
	if at := messages(t, p.nats, "TOGETHER")[0].Header.Get("ce-recordedtime"); at != "2026-07-01T09:00:00Z" {
		t.Errorf("ce-recordedtime is %q, want the arrival", at)
	}
}
