package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"together-relay/adapters/together"
	"together-relay/schemas"
)

func TestBenchPlan(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := benchFlags{count: rapid.Int64Range(1, 1000).Draw(t, "count"), duplicates: rapid.IntRange(0, 100).Draw(t, "duplicates")}
		p := newBenchPlan(f)
		times := make([]int, f.count)
		for n := range p.deliveries {
			times[p.event(n)]++
		}
		twice := 0
		for event, n := range times {
			if n != 1 && n != 2 {
				t.Fatalf("event %d is sent %d times", event, n)
			}
			twice += n - 1
		}
		if next := p.event(p.deliveries); next != f.count {
			t.Fatalf("the plan ends before event %d, want %d", next, f.count)
		}
		if want := f.count / 100 * int64(f.duplicates); int64(twice) < want || int64(twice) > want+int64(f.duplicates) {
			t.Fatalf("%d of %d events are sent twice, want %d%%", twice, f.count, f.duplicates)
		}
	})
}

func TestBenchPlanByTheClock(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f    benchFlags
		want int64
	}{
		{benchFlags{rate: 100, duration: 10 * time.Second}, 1000},
		{benchFlags{rate: 100, duration: 10 * time.Second, count: 7}, 7},
		{benchFlags{rate: 0.1, duration: time.Second}, 1},
		{benchFlags{rate: 0.5, duration: 10 * time.Second, count: 7}, 5},
		{benchFlags{duration: time.Second}, maxBenchEvents},
	} {
		if got := newBenchPlan(c.f).deliveries; got != c.want {
			t.Errorf("%+v: %d deliveries, want %d", c.f, got, c.want)
		}
	}
	if got := newBenchPlan(benchFlags{rate: 200}).due(50); got != 250*time.Millisecond {
		t.Errorf("at 200 a second delivery 50 is due after %s", got)
	}
	if got := newBenchPlan(benchFlags{rate: 1e-300}).due(1); got <= 0 {
		t.Errorf("a very low rate is due after %s", got)
	}
}

func TestBenchBodiesAreGood(t *testing.T) {
	t.Parallel()
	set, err := schemas.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range append(set.Types(), "brand.new", `quoted"type`) {
		for _, size := range []int{450, 451, 20_000} {
			b, err := newBenchBody("bench_abc_", typ, size, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			for _, event := range []int64{0, 7, maxBenchEvents - 1} {
				body := b.clone().of(event)
				ev, err := together.Read(body)
				if err != nil {
					t.Fatalf("%s: %v", body, err)
				}
				if err := set.CheckEvent(ev); err != nil {
					t.Errorf("%s: %v", typ, err)
				}
				if got, ok := benchEvent("bench_abc_", ev.CloudEvent.ID()); got != event || !ok || ev.Type != typ || len(body) != size {
					t.Errorf("event %d of type %q with %d bytes is event %d of type %q with %d bytes", event, typ, size, got, ev.Type, len(body))
				}
			}
		}
	}
	for id, want := range map[string]int64{"evt_1": 0, "bench_abc_1": -1, "bench_abc_00000000000x": -1, "bench_abc_-00000000001": -1} {
		if got, ok := benchEvent("bench_abc_", id); got != want || ok != (want < 0) {
			t.Errorf("id %q is of event %d, %t", id, got, ok)
		}
	}
}

// TestWire posts to a server that answers whatever the test says, on connections that it counts.
func TestWire(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, answer string
		shut         bool // the server closes after its answer
		status       int
		text         string
		kept         bool
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, 200, "ok", true},
		{"empty", "HTTP/1.1 204 No Content\r\n\r\n", false, 204, "", true},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nTrailer: 1\r\n\r\n", false, 200, "ok", true},
		{"early", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 x\r\nContent-Length: 1\r\n\r\nz", false, 503, "z", true},
		{"asks to close", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", false, 200, "ok", false},
		{"ends by closing", "HTTP/1.1 200 OK\r\n\r\nok", true, 200, "ok", false},
		{"old", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false, 200, "ok", false},
		{"more than asked for", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", false, 200, "ok", false},
		{"large", "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("x", 5000), false, 200, strings.Repeat("x", 5000), true},
		{"too large", "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + strings.Repeat("x", maxAnswer), false, 200, strings.Repeat("x", maxAnswer), false},
		{"nothing", "", true, 0, "", false},
		{"half a head", "HTTP/1.1 200 OK\r\nConte", true, 0, "", false},
		{"half a body", "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nok", true, 0, "", false},
		{"no HTTP", "SSH-2.0-x\r\n\r\n", true, 0, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			connections, done := 0, make(chan struct{})
			go func() {
				defer close(done)
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					connections++
					in := bufio.NewReader(conn)
					for {
						r, err := http.ReadRequest(in)
						if err != nil {
							break
						}
						body, err := io.ReadAll(r.Body)
						if got := string(body); err != nil || got != "body" || r.URL.String() != "/hook?a=b" || r.Header.Get("X-Signed") != "yes" ||
							r.Header.Get("Content-Type") != "application/json" || r.Host != l.Addr().String() {
							t.Errorf("request %+v with body %q, %v", r, got, err)
						}
						fmt.Fprint(conn, c.answer)
						if c.shut {
							break
						}
					}
					closeQuietly(conn)
				}
			}()
			to, err := newTarget("http://"+l.Addr().String()+"/hook?a=b", len("body"))
			if err != nil {
				t.Fatal(err)
			}
			w := &wire{to: to}
			for range 2 {
				got, err := w.post(t.Context(), map[string]string{"X-Signed": "yes"}, []byte("body"))
				if c.status == 0 {
					if err == nil {
						t.Errorf("the answer is %+v, want none", got)
					}
				} else if err != nil || got.status != c.status || string(got.text) != c.text {
					t.Errorf("the answer is %d %.99q, %v", got.status, got.text, err)
				}
				if (w.conn != nil) != c.kept {
					t.Errorf("the connection is open: %t", w.conn != nil)
				}
			}
			w.close()
			closeQuietly(l)
			<-done
			if want := map[bool]int{true: 1, false: 2}[c.kept]; connections != want {
				t.Errorf("%d connections, want %d", connections, want)
			}
		})
	}
}

func TestWireEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	h := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		cancel()
		<-r.Context().Done()
	}))
	defer h.Close()
	to, err := newTarget(h.URL, 1)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{to: to}
	for range 2 {
		if got, err := w.post(ctx, nil, []byte("x")); err == nil || w.conn != nil {
			t.Errorf("the answer is %+v", got)
		}
	}
}

func TestWireSpeaksTLS(t *testing.T) {
	t.Parallel()
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); r.ProtoMajor != 1 || user != "me" || password != "it's" {
			t.Errorf("%s of %q with password %q", r.Proto, user, password)
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	h.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the greeting that is to fail
	h.StartTLS()
	defer h.Close()
	to, err := newTarget(strings.Replace(h.URL, "://", "://me:it's@", 1), 1)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{to: to}
	if _, err := w.post(t.Context(), nil, []byte("x")); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate: %v", err)
	}
	to.secure.RootCAs = h.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for range 2 {
		got, err := w.post(t.Context(), nil, []byte("x"))
		if err != nil || got.status != http.StatusAccepted {
			t.Errorf("the answer is %+v, %v", got, err)
		}
	}
	w.close()
}

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
