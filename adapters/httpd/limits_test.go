package httpd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"together-relay/relay"
)

func TestBodyLimitIsExact(t *testing.T) {
	t.Parallel()
	const limit = 1000
	for _, c := range []struct {
		name string
		body io.Reader
		size int
	}{
		{"declared, empty", declared(0), 0},
		{"declared, below", declared(limit - 1), limit - 1},
		{"declared, at the limit", declared(limit), limit},
		{"declared, above", declared(limit + 1), limit + 1},
		{"chunked, empty", chunked(0), 0},
		{"chunked, below", chunked(limit - 1), limit - 1},
		{"chunked, at the limit", chunked(limit), limit},
		{"chunked, above", chunked(limit + 1), limit + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver()
			s := serve(t, r, func(cfg *Config) { cfg.MaxBody = func() int64 { return limit } })
			a := s.do(t, http.MethodPost, "/webhooks/together", c.body)
			if c.size <= limit {
				if d := <-r.seen; a.Status != http.StatusOK || len(d.Body) != c.size {
					t.Errorf("status = %d, %d bytes were handed on, want %d", a.Status, len(d.Body), c.size)
				}
				return
			}
			a.wantProblem(t, http.StatusRequestEntityTooLarge, "Body too large")
			if !strings.Contains(a.Body, "1000 bytes") {
				t.Errorf("%q does not tell the limit", a.Body)
			}
			if o := s.outcome(t); o.Rejected != relay.RejectedSize || len(r.seen) > 0 {
				t.Errorf("outcome = %+v, %d deliveries were handed on", o, len(r.seen))
			}
		})
	}
}

func TestBodyLimitIsAskedForEachTime(t *testing.T) {
	t.Parallel()
	limit := int64(10)
	s := serve(t, newReceiver(), func(cfg *Config) { cfg.MaxBody = func() int64 { return limit } })
	for size, status := range map[int64]int{5: 413, 20: 200} {
		limit = size
		if a := s.post(t, strings.Repeat("x", 10)); a.Status != status {
			t.Errorf("limit %d: status = %d, want %d", size, a.Status, status)
		}
	}
}

// Not one byte of the body was sent, nor is any asked for.
func TestDeclaredLengthIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, newReceiver())
	for _, header := range []string{"Content-Length: 1001", "Content-Length: 9223372036854775807", "Content-Length: 1001\r\nExpect: 100-continue"} {
		conn := s.raw(t, "POST /webhooks/together HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"+header+"\r\n\r\n")
		a := replyOn(t, conn)
		a.wantProblem(t, http.StatusRequestEntityTooLarge, "Body too large")
		if !a.Close {
			t.Error("the connection stays open, and the body would be waited for")
		}
	}
}

// The chunks would never end.
func TestChunkedBodyIsCutAtTheLimit(t *testing.T) {
	t.Parallel()
	s := serve(t, newReceiver())
	conn := s.raw(t, "POST /webhooks/together HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"+
		fmt.Sprintf("%x\r\n%s\r\n", 1001, strings.Repeat("x", 1001)))
	replyOn(t, conn).wantProblem(t, http.StatusRequestEntityTooLarge, "Body too large")
}

func TestBrokenBody(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	s := serve(t, r)
	conn := s.raw(t, "POST /webhooks/together HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n")
	replyOn(t, conn).wantProblem(t, http.StatusBadRequest, "Bad request")
	if o := s.outcome(t); o.Rejected != relay.RejectedBody || len(r.seen) > 0 {
		t.Errorf("outcome = %+v, %d deliveries were handed on", o, len(r.seen))
	}
}

func TestSlowBodyIsCutOff(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	s := serve(t, r, func(cfg *Config) { cfg.ReadTimeout = 50 * time.Millisecond })
	conn := s.raw(t, "POST /webhooks/together HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
	replyOn(t, conn).wantProblem(t, http.StatusRequestTimeout, "Request timeout")
	if o := s.outcome(t); o.Rejected != relay.RejectedBody || o.Body != 1 || len(r.seen) > 0 {
		t.Errorf("outcome = %+v, %d deliveries were handed on", o, len(r.seen))
	}
	if n := len(s.slots); n != 0 {
		t.Errorf("%d slots are still taken", n)
	}
}

func TestSlowSenderHoldsItsSlotNoLonger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveInBubble(t, newReceiver(), func(cfg *Config) { cfg.MaxInFlight = 1 })
		slow := s.raw(t, "POST /webhooks/together HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
		synctest.Wait()
		s.post(t, `{}`).wantProblem(t, http.StatusTooManyRequests, "Too many requests")
		replyOn(t, slow).wantProblem(t, http.StatusRequestTimeout, "Request timeout")
		if a := s.post(t, `{}`); a.Status != http.StatusOK {
			t.Errorf("status = %d after the slow sender was cut off", a.Status)
		}
	})
}

func TestSlowHeaderIsCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveInBubble(t, newReceiver())
		started := time.Now()
		conn := s.raw(t, "POST /webhooks/together HTTP/1.1\r\nHost: ")
		if text, err := io.ReadAll(conn); err != nil || len(text) > 0 {
			t.Errorf("read %q, %v", text, err)
		}
		if took := time.Since(started); took != headerTimeout {
			t.Errorf("after %v, want %v", took, headerTimeout)
		}
	})
}

func TestIdleConnectionIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveInBubble(t, newReceiver())
		conn := s.raw(t, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
		started := time.Now()
		if text, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(text), "ok\n") {
			t.Errorf("read %q, %v", text, err)
		}
		if took := time.Since(started); took != idleTimeout {
			t.Errorf("after %v, want %v", took, idleTimeout)
		}
	})
}

// serveInBubble serves on pipes, so that time in it is synctest's.
func serveInBubble(t testing.TB, r Receiver, changes ...func(*Config)) *site {
	t.Helper()
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	return serveOn(t, l, l.dial, r, changes...)
}

// pipes is a network of its own.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	p.conns <- far
	return near, nil
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func TestRequestsInFlightAreBounded(t *testing.T) {
	t.Parallel()
	const bound = 3
	r := newReceiver()
	r.hold = make(chan struct{})
	s := serve(t, r, func(cfg *Config) { cfg.MaxInFlight = bound })
	statuses := make(chan int, bound)
	for range bound {
		go func() {
			resp, err := s.client.Post("http://"+s.addr+"/webhooks/together", "application/json", strings.NewReader(`{}`))
			if err != nil {
				statuses <- 0
				return
			}
			_ = resp.Body.Close()
			statuses <- resp.StatusCode
		}()
		<-r.seen
	}
	a := s.post(t, `{}`)
	a.wantProblem(t, http.StatusTooManyRequests, "Too many requests")
	if a.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After = %q", a.Header.Get("Retry-After"))
	}
	if o := s.outcome(t); o.Rejected != relay.RejectedBusy || o.Status != http.StatusTooManyRequests {
		t.Errorf("outcome = %+v", o)
	}
	if a := s.get(t, "/healthz"); a.Status != http.StatusOK {
		t.Errorf("/healthz while busy: %d", a.Status)
	}
	close(r.hold)
	for range bound {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("a held request was answered %d", status)
		}
	}
	if a := s.post(t, `{}`); a.Status != http.StatusOK {
		t.Errorf("status = %d once there was room again", a.Status)
	}
}

func TestRateIsEachSourcesOwn(t *testing.T) {
	t.Parallel()
	s := serve(t, newReceiver(), func(cfg *Config) {
		cfg.Sources["together"] = Source{Rate: 0.001} // a burst of one
		cfg.Sources["other"] = Source{Rate: 0.001}
		cfg.Sources["free"] = Source{}
	})
	var got []int
	for _, source := range []string{"together", "together", "other", "other", "free", "free"} {
		a := s.do(t, http.MethodPost, "/webhooks/"+source, strings.NewReader(`{}`))
		got = append(got, a.Status)
		if o := s.outcome(t); a.Status == http.StatusTooManyRequests && (o.Rejected != relay.RejectedRate || a.Header.Get("Retry-After") != "1") {
			t.Errorf("outcome = %+v, headers %v", o, a.Header)
		}
	}
	if want := "[200 429 200 429 200 200]"; fmt.Sprint(got) != want {
		t.Errorf("statuses = %v, want %s", got, want)
	}
}

func TestRateComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveInBubble(t, newReceiver(), func(cfg *Config) { cfg.Sources["together"] = Source{Rate: 2} })
		var got []int
		for range 3 {
			got = append(got, s.post(t, `{}`).Status)
		}
		<-time.After(500 * time.Millisecond)
		for range 2 {
			got = append(got, s.post(t, `{}`).Status)
		}
		if want := "[200 200 429 200 429]"; fmt.Sprint(got) != want {
			t.Errorf("statuses = %v, want %s", got, want)
		}
	})
}
