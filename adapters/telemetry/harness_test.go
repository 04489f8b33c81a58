package telemetry

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"together-relay/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fakeLog is a log with a dial for failure. It notes the span that it was called in.
type fakeLog struct {
	err  error
	span trace.SpanContext
}

func (l *fakeLog) Append(ctx context.Context, _ relay.Event) (relay.Stored, error) {
	l.span = trace.SpanContextFromContext(ctx)
	if l.err != nil {
		return relay.Stored{}, l.err
	}
	return relay.Stored{Subject: "together.batch.done.b1", Sequence: 42, Duplicate: true}, nil
}

func (l *fakeLog) Bury(ctx context.Context, _ relay.DeadLetter) error {
	l.span = trace.SpanContextFromContext(ctx)
	return l.err
}

// scrape reads the metrics as Prometheus does: value by name and labels.
func scrape(t testing.TB, m *Metrics) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	values := map[string]float64{}
	for line := range strings.Lines(w.Body.String()) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		values[line[:at]] = value
	}
	return values
}

// want compares the metrics whose names begin with the prefix, histogram buckets aside.
func want(t testing.TB, m *Metrics, prefix string, expected map[string]float64) {
	t.Helper()
	got := map[string]float64{}
	for name, value := range scrape(t, m) {
		if strings.HasPrefix(name, prefix) && !strings.Contains(name, "_bucket{") {
			got[name] = value
		}
	}
	if diff := cmp.Diff(expected, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}
