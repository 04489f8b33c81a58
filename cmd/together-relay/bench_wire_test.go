package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

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
