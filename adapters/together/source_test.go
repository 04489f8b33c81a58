package together

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"together-relay/relay"
)

var arrived = time.Date(2026, 7, 1, 9, 0, 0, 5000, time.UTC)

func newSource(t testing.TB, cfg Config, secrets ...string) *Source {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "together"
	}
	s, err := NewSource(cfg, bytesOf(secrets))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func bytesOf(secrets []string) [][]byte {
	all := make([][]byte, len(secrets))
	for i, s := range secrets {
		all[i] = []byte(s)
	}
	return all
}

// sign is the signature as a sender would make it, by the book.
func sign(secret, text string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

func signed(body, signature, stamp string) relay.Delivery {
	return relay.Delivery{Source: "together", Body: []byte(body), Arrived: arrived,
		Header: map[string]string{SignatureHeader: signature, TimestampHeader: stamp}}
}

const good = `{"id":"evt_1","type":"batch.done","data":{"batch_id":"b1"}}`

func TestSignature(t *testing.T) {
	t.Parallel()
	s := newSource(t, Config{}, "old", "new")
	right := sign("old", good)
	for _, c := range []struct{ name, signature, proof string }{
		{"first secret", right, "1"},
		{"second secret", sign("new", good), "2"},
		{"upper case", strings.ToUpper(right), "1"},
		{"prefix", "sha256=" + right, "1"},
		{"prefix and upper case", "SHA256=" + strings.ToUpper(right), "1"},
		{"missing", "", ""},
		{"only the prefix", "sha256=", ""},
		{"another secret", sign("other", good), ""},
		{"another body", sign("old", good+" "), ""},
		{"short", right[:62], ""},
		{"long", right + "00", ""},
		{"odd", right[:63], ""},
		{"no hex", strings.Repeat("z", 64), ""},
		{"white space", " " + right[1:], ""},
		{"two prefixes", "sha256=sha256=" + right, ""},
		{"other prefix", "sha512=" + right, ""},
		{"two signatures", right + "," + right, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ev, err := s.Open(signed(good, c.signature, ""))
			if (err == nil) != (c.proof != "") || ev.Proof != c.proof {
				t.Errorf("proof = %q, %v; want %q", ev.Proof, err, c.proof)
			}
			if err != nil && !errors.Is(err, relay.ErrUnproven) {
				t.Errorf("error = %v, want ErrUnproven", err)
			}
			if err != nil && strings.Contains(err.Error(), right) {
				t.Error("the error tells the right signature")
			}
		})
	}
}

func TestNothingIsReadBeforeItIsProven(t *testing.T) {
	t.Parallel()
	ev, err := newSource(t, Config{}, "s").Open(signed("no JSON", sign("x", "no JSON"), ""))
	if !errors.Is(err, relay.ErrUnproven) || ev.CloudEvent.ID() != "" {
		t.Errorf("Open = %+v, %v; want ErrUnproven", ev, err)
	}
	if _, err := newSource(t, Config{}, "s").Open(signed("no JSON", sign("s", "no JSON"), "")); !errors.As(err, new(*relay.Unusable)) {
		t.Errorf("error = %v, want Unusable", err)
	}
}

func TestTimestamp(t *testing.T) {
	t.Parallel()
	s := newSource(t, Config{Timestamp: true}, "s")
	for _, c := range []struct {
		name, stamp string
		covered, ok bool
	}{
		{"now", at(0), true, true},
		{"five minutes old", at(-5 * time.Minute), true, true},
		{"five minutes ahead", at(5 * time.Minute), true, true},
		{"too old", at(-5*time.Minute - 2*time.Second), true, false},
		{"too far ahead", at(5*time.Minute + 2*time.Second), true, false},
		{"not covered", at(0), false, false},
		{"missing", "", true, false},
		{"no number", "now", true, false},
		{"a fraction", at(0) + ".5", true, false},
		{"beyond time", "99999999999999999999", true, false},
		{"far beyond", strconv.FormatInt(1<<62, 10), true, false},
		{"far before", strconv.FormatInt(-1<<62, 10), true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := good
			if c.covered {
				text = c.stamp + "." + good
			}
			_, err := s.Open(signed(good, sign("s", text), c.stamp))
			if (err == nil) != c.ok || err != nil && !errors.Is(err, relay.ErrUnproven) {
				t.Errorf("error = %v, want ok %v", err, c.ok)
			}
		})
	}
}

func at(d time.Duration) string { return strconv.FormatInt(arrived.Add(d).Unix(), 10) }

func TestTimestampThatIsNotCoveredIsNotLookedAt(t *testing.T) {
	t.Parallel()
	if _, err := newSource(t, Config{}, "s").Open(signed(good, sign("s", good), "rubbish")); err != nil {
		t.Error(err)
	}
}

func TestSignIsOpened(t *testing.T) {
	t.Parallel()
	for _, timestamp := range []bool{false, true} {
		s := newSource(t, Config{Timestamp: timestamp}, "first", "second")
		ev, err := s.Open(relay.Delivery{Source: "together", Body: []byte(good), Header: s.Sign([]byte(good), arrived), Arrived: arrived})
		if err != nil || ev.Proof != "1" {
			t.Errorf("timestamp %v: %q, %v", timestamp, ev.Proof, err)
		}
	}
}

func TestRotateWhileOpening(t *testing.T) {
	t.Parallel()
	s := newSource(t, Config{}, "a", "b")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if _, err := s.Open(signed(good, sign("b", good), "")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 200 {
		if err := s.Rotate(bytesOf([]string{fmt.Sprint("x", i), "b"})); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if err := s.Rotate(nil); err == nil {
		t.Error("a source without a secret was allowed")
	}
	if err := s.Rotate([][]byte{nil}); err == nil {
		t.Error("an empty secret was allowed")
	}
}

func TestCloudEvent(t *testing.T) {
	t.Parallel()
	s := newSource(t, Config{URI: "https://example.com/x?y#z", Schemas: map[string]string{
		"batch.done": "https://relay.example.com/schemas/batch.done.json"}}, "s")
	body := `{"id":"evt_1","type":"batch.done","created":1782896400,"data":{"batch_id":"b1"}}`
	d := signed(body, sign("s", body), "")
	d.Header["traceparent"] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	d.Header["tracestate"] = "a=b"
	ev, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := ev.CloudEvent.Validate(); err != nil {
		t.Error(err)
	}
	got := map[string]string{"id": ev.CloudEvent.ID(), "source": ev.CloudEvent.Source(), "type": ev.CloudEvent.Type(), "subject": ev.CloudEvent.Subject(),
		"time": ev.CloudEvent.Time().Format(time.RFC3339Nano), "datacontenttype": ev.CloudEvent.DataContentType(),
		"dataschema": ev.CloudEvent.DataSchema(), "data": string(ev.CloudEvent.Data())}
	for name, value := range ev.CloudEvent.Extensions() {
		got[name] = fmt.Sprint(value)
	}
	want := map[string]string{"id": "evt_1", "source": "https://example.com/x?y#z", "type": "ai.together.batch.done", "subject": "b1",
		"time": "2026-07-01T09:00:00Z", "datacontenttype": "application/json", "data": `{"batch_id":"b1"}`,
		"dataschema": "https://relay.example.com/schemas/batch.done.json", "recordedtime": "2026-07-01T09:00:00.000005Z", "ingress": "webhook",
		"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=b"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

func TestCloudEventLeavesOut(t *testing.T) {
	t.Parallel()
	s := newSource(t, Config{}, "s")
	body := `{"id":"evt_1","type":"x.y","data":{"x_id":"` + strings.Repeat("r", 1025) + `"}}`
	d := signed(body, sign("s", body), "")
	ev, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	if ev.CloudEvent.Subject() != "" || len(ev.Resource) != 1025 {
		t.Errorf("subject = %q, resource of %d bytes", ev.CloudEvent.Subject(), len(ev.Resource))
	}
	if ev.CloudEvent.DataSchema() != "" || !ev.CloudEvent.Time().Equal(arrived) || ev.CloudEvent.Source() != DefaultURI {
		t.Errorf("dataschema %q, time %v, source %q", ev.CloudEvent.DataSchema(), ev.CloudEvent.Time(), ev.CloudEvent.Source())
	}
}

func TestTraceContextMustBeWellFormed(t *testing.T) {
	t.Parallel()
	s := newSource(t, Config{}, "s")
	for _, parent := range []string{"x", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"} {
		d := signed(good, sign("s", good), "")
		d.Header["traceparent"], d.Header["tracestate"] = parent, "a=b"
		ev, err := s.Open(d)
		if err != nil {
			t.Fatal(err)
		}
		if ext := ev.CloudEvent.Extensions(); ext["traceparent"] != nil || ext["tracestate"] != nil {
			t.Errorf("%s was carried into the event", parent)
		}
	}
}

func FuzzSignature(f *testing.F) {
	s := newSource(f, Config{}, "s")
	right := sign("s", good)
	f.Add(right, "")
	f.Add("sha256="+right, "1")
	f.Fuzz(func(t *testing.T, signature, stamp string) {
		_, err := s.Open(signed(good, signature, stamp))
		hexed := strings.ToLower(signature)
		if proven := strings.TrimPrefix(hexed, "sha256=") == right; proven != (err == nil) {
			t.Fatalf("%q: %v", signature, err)
		}
	})
}

// benchBody is a delivery of 450 bytes.
var benchBody = []byte(`{"id":"evt_5e0c1b7a9d2f4c3e8a6b1d0f9e7c5a3b","type":"fine_tune.completed","created_at":"2026-07-01T09:52:31.004Z","data":{"fine_tune_id":"ft-9a8b7c6d-5e4f-3a2b-1c0d-9e8f7a6b5c4d","model_name":"acme/Llama-3.3-70B-Instruct-support-v2-1c0d9e8f","eval_loss":0.8731,"base_model":"meta-llama/Llama-3.3-70B-Instruct-Reference","total_steps":1200,"token_count":850000,"note":"` + strings.Repeat("n", 60) + `"}}`)

func BenchmarkVerify(b *testing.B) {
	s := newSource(b, Config{}, "a secret of some length, as it should be")
	d := relay.Delivery{Source: "together", Body: benchBody, Header: s.Sign(benchBody, arrived), Arrived: arrived}
	b.SetBytes(int64(len(benchBody)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.prove(d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s := newSource(b, Config{}, "a secret of some length, as it should be")
	d := relay.Delivery{Source: "together", Body: benchBody, Header: s.Sign(benchBody, arrived), Arrived: arrived}
	b.SetBytes(int64(len(benchBody)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Open(d); err != nil {
			b.Fatal(err)
		}
	}
}
