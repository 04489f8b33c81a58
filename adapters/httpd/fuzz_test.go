package httpd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"together-relay/adapters/together"
	"together-relay/relay"
	"together-relay/schemas"
)

// forgetful is a log that keeps nothing, and now and then cannot.
type forgetful struct{}

func (forgetful) Append(_ context.Context, ev relay.Event) (relay.Stored, error) {
	if strings.HasPrefix(ev.CloudEvent.ID(), "away") {
		return relay.Stored{}, &relay.NotStored{Cause: errors.New("away")}
	}
	return relay.Stored{Subject: "s", Sequence: 1}, nil
}

func (forgetful) Bury(context.Context, relay.DeadLetter) error { return nil }

// Whatever is sent, by whoever knows the secret or not, is answered by the contract's table.
func FuzzHandler(f *testing.F) {
	set, err := schemas.Load()
	if err != nil {
		f.Fatal(err)
	}
	source, err := together.NewSource(together.Config{Name: "together"}, [][]byte{[]byte("secret")})
	if err != nil {
		f.Fatal(err)
	}
	cfg := testConfig(&relay.Intake{Sources: map[string]relay.Opener{"together": source}, Check: set.CheckEvent, Log: forgetful{}})
	handler := New(cfg).Handler()

	for _, typ := range schemas.Types() {
		example, err := schemas.Example(typ)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("POST", "/webhooks/together", "Content-Type: application/json", example, true)
	}
	f.Add("POST", "/webhooks/together", "Content-Type: application/json", []byte(`{"id":"`+strings.Repeat("x", 2000)), true)
	f.Add("POST", "/webhooks/together", "Content-Type: application/json", []byte(`{"id":"away","type":"x","data":{}}`), true)
	f.Add("POST", "/webhooks/together", "Content-Type: application/json\r\nTransfer-Encoding: chunked", []byte("2\r\n{}\r\n0\r\n\r\n"), false)
	f.Add("POST", "/webhooks/together", "Content-Type: application/json\r\nContent-Length: 9", []byte(`{}`), false)
	f.Add("OPTIONS", "/webhooks/together", "WebHook-Request-Origin: a", []byte(nil), false)
	f.Add("PUT", "http://h/webhooks/%2e%2e/x?y#z", "Content-Encoding: gzip", []byte(nil), false)
	f.Add("GET", "/schemas/../asyncapi.yaml", "Host: h", []byte(nil), false)
	f.Add("CONNECT", "h:80", "", []byte(nil), false)
	f.Add("OPTIONS", "*", "", []byte(nil), false)
	f.Fuzz(func(t *testing.T, method, path, header string, body []byte, signed bool) {
		raw := method + " " + path + " HTTP/1.1\r\nHost: h\r\n" + header + "\r\n"
		if signed {
			raw += "Content-Length: " + strconv.Itoa(len(body)) + "\r\nX-Together-Signature: " + sign("secret", string(body)) + "\r\n"
		}
		r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(raw+"\r\n"), bytes.NewReader(body))))
		if err != nil {
			return // the server answers that itself
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r.WithContext(context.Background()))
		checkAnswer(t, r, w.Result())
	})
}

func checkAnswer(t *testing.T, r *http.Request, resp *http.Response) {
	a := readReply(t, resp)
	if statuses := []int{200, 202, 204, 400, 401, 404, 405, 413, 415, 503}; !slices.Contains(statuses, a.Status) {
		t.Fatalf("%s %s: status %d", r.Method, r.URL, a.Status)
	}
	if a.Status == http.StatusServiceUnavailable && a.Header.Get("Retry-After") == "" {
		t.Errorf("%s %s: 503 without Retry-After", r.Method, r.URL)
	}
	if a.Status == http.StatusMethodNotAllowed && a.Header.Get("Allow") == "" {
		t.Errorf("%s %s: 405 without Allow", r.Method, r.URL)
	}
	if r.Method == http.MethodHead || a.Status < 400 {
		return
	}
	var p struct{ Status int }
	if err := json.Unmarshal([]byte(a.Body), &p); err != nil || p.Status != a.Status || a.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s %s: %d %v %q", r.Method, r.URL, a.Status, a.Header, a.Body)
	}
}

// nothing receives, and has no cost of its own.
type nothing struct{}

func (nothing) Receive(context.Context, relay.Delivery) (relay.Receipt, error) {
	return relay.Receipt{ID: "evt_1", Stored: relay.Stored{Subject: "together.batch.done.b1", Sequence: 42}}, nil
}

// discard is a ResponseWriter without a cost of its own.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkHandler(b *testing.B) {
	handler := New(testConfig(nothing{})).Handler()
	body := bytes.Repeat([]byte("x"), 450)
	reader := bytes.NewReader(body)
	r := httptest.NewRequest(http.MethodPost, "/webhooks/together", nil)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Together-Signature", sign("secret", string(body)))
	r.Body, r.ContentLength = io.NopCloser(reader), int64(len(body))
	w := &discard{header: http.Header{}}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		reader.Reset(body)
		clear(w.header)
		handler.ServeHTTP(w, r)
		if w.status != http.StatusOK {
			b.Fatalf("status = %d", w.status)
		}
	}
}
