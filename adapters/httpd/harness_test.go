package httpd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"together-relay/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A receiver is a Receiver with dials. One that newReceiver made stores everything.
type receiver struct {
	receipt relay.Receipt
	err     error
	panics  any
	hold    chan struct{}       // if set, Receive blocks until it is closed or the sender has gone
	seen    chan relay.Delivery // each delivery, as it comes in
}

func newReceiver() *receiver {
	return &receiver{
		seen: make(chan relay.Delivery, 100),
		receipt: relay.Receipt{ID: "evt_1", Type: "batch.done", Proof: "1",
			Stored: relay.Stored{Subject: "together.batch.done.b1", Sequence: 42}},
	}
}

func (r *receiver) Receive(ctx context.Context, d relay.Delivery) (relay.Receipt, error) {
	d.Body = bytes.Clone(d.Body)
	r.seen <- d
	if r.hold != nil {
		select {
		case <-r.hold:
		case <-ctx.Done():
			return relay.Receipt{}, &relay.NotStored{Cause: ctx.Err(), RetryAfter: time.Second}
		}
	}
	if r.panics != nil {
		panic(r.panics)
	}
	if r.err != nil {
		return relay.Receipt{}, r.err
	}
	return r.receipt, nil
}

// A site is a running server and a client of it.
type site struct {
	*Server
	addr     string
	client   *http.Client
	outcomes chan relay.Outcome // what Done was told
}

// testConfig has two sources, and room for four deliveries of 1,000 bytes at one time.
func testConfig(r Receiver) Config {
	return Config{
		Sources:  map[string]Source{"together": {Header: []string{"X-Together-Signature"}}, "other": {}},
		Receiver: r,
		Done:     func(relay.Outcome) {},
		Ready:    func(context.Context) error { return nil },
		Schemas: fstest.MapFS{
			"batch.done.json":          {Data: []byte(`{"title":"batch.done"}`)},
			"model.deprecated.json":    {Data: []byte(`{"title":"model.deprecated"}`)},
			"examples/batch.done.json": {Data: []byte(`{"id":"evt_1"}`)},
			"asyncapi.yaml":            {Data: []byte("asyncapi: 3.0.0\n")},
		},
		MaxBody:     func() int64 { return 1000 },
		MaxInFlight: 4,
		ReadTimeout: 30 * time.Second,
		ErrorLog:    log.New(io.Discard, "", 0),
	}
}

// serve runs a server on the loopback until the test ends. It must end in peace.
func serve(t testing.TB, r Receiver, changes ...func(*Config)) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var dialer net.Dialer
	return serveOn(t, l, dialer.DialContext, r, changes...)
}

func serveOn(t testing.TB, l net.Listener, dial func(context.Context, string, string) (net.Conn, error), r Receiver, changes ...func(*Config)) *site {
	t.Helper()
	cfg := testConfig(r)
	outcomes := make(chan relay.Outcome, 100)
	cfg.Done = func(o relay.Outcome) { outcomes <- o }
	for _, change := range changes {
		change(&cfg)
	}
	transport := &http.Transport{DialContext: dial}
	s := &site{Server: New(cfg), addr: l.Addr().String(), outcomes: outcomes,
		client: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// A reply is what came back over the wire.
type reply struct {
	Status int
	Header http.Header
	Body   string
	Close  bool // the connection is at its end
}

// do sends a request with the headers "name: value". JSON is what it says it carries.
func (s *site) do(t testing.TB, method, path string, body io.Reader, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+s.addr+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return readReply(t, resp)
}

// post sends a delivery to the source together.
func (s *site) post(t testing.TB, body string, headers ...string) reply {
	t.Helper()
	return s.do(t, http.MethodPost, "/webhooks/together", strings.NewReader(body), headers...)
}

func (s *site) get(t testing.TB, path string) reply {
	t.Helper()
	return s.do(t, http.MethodGet, path, nil)
}

func readReply(t testing.TB, resp *http.Response) reply {
	t.Helper()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(text), resp.Close}
}

// raw opens a connection of its own and writes text to it.
func (s *site) raw(t testing.TB, text string) net.Conn {
	t.Helper()
	conn, err := s.client.Transport.(*http.Transport).DialContext(context.Background(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// replyOn reads the answer to what was written to the connection.
func replyOn(t testing.TB, conn net.Conn) reply {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return readReply(t, resp)
}

// outcome waits for what Done is told next.
func (s *site) outcome(t testing.TB) relay.Outcome {
	t.Helper()
	select {
	case o := <-s.outcomes:
		return o
	case <-time.After(30 * time.Second):
		t.Fatal("in vain: the outcome of a request")
		return relay.Outcome{}
	}
}

// wantProblem checks that the answer is an RFC 9457 problem of the status with the member "error".
func (a reply) wantProblem(t testing.TB, status int, code string) {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal([]byte(a.Body), &p); err != nil {
		t.Fatalf("status %d, %q: %v", a.Status, a.Body, err)
	}
	if p["detail"] == "" {
		t.Error("the problem has no detail")
	}
	delete(p, "detail")
	want := map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": float64(status), "error": code}
	if diff := cmp.Diff(want, p); diff != "" || a.Status != status {
		t.Errorf("status %d, problem (-want +got):\n%s", a.Status, diff)
	}
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type = %q", got)
	}
}

// eventually waits for the condition, which something else brings about.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}
