package httpd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"together-relay/relay"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	trouble := errors.New("")
	s := serve(t, newReceiver(), func(cfg *Config) {
		cfg.Ready = func(context.Context) error {
			if trouble.Error() == "" {
				return nil
			}
			return trouble
		}
	})
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for path, text := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n"} {
			if method == http.MethodHead {
				text = ""
			}
			if a := s.do(t, method, path, nil); a.Status != http.StatusOK || a.Body != text {
				t.Errorf("%s %s: %d %q", method, path, a.Status, a.Body)
			}
		}
	}

	trouble = errors.New("no connection to NATS")
	a := s.get(t, "/readyz")
	a.wantProblem(t, http.StatusServiceUnavailable, "Not ready")
	if !strings.Contains(a.Body, `"detail":"no connection to NATS"`) || a.Header.Get("Retry-After") != "1" {
		t.Errorf("%q %v", a.Body, a.Header)
	}
	if a := s.do(t, http.MethodHead, "/readyz", nil); a.Status != http.StatusServiceUnavailable || a.Body != "" {
		t.Errorf("HEAD: %d %q", a.Status, a.Body)
	}
	if a := s.get(t, "/healthz"); a.Status != http.StatusOK {
		t.Errorf("/healthz while not ready: %d", a.Status)
	}
}

func TestReadyAsksWithTheRequestsContext(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	done := make(chan error, 1)
	s := serve(t, newReceiver(), func(cfg *Config) {
		cfg.Ready = func(ctx context.Context) error {
			close(asked)
			<-ctx.Done()
			done <- ctx.Err()
			return ctx.Err()
		}
	})
	conn := s.raw(t, "GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n")
	<-asked
	_ = conn.Close()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	s := serve(t, newReceiver())
	s.Drain()
	a := s.get(t, "/readyz")
	a.wantProblem(t, http.StatusServiceUnavailable, "Not ready")
	if !strings.Contains(a.Body, "stopping") {
		t.Errorf("%q does not say why", a.Body)
	}
	for path, a := range map[string]reply{"/healthz": s.get(t, "/healthz"), "/webhooks/together": s.post(t, `{}`)} {
		if a.Status != http.StatusOK {
			t.Errorf("%s while draining: %d", path, a.Status)
		}
	}
}

func TestOtherMethods(t *testing.T) {
	t.Parallel()
	s := serve(t, newReceiver())
	for _, path := range []string{"/healthz", "/readyz", "/schemas/", "/schemas/batch.done.json", "/asyncapi.yaml"} {
		for _, method := range []string{http.MethodPost, http.MethodDelete, "PURGE"} {
			a := s.do(t, method, path, nil)
			a.wantProblem(t, http.StatusMethodNotAllowed, "Method Not Allowed")
			if allow := a.Header.Get("Allow"); !strings.Contains(allow, "GET") || !strings.Contains(allow, "HEAD") || strings.Contains(allow, method) {
				t.Errorf("%s %s: Allow = %q", method, path, allow)
			}
		}
	}
}

func TestPanicIsNotStored(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	r.panics = "secret trouble"
	s := serve(t, r, func(cfg *Config) { cfg.MaxInFlight = 1 })
	for range 3 { // the slot is given back each time
		a := s.post(t, `{}`)
		a.wantProblem(t, http.StatusServiceUnavailable, "Not stored")
		if a.Header.Get("Retry-After") == "" || strings.Contains(a.Body, "secret") {
			t.Errorf("%q %v", a.Body, a.Header)
		}
		o := s.outcome(t)
		if o.Result != relay.ResultNotStored || o.Status != http.StatusServiceUnavailable || !strings.Contains(fmt.Sprint(o.Err), "secret trouble") {
			t.Errorf("outcome = %+v", o)
		}
	}
	r.panics = nil
	if a := s.post(t, `{}`); a.Status != http.StatusOK {
		t.Errorf("status = %d after the panics", a.Status)
	}
}

func TestSenderHangsUpWhileItWaits(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	r.hold = make(chan struct{})
	s := serve(t, r, func(cfg *Config) { cfg.MaxInFlight = 1 })
	conn := s.raw(t, "POST /webhooks/together HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
	<-r.seen
	_ = conn.Close()
	if o := s.outcome(t); o.Result != relay.ResultNotStored || !errors.Is(o.Err, context.Canceled) {
		t.Errorf("outcome = %+v", o)
	}
	close(r.hold)
	if a := s.post(t, `{}`); a.Status != http.StatusOK {
		t.Errorf("status = %d for the next sender", a.Status)
	}
}

func TestSenderHangsUpInTheBody(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	s := serve(t, r)
	conn := s.raw(t, "POST /webhooks/together HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
	_ = conn.Close()
	if o := s.outcome(t); o.Rejected != relay.RejectedBody || len(r.seen) > 0 {
		t.Errorf("outcome = %+v, %d deliveries were handed on", o, len(r.seen))
	}
}

func TestShutdownAnswersWhatIsInFlight(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	r.hold = make(chan struct{})
	s := serve(t, r)
	conn := s.raw(t, "POST /webhooks/together HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
	<-r.seen
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(context.Background()) }()
	eventually(t, "nobody is taken in any more", func() bool {
		late, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = late.Close()
		}
		return err != nil
	})
	if len(down) > 0 {
		t.Fatal("Shutdown did not wait")
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("/readyz while stopping: %d", w.Code)
	}
	close(r.hold)
	if a := replyOn(t, conn); a.Status != http.StatusOK {
		t.Errorf("status = %d", a.Status)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func TestShutdownHasAnEnd(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	r.hold = make(chan struct{})
	s := serve(t, r)
	s.raw(t, "POST /webhooks/together HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
	<-r.seen
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown = %v", err)
	}
	close(r.hold)
}

func TestServeTellsWhyItCannot(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := New(testConfig(newReceiver())).Serve(l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v", err)
	}
}

func TestWrapSeesEveryRequest(t *testing.T) {
	t.Parallel()
	var saw []string
	wrap := func(name string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				saw = append(saw, name+" "+r.URL.Path)
				next.ServeHTTP(w, r)
			})
		}
	}
	s := New(testConfig(newReceiver()))
	s.Wrap(wrap("inner"))
	s.Wrap(wrap("outer"))
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/nowhere", nil))
	if fmt.Sprint(saw) != "[outer /nowhere inner /nowhere]" || w.Code != http.StatusNotFound {
		t.Errorf("saw %q, status %d", saw, w.Code)
	}
}
