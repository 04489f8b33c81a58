package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
)

func TestBenchStopsOnInterrupt(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	cmd, stdout, stderr := p.newVerb(t, "bench", "--duration=1h", "--verify", "-o=json")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "events", func() bool { return len(ids(t, p.nats, "TOGETHER")) > 0 })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, stderr)
	}
	var r benchReport
	if err := json.Unmarshal([]byte(stdout.String()), &r); err != nil {
		t.Fatal(err)
	}
	if !r.Interrupted || r.Verify == nil || r.Verify.Once != r.Stored || r.Stored == 0 {
		t.Errorf("%+v, %+v", r, r.Verify)
	}
}

// TestBenchVerifyFindsWhatIsWrong puts an endpoint before the relay that does what a relay
// must not do.
func TestBenchVerifyFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	js := connect(t, p.nats)
	store := func(body []byte) *nats.Msg {
		a, err := p.send(secret, body)
		if err != nil || a.Status != http.StatusOK {
			t.Errorf("the answer is %+v, %v", a, err)
		}
		return &nats.Msg{Subject: a.Subject}
	}
	in := startInbox(t, func(event int64, _ int, body []byte) int {
		switch event {
		case 3: // said to be stored, and is not
		case 5: // said to be refused, and is stored
			store(body)
			return http.StatusBadRequest
		case 7: // stored twice
			msg := store(body)
			msg.Header = nats.Header{"ce-specversion": {"1.0"}, "ce-id": {idOf(t, body)}, "ce-type": {"x"}, "ce-source": {"x"}}
			if _, err := js.PublishMsg(t.Context(), msg); err != nil {
				t.Error(err)
			}
		case 8: // stored, and nobody was told
			store(body)
			return http.StatusServiceUnavailable
		case 9: // not stored, and that was said
			return http.StatusServiceUnavailable
		default:
			store(body)
		}
		return http.StatusOK
	})
	file := "--nats-url=" + p.nats
	code, r, stderr := runBench(t.Context(), t, "--url="+in.URL, file, "--count=20", "--no-retry", "--verify")
	id := func(event int64) string { return string(appendDigits([]byte(r.Run+"_"), event)) }
	want := &verdict{Answered200: 17, Once: 15, Missing: 1, Twice: 1, Besides: 1, Unsure: 1}
	if r.Verify != nil {
		got := map[string]bool{}
		for _, wrong := range r.Verify.Wrong {
			got[wrong] = true
		}
		if diff := cmp.Diff(map[string]bool{id(3): true, id(5): true, id(7): true}, got); diff != "" {
			t.Error(diff)
		}
		r.Verify.Wrong = nil
	}
	if diff := cmp.Diff(want, r.Verify); diff != "" || code != exitFailed {
		t.Errorf("exit code %d, %s", code, diff)
	}
	if !strings.Contains(stderr, "1 missing, 1 stored twice, 1 besides; for example bench_") || !strings.Contains(stderr, "3 of 20 deliveries were not taken") {
		t.Error(stderr)
	}
}

func idOf(t *testing.T, body []byte) string {
	t.Helper()
	var event struct{ ID string }
	if err := json.Unmarshal(body, &event); err != nil {
		t.Error(err)
	}
	return event.ID
}

func TestLedger(t *testing.T) {
	t.Parallel()
	l := &ledger{}
	for _, event := range []int64{0, ledgerChunk - 1, ledgerChunk, 5 * ledgerChunk} {
		l.mark(event, wasStored)
		l.mark(event, wasUnsure)
		if got := l.of(event); got != wasStored|wasUnsure {
			t.Errorf("event %d is %b", event, got)
		}
	}
	for _, event := range []int64{-1, 1, 5*ledgerChunk + 1, 6 * ledgerChunk, maxBenchEvents} {
		if got := l.of(event); got != 0 {
			t.Errorf("event %d is %b", event, got)
		}
	}
	v := &verdict{}
	v.found(l, ledgerChunk, "one")
	v.found(l, 1, "stranger")
	for range 3 {
		v.found(l, 0, "thrice")
	}
	v.close(l, "run_")
	want := &verdict{Answered200: 4, Once: 1, Missing: 2, Twice: 1, Besides: 1, Wrong: []string{"stranger", "thrice", "run_000000065535", "run_000000327680"}}
	if diff := cmp.Diff(want, v); diff != "" {
		t.Error(diff)
	}
}
