package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"together-relay/adapters/together"
)

func TestBenchWaits(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 7, 1, 9, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"":                              0,
		"3":                             3 * time.Second,
		" 3 ":                           3 * time.Second,
		"-3":                            0,
		"soon":                          0,
		"99999999999999999999":          0,
		"Wed, 01 Jul 2026 09:00:07 GMT": 7 * time.Second,
		"Wed, 01 Jul 2026 08:00:07 GMT": 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("Retry-After %q is %s, want %s", text, got, want)
		}
	}
	if got := (benchAnswer{after: time.Hour}).wait(0); got != benchMaxWait {
		t.Errorf("after an hour is %s", got)
	}
	for before := range benchAttempts {
		if got := (benchAnswer{}).wait(before); got < benchFirstWait/2 || got > benchLastWait {
			t.Errorf("after %d attempts the wait is %s", before, got)
		}
	}
}

// runBench runs the verb in this process. It signs with the secret of the tests.
func runBench(ctx context.Context, t *testing.T, args ...string) (code int, report benchReport, stderr string) {
	t.Helper()
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "sources: {together: {secrets: ["+secret+"]}}")
	var stdout, complaints bytes.Buffer
	code = run(ctx, append([]string{"bench", "-o=json", "--config=" + file}, args...), nil, &stdout, &complaints)
	if stdout.Len() > 0 {
		if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
			t.Errorf("%v: %s", err, stdout.String())
		}
	}
	return code, report, complaints.String()
}

// An inbox answers each delivery of a bench as the test says.
type inbox struct {
	*httptest.Server
	mu       sync.Mutex
	attempts map[int64]int // by event
}

// startInbox runs an endpoint. The function says the status for the n-th attempt of an event;
// 0 is no answer.
func startInbox(t *testing.T, status func(event int64, n int, body []byte) int) *inbox {
	t.Helper()
	in := &inbox{attempts: map[int64]int{}}
	in.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get(together.SignatureHeader) != sign(secret, body) {
			t.Errorf("wrong signature of %s, %v", body, err)
		}
		var event struct{ ID string }
		if err := json.Unmarshal(body, &event); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		number, err := strconv.ParseInt(event.ID[strings.LastIndex(event.ID, "_")+1:], 10, 64)
		if err != nil {
			t.Error(err)
		}
		in.mu.Lock()
		in.attempts[number]++
		n := in.attempts[number]
		in.mu.Unlock()
		code := status(number, n, body)
		if code == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"id":%q}`, event.ID)
	}))
	t.Cleanup(in.Close)
	return in
}

func TestBenchSendsAgain(t *testing.T) {
	t.Parallel()
	first := func(status int) func(int64, int, []byte) int {
		return func(_ int64, n int, _ []byte) int {
			if n == 1 {
				return status
			}
			return http.StatusOK
		}
	}
	for _, status := range []int{0, http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		t.Run(statusName(status), func(t *testing.T) {
			t.Parallel()
			in := startInbox(t, first(status))
			code, r, stderr := runBench(t.Context(), t, "--url="+in.URL, "--count=20", "--senders=7")
			want := map[string]int64{"200": 20, statusName(status): 20}
			if diff := cmp.Diff(want, r.Status); diff != "" || code != exitDone || r.Stored != 20 || r.Retries != 20 || r.Deliveries != 20 || stderr != "" {
				t.Errorf("exit code %d, %+v, %s", code, r, stderr)
			}
			if (r.LastError != "") != (status == 0) {
				t.Errorf("last error %q", r.LastError)
			}

			in = startInbox(t, first(status))
			code, r, stderr = runBench(t.Context(), t, "--url="+in.URL, "--count=20", "--senders=7", "--no-retry")
			want = map[string]int64{statusName(status): 20}
			if diff := cmp.Diff(want, r.Status); diff != "" || code != exitFailed || r.Lost != 20 || r.Retries != 0 {
				t.Errorf("exit code %d, %+v", code, r)
			}
			if stderr != "together-relay: 20 of 20 deliveries were not taken\n" {
				t.Error(stderr)
			}
		})
	}
}

func TestBenchDoesNotSendAgainWhatIsRefused(t *testing.T) {
	t.Parallel()
	in := startInbox(t, func(event int64, _ int, _ []byte) int {
		return []int{http.StatusOK, http.StatusAccepted, http.StatusUnauthorized, http.StatusFound}[event%4]
	})
	code, r, stderr := runBench(t.Context(), t, "--url="+in.URL, "--count=40", "--rate=2000")
	want := map[string]int64{"200": 10, "202": 10, "401": 10, "302": 10}
	if diff := cmp.Diff(want, r.Status); diff != "" || code != exitFailed || r.Stored != 10 || r.Dead != 10 || r.Lost != 20 || r.Retries != 0 || r.Unsent != 0 {
		t.Errorf("exit code %d, %+v", code, r)
	}
	if stderr != "together-relay: 20 of 40 deliveries were not taken; for 401 set TOGETHER_WEBHOOK_SECRET as the relay has it\n" {
		t.Error(stderr)
	}
}

func TestBenchNoticesTheAnswerOfAnotherEvent(t *testing.T) {
	t.Parallel()
	h := startHook(t, http.StatusOK)
	h.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"id":"evt_1"}`) })
	code, r, _ := runBench(t.Context(), t, "--url="+h.URL, "--count=3")
	if want := map[string]int64{"other event": 3}; !cmp.Equal(want, r.Status) || code != exitFailed || r.Lost != 3 {
		t.Errorf("exit code %d, %+v", code, r)
	}
}

// TestBenchSeesAStall: while the first answer is held back, everything else becomes due. With
// one sender a tool that counts from the sending would see one slow answer in a hundred.
func TestBenchSeesAStall(t *testing.T) {
	t.Parallel()
	const stall = 300 * time.Millisecond
	in := startInbox(t, func(event int64, _ int, _ []byte) int {
		if event == 0 {
			<-time.After(stall)
		}
		return http.StatusOK
	})
	code, r, stderr := runBench(t.Context(), t, "--url="+in.URL, "--count=100", "--rate=1000", "--senders=1")
	if code != exitDone || r.Stored != 100 || r.From != "schedule" {
		t.Fatalf("exit code %d, %+v, %s", code, r, stderr)
	}
	// The last one was due after 99 ms, so all of them waited for 201 ms or longer.
	if r.Latency.P50 < 200 || r.Latency.Max < 299 || r.Latency.P50 > r.Latency.P90 || r.Latency.P90 > r.Latency.P99 || r.Latency.P999 > r.Latency.Max {
		t.Errorf("the latencies are %+v", r.Latency)
	}
}

func TestBenchEndsInGoodOrder(t *testing.T) {
	t.Parallel()
	for _, pace := range []string{"--rate=0", "--rate=5000"} {
		t.Run(pace, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			in := startInbox(t, func(event int64, _ int, _ []byte) int {
				if event == 50 {
					cancel()
				}
				return http.StatusOK
			})
			code, r, stderr := runBench(ctx, t, "--url="+in.URL, "--duration=1h", pace)
			if code != exitDone || !r.Interrupted || r.Stored < 50 || r.Stored != r.Deliveries || r.Unsent != 0 {
				t.Errorf("exit code %d, %+v, %s", code, r, stderr)
			}
		})
	}
}

func TestBenchGivesUpWaitingWhenItIsToEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	in := startInbox(t, func(_ int64, _ int, _ []byte) int {
		cancel()
		return http.StatusServiceUnavailable
	})
	code, r, stderr := runBench(ctx, t, "--url="+in.URL, "--count=1", "--senders=1")
	if code != exitFailed || !r.Interrupted || r.Lost != 1 || r.Retries != 0 || r.Status["503"] != 1 {
		t.Errorf("exit code %d, %+v, %s", code, r, stderr)
	}
}
