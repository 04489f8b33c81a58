package httpd

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/labstack/echo/v4"

	"together-relay/adapters/together"
	"together-relay/relay"
	"together-relay/relay/relaytest"
)

func TestStored(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	s := serve(t, r)
	for _, duplicate := range []bool{false, true} {
		r.receipt.Duplicate = duplicate
		a := s.post(t, `{}`)
		want := fmt.Sprintf(`{"received":true,"id":"evt_1","subject":"together.batch.done.b1","sequence":42,"duplicate":%v}`+"\n", duplicate)
		if a.Status != http.StatusOK || a.Body != want || a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%d %q %v", a.Status, a.Body, a.Header)
		}
		result := map[bool]string{false: relay.ResultStored, true: relay.ResultDuplicate}[duplicate]
		if o := s.outcome(t); o.Status != http.StatusOK || o.Result != result || o.Rejected != "" || o.Receipt != r.receipt {
			t.Errorf("outcome = %+v", o)
		}
	}
}

// A receipt repeats any id as JSON, however odd its bytes.
func TestReceiptOfAnyID(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	s := serve(t, r)
	for _, id := range []string{"", `"\`, "<&>", "\x00\b\f\n\r\t\x1f\x7f", "é\u2028\u2029\U0001f600", "a\xffb\xc3\xe2\x80"} {
		r.receipt.ID, r.receipt.Subject, r.receipt.Sequence = id, "together."+id, math.MaxUint64
		a := s.post(t, `{}`)
		var got struct {
			Received  bool   `json:"received"`
			ID        string `json:"id"`
			Subject   string `json:"subject"`
			Sequence  uint64 `json:"sequence"`
			Duplicate bool   `json:"duplicate"`
		}
		want := got
		want.Received, want.ID, want.Sequence = true, string([]rune(id)), math.MaxUint64 // what is not UTF-8 is replaced
		want.Subject = "together." + want.ID
		if err := json.Unmarshal([]byte(a.Body), &got); err != nil || got != want {
			t.Errorf("%q: %q, %v", id, a.Body, err)
		}
		s.outcome(t)
	}
}

func TestDeadLettered(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	r.receipt = relay.Receipt{DeadLettered: true, Reason: relay.ReasonSchema, Detail: "data: missing <batch_id> & more"}
	s := serve(t, r)
	a := s.post(t, `{}`)
	want := `{"received":true,"dead_lettered":true,"reason":"schema","detail":"data: missing <batch_id> & more"}` + "\n"
	if a.Status != http.StatusAccepted || a.Body != want || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %q %v", a.Status, a.Body, a.Header)
	}
	if o := s.outcome(t); o.Status != http.StatusAccepted || o.Result != relay.ResultDeadLettered {
		t.Errorf("outcome = %+v", o)
	}
}

func TestDeliveryIsWhatWasSent(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	s := serve(t, r, func(c *Config) {
		c.Sources["together"] = Source{Header: []string{"X-Together-Signature", "traceparent", "X-Long", "X-Longer", "X-Absent"}}
	})
	body := "  {\"a\": 1e400,\n\t\"a\":\"\\u0000\xff\"} "
	s.post(t, body, "X-Together-Signature: s", "Traceparent: p", "X-Unasked: u",
		"X-Long: "+strings.Repeat("l", 1024), "X-Longer: "+strings.Repeat("l", 1025))
	got := <-r.seen
	if got.Arrived.IsZero() {
		t.Error("there is no time of arrival")
	}
	got.Arrived = time.Time{}
	want := relay.Delivery{Source: "together", Body: []byte(body),
		Header: map[string]string{"X-Together-Signature": "s", "traceparent": "p", "X-Long": strings.Repeat("l", 1024)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("delivery (-want +got):\n%s", diff)
	}
	if o := s.outcome(t); o.Source != "together" || o.Body != len(body) || o.Remote != "127.0.0.1" || o.Took <= 0 {
		t.Errorf("outcome = %+v", o)
	}
}

func TestErrorsOfTheReceiver(t *testing.T) {
	t.Parallel()
	away := errors.New("away")
	for _, c := range []struct {
		name   string
		err    error
		status int
		code   string
		retry  string
		result string
	}{
		{"unproven", relay.ErrUnproven, 401, "Invalid signature", "", relay.ResultRejected},
		{"unproven, and why", fmt.Errorf("%w: no header", relay.ErrUnproven), 401, "Invalid signature", "", relay.ResultRejected},
		{"unknown source", relay.ErrUnknownSource, 404, "Unknown source", "", relay.ResultRejected},
		{"not stored", &relay.NotStored{Cause: away, RetryAfter: 30 * time.Second}, 503, "Not stored", "30", relay.ResultNotStored},
		{"part of a second", &relay.NotStored{Cause: away, RetryAfter: time.Millisecond}, 503, "Not stored", "1", relay.ResultNotStored},
		{"seconds and a part", &relay.NotStored{Cause: away, RetryAfter: 1500 * time.Millisecond}, 503, "Not stored", "2", relay.ResultNotStored},
		{"no wait", &relay.NotStored{Cause: away}, 503, "Not stored", "5", relay.ResultNotStored},
		{"wrapped", fmt.Errorf("append: %w", &relay.NotStored{Cause: away, RetryAfter: 7 * time.Second}), 503, "Not stored", "7", relay.ResultNotStored},
		{"unknown", away, 503, "Not stored", "5", relay.ResultNotStored},
		{"not buried", &relay.Unusable{Reason: relay.ReasonJSON}, 503, "Not stored", "5", relay.ResultNotStored},
		{"cancelled", context.Canceled, 503, "Not stored", "5", relay.ResultNotStored},
		{"another server's error", echo.ErrInternalServerError, 503, "Not stored", "5", relay.ResultNotStored},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver()
			r.err = c.err
			s := serve(t, r)
			a := s.post(t, `{}`)
			a.wantProblem(t, c.status, c.code)
			if got := a.Header.Get("Retry-After"); got != c.retry {
				t.Errorf("Retry-After = %q, want %q", got, c.retry)
			}
			if o := s.outcome(t); o.Status != c.status || o.Result != c.result || !errors.Is(o.Err, c.err) {
				t.Errorf("outcome = %+v", o)
			}
		})
	}
}

// A sender learns from a 401 only that it was one.
func TestUnprovenAnswersAreTheSame(t *testing.T) {
	t.Parallel()
	source, err := together.NewSource(together.Config{Name: "together"}, [][]byte{[]byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, &relay.Intake{Sources: map[string]relay.Opener{"together": source}, Log: &relaytest.Log{}})
	var replies []reply
	for _, signature := range []string{"", "sha256=", "no hex", strings.Repeat("0", 64), sign("other", "{}"), strings.Repeat("a", 5000)} {
		a := s.post(t, `{}`, "X-Together-Signature: "+signature)
		a.Header.Del("Date")
		replies = append(replies, a)
		if o := s.outcome(t); o.Rejected != relay.RejectedSignature {
			t.Errorf("outcome = %+v", o)
		}
	}
	replies[0].wantProblem(t, http.StatusUnauthorized, "Invalid signature")
	for _, a := range replies[1:] {
		if diff := cmp.Diff(replies[0], a); diff != "" {
			t.Errorf("answers differ:\n%s", diff)
		}
	}
}

func sign(secret, text string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestMedia(t *testing.T) {
	t.Parallel()
	s := serve(t, newReceiver())
	for _, c := range []struct {
		name, header string
		status       int
	}{
		{"plain", "Content-Type: application/json", 200},
		{"parameter", "Content-Type: application/json; charset=utf-8", 200},
		{"parameter without a space", "Content-Type: application/json;charset=utf-8", 200},
		{"space before the parameter", "Content-Type: application/json ; a=b", 200},
		{"upper case", "Content-Type: Application/JSON", 200},
		{"missing", "Content-Type: ", 415},
		{"text", "Content-Type: text/plain", 415},
		{"form", "Content-Type: application/x-www-form-urlencoded", 415},
		{"longer", "Content-Type: application/json-seq", 415},
		{"suffix", "Content-Type: application/cloudevents+json", 415},
		{"parameter alone", "Content-Type: ; application/json", 415},
		{"gzip", "Content-Encoding: gzip", 415},
		{"identity", "Content-Encoding: identity", 415},
	} {
		a := s.post(t, `{}`, c.header)
		o := s.outcome(t)
		if a.Status != c.status || o.Status != c.status {
			t.Errorf("%s: status = %d, outcome %+v, want %d", c.name, a.Status, o, c.status)
		}
		if c.status == http.StatusUnsupportedMediaType {
			a.wantProblem(t, c.status, "Unsupported media type")
			if o.Rejected != relay.RejectedMedia {
				t.Errorf("%s: rejected for %q", c.name, o.Rejected)
			}
		}
	}
}

var methods = []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "REPORT", "PURGE", "post"}

func TestMethods(t *testing.T) {
	t.Parallel()
	s := serve(t, newReceiver())
	for _, method := range methods {
		a := s.do(t, method, "/webhooks/together", nil)
		if method != http.MethodHead {
			a.wantProblem(t, http.StatusMethodNotAllowed, "Method not allowed")
		}
		if a.Status != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "POST, OPTIONS" {
			t.Errorf("%s: %d, Allow %q", method, a.Status, a.Header.Get("Allow"))
		}
		if o := s.outcome(t); o.Rejected != relay.RejectedMethod || o.Source != "together" {
			t.Errorf("%s: outcome = %+v", method, o)
		}
	}
}

func TestUnknownSource(t *testing.T) {
	t.Parallel()
	s := serve(t, newReceiver())
	for _, method := range append([]string{"POST", "OPTIONS"}, methods...) {
		a := s.do(t, method, "/webhooks/nobody", nil)
		if method != http.MethodHead {
			a.wantProblem(t, http.StatusNotFound, "Unknown source")
		}
		if a.Status != http.StatusNotFound {
			t.Errorf("%s: status = %d", method, a.Status)
		}
		if o := s.outcome(t); o.Rejected != relay.RejectedRoute || o.Source != "" || o.Status != http.StatusNotFound {
			t.Errorf("%s: outcome = %+v", method, o)
		}
	}
}

func TestUnknownPath(t *testing.T) {
	t.Parallel()
	r := newReceiver()
	s := serve(t, r)
	for _, path := range []string{"/", "/webhooks", "/webhooks/", "/webhooks/together/", "/webhooks/together/x", "/webhooks/Together",
		"//webhooks/together", "/webhooks/together%2F", "/webhooks/%00", "/webhook/together", "/metrics", "/debug/pprof/"} {
		if a := s.do(t, http.MethodPost, path, strings.NewReader(`{}`)); a.Status != http.StatusNotFound {
			t.Errorf("%s: status = %d", path, a.Status)
		}
	}
	if len(r.seen) > 0 {
		t.Errorf("%d deliveries were taken", len(r.seen))
	}
}

// A request that breaks several rules is answered for the first one.
func TestOrderOfChecks(t *testing.T) {
	t.Parallel()
	const tooMuch = 2000
	for _, c := range []struct {
		name           string
		method, path   string
		media          string
		busy, overRate bool
		body           io.Reader
		status         int
		rejected       string
	}{
		{"route first", "PUT", "/webhooks/nobody", "text/plain", true, true, declared(tooMuch), 404, relay.RejectedRoute},
		{"then the method", "PUT", "/webhooks/together", "text/plain", true, true, declared(tooMuch), 405, relay.RejectedMethod},
		{"then the content type", "POST", "/webhooks/together", "text/plain", true, true, declared(tooMuch), 415, relay.RejectedMedia},
		{"then the declared length", "POST", "/webhooks/together", "application/json", true, true, declared(tooMuch), 413, relay.RejectedSize},
		{"then requests in flight", "POST", "/webhooks/together", "application/json", true, true, chunked(tooMuch), 429, relay.RejectedBusy},
		{"then the rate", "POST", "/webhooks/together", "application/json", false, true, chunked(tooMuch), 429, relay.RejectedRate},
		{"then the body", "POST", "/webhooks/together", "application/json", false, false, chunked(tooMuch), 413, relay.RejectedSize},
		{"then the signature", "POST", "/webhooks/together", "application/json", false, false, declared(10), 401, relay.RejectedSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver()
			r.err = relay.ErrUnproven
			s := serve(t, r, func(cfg *Config) {
				cfg.MaxInFlight = 1
				cfg.Sources["together"] = Source{Rate: 0.001}
			})
			if c.overRate {
				s.sources["together"].limiter.Allow()
			}
			if c.busy {
				s.slots <- struct{}{}
				defer func() { <-s.slots }()
			}
			a := s.do(t, c.method, c.path, c.body, "Content-Type: "+c.media)
			if o := s.outcome(t); a.Status != c.status || o.Rejected != c.rejected {
				t.Errorf("status = %d for %q, want %d for %q", a.Status, o.Rejected, c.status, c.rejected)
			}
			if reached := len(r.seen) == 1; reached != (c.rejected == relay.RejectedSignature) {
				t.Errorf("the delivery was handed on: %v", reached)
			}
		})
	}
}

// declared is a body whose length is told in the header, chunked one whose length is not.
func declared(n int) io.Reader { return strings.NewReader(strings.Repeat("x", n)) }
func chunked(n int) io.Reader  { return struct{ io.Reader }{declared(n)} }

func TestBodyIsNeverRepeated(t *testing.T) {
	t.Parallel()
	const marker = "do-not-repeat"
	body := `{"id":"` + marker + `"}`
	for _, c := range []struct {
		name   string
		status int
		err    error
		media  string
		change func(*Config)
	}{
		{"stored", 200, nil, "application/json", nil},
		{"unproven", 401, fmt.Errorf("%w: %s", relay.ErrUnproven, body), "application/json", nil},
		{"not stored", 503, &relay.NotStored{Cause: errors.New(body), RetryAfter: time.Second}, "application/json", nil},
		{"unknown", 503, errors.New(body), "application/json", nil},
		{"content type", 415, nil, "text/" + marker, nil},
		{"size", 413, nil, "application/json", func(c *Config) { c.MaxBody = func() int64 { return 5 } }},
		{"route", 404, nil, "application/json", func(c *Config) { delete(c.Sources, "together") }},
		{"busy", 429, nil, "application/json", func(c *Config) { c.MaxInFlight = 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver()
			r.err = c.err
			s := serve(t, r, func(cfg *Config) {
				if c.change != nil {
					c.change(cfg)
				}
			})
			a := s.post(t, body, "Content-Type: "+c.media)
			if a.Status != c.status || strings.Contains(a.Body+fmt.Sprint(a.Header), marker) {
				t.Errorf("%d %s %v", a.Status, a.Body, a.Header)
			}
		})
	}
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	const allowed, rate = "Webhook-Allowed-Origin", "Webhook-Allowed-Rate"
	for _, c := range []struct {
		name, origin string
		source       Source
		want         map[string]string
	}{
		{"listed", "events.example.com", Source{AllowedOrigins: []string{"a.example.com", "events.example.com"}}, map[string]string{allowed: "events.example.com", rate: "*"}},
		{"case", "Events.Example.com", Source{AllowedOrigins: []string{"events.example.com"}}, map[string]string{allowed: "Events.Example.com", rate: "*"}},
		{"all", "events.example.com", Source{AllowedOrigins: []string{"*"}}, map[string]string{allowed: "events.example.com", rate: "*"}},
		{"rate by the minute", "e", Source{AllowedOrigins: []string{"*"}, Rate: 2.5}, map[string]string{allowed: "e", rate: "150"}},
		{"slow rate", "e", Source{AllowedOrigins: []string{"*"}, Rate: 0.001}, map[string]string{allowed: "e", rate: "1"}},
		{"not listed", "evil.example.com", Source{AllowedOrigins: []string{"events.example.com"}}, map[string]string{}},
		{"part of a listed one", "example.com", Source{AllowedOrigins: []string{"events.example.com"}}, map[string]string{}},
		{"nobody is listed", "events.example.com", Source{}, map[string]string{}},
		{"no origin", "", Source{AllowedOrigins: []string{"*", ""}}, map[string]string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, newReceiver(), func(cfg *Config) { cfg.Sources["together"] = c.source })
			a := s.do(t, http.MethodOptions, "/webhooks/together", nil, "WebHook-Request-Origin: "+c.origin)
			got := map[string]string{}
			for _, name := range []string{allowed, rate} {
				if a.Header[name] != nil {
					got[name] = a.Header.Get(name)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" || a.Status != http.StatusOK || a.Header.Get("Allow") != "POST, OPTIONS" || a.Body != "" {
				t.Errorf("%d %v %q (-want +got):\n%s", a.Status, a.Header, a.Body, diff)
			}
			if len(s.outcomes) > 0 {
				t.Error("a handshake was counted as a delivery")
			}
		})
	}
}
