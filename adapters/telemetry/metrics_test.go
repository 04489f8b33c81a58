package telemetry

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"together-relay/relay"
)

func newMetrics() *Metrics { return NewMetrics("v1.2.3", func() bool { return true }) }

func TestDoneCounts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		outcome relay.Outcome
		want    map[string]float64
	}{
		{"stored", relay.Outcome{Source: "together", Result: relay.ResultStored, Receipt: relay.Receipt{Proof: "1"}}, map[string]float64{
			`relay_deliveries_verified_total{key="1",source="together"}`: 1,
			`relay_events_stored_total{source="together"}`:               1,
		}},
		{"duplicate", relay.Outcome{Source: "together", Result: relay.ResultDuplicate, Receipt: relay.Receipt{Proof: "2"}}, map[string]float64{
			`relay_deliveries_verified_total{key="2",source="together"}`: 1,
			`relay_events_duplicate_total{source="together"}`:            1,
		}},
		{"dead letter", relay.Outcome{Source: "together", Result: relay.ResultDeadLettered, Receipt: relay.Receipt{Proof: "1", Reason: relay.ReasonSchema}}, map[string]float64{
			`relay_deliveries_verified_total{key="1",source="together"}`:              1,
			`relay_deliveries_dead_lettered_total{reason="schema",source="together"}`: 1,
		}},
		{"not stored", relay.Outcome{Source: "together", Result: relay.ResultNotStored, Receipt: relay.Receipt{Proof: "1"}}, map[string]float64{
			`relay_deliveries_verified_total{key="1",source="together"}`: 1,
			`relay_deliveries_not_stored_total{source="together"}`:       1,
		}},
		{"unproven", relay.Outcome{Source: "together", Result: relay.ResultRejected, Rejected: relay.RejectedSignature}, map[string]float64{
			`relay_deliveries_rejected_total{reason="signature",source="together"}`: 1,
		}},
		{"unknown source", relay.Outcome{Result: relay.ResultRejected, Rejected: relay.RejectedRoute}, map[string]float64{
			`relay_deliveries_rejected_total{reason="unknown_source",source="unknown"}`: 1,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMetrics()
			source := c.outcome.Source
			if source == "" {
				source = "unknown"
			}
			c.want[`relay_deliveries_received_total{source="`+source+`"}`] = 2
			for name := range c.want {
				c.want[name] = 2
			}
			m.Done(c.outcome)
			m.Done(c.outcome)
			got := map[string]float64{}
			for name, value := range scrape(t, m) {
				if strings.HasPrefix(name, "relay_deliveries_") || strings.HasPrefix(name, "relay_events_") {
					got[name] = value
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDoneMeasures(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	m.Done(relay.Outcome{Source: "together", Result: relay.ResultStored, Body: 450, Took: 250 * time.Millisecond})
	m.Done(relay.Outcome{Source: "together", Result: relay.ResultStored, Body: 50, Took: 500 * time.Millisecond})
	m.Done(relay.Outcome{Source: "together", Result: relay.ResultRejected, Rejected: relay.RejectedMedia})
	m.Done(relay.Outcome{Result: relay.ResultRejected, Rejected: relay.RejectedRoute})
	want(t, m, "relay_request_duration_seconds", map[string]float64{
		`relay_request_duration_seconds_sum{result="stored",source="together"}`:     0.75,
		`relay_request_duration_seconds_count{result="stored",source="together"}`:   2,
		`relay_request_duration_seconds_sum{result="rejected",source="together"}`:   0,
		`relay_request_duration_seconds_count{result="rejected",source="together"}`: 1,
		`relay_request_duration_seconds_sum{result="rejected",source="unknown"}`:    0,
		`relay_request_duration_seconds_count{result="rejected",source="unknown"}`:  1,
	})
	want(t, m, "relay_request_body_bytes", map[string]float64{ // a body that was not read has no size
		`relay_request_body_bytes_sum{source="together"}`:   500,
		`relay_request_body_bytes_count{source="together"}`: 2,
	})
	if n := scrape(t, m)[`relay_request_body_bytes_bucket{source="together",le="128"}`]; n != 1 {
		t.Errorf("%v bodies of at most 128 bytes, want 1", n)
	}
}

func TestLogIsTimed(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	inner := &fakeLog{}
	log := m.Log(inner)
	stored, err := log.Append(context.Background(), relay.Event{})
	if err != nil || stored.Sequence != 42 {
		t.Errorf("Append = %+v, %v", stored, err)
	}
	if err := log.Bury(context.Background(), relay.DeadLetter{}); err != nil {
		t.Error(err)
	}
	inner.err = errors.New("away")
	if _, err := log.Append(context.Background(), relay.Event{}); !errors.Is(err, inner.err) {
		t.Errorf("Append = %v", err)
	}
	if err := log.Bury(context.Background(), relay.DeadLetter{}); !errors.Is(err, inner.err) {
		t.Errorf("Bury = %v", err)
	}
	got := scrape(t, m)
	for _, labels := range []string{`kind="event",result="stored"`, `kind="event",result="failed"`, `kind="dead_letter",result="stored"`, `kind="dead_letter",result="failed"`} {
		if n := got["relay_publish_duration_seconds_count{"+labels+"}"]; n != 1 {
			t.Errorf("%s: %v, want 1", labels, n)
		}
	}
}

func TestInFlight(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	in, out := make(chan struct{}), make(chan struct{})
	handler := m.InFlight(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		in <- struct{}{}
		<-out
		w.WriteHeader(http.StatusTeapot)
	}))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
			if w.Code != http.StatusTeapot {
				t.Errorf("status = %d", w.Code)
			}
		})
		<-in
	}
	want(t, m, "relay_requests_in_flight", map[string]float64{"relay_requests_in_flight": 3})
	close(out)
	wg.Wait()
	want(t, m, "relay_requests_in_flight", map[string]float64{"relay_requests_in_flight": 0})
}

func TestInFlightAfterAPanic(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	handler := m.InFlight(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("x") }))
	func() {
		defer func() { _ = recover() }()
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", nil))
	}()
	want(t, m, "relay_requests_in_flight", map[string]float64{"relay_requests_in_flight": 0})
}

func TestConnectedIsAskedAtEachScrape(t *testing.T) {
	t.Parallel()
	connected := false
	m := NewMetrics("v", func() bool { return connected })
	want(t, m, "relay_nats", map[string]float64{"relay_nats_connected": 0})
	connected = true
	want(t, m, "relay_nats", map[string]float64{"relay_nats_connected": 1})
}

func TestBuildInfo(t *testing.T) {
	t.Parallel()
	want(t, newMetrics(), "relay_build_info", map[string]float64{`relay_build_info{goversion="` + runtime.Version() + `",version="v1.2.3"}`: 1})
}

func TestRegistriesAreApart(t *testing.T) {
	t.Parallel()
	a, b := newMetrics(), newMetrics()
	a.Done(relay.Outcome{Source: "together", Result: relay.ResultStored})
	want(t, a, "relay_events_stored", map[string]float64{`relay_events_stored_total{source="together"}`: 1})
	want(t, b, "relay_events_stored", map[string]float64{})
}

func TestGoAndProcessAreThere(t *testing.T) {
	t.Parallel()
	got := scrape(t, newMetrics())
	if got["go_goroutines"] < 1 {
		t.Errorf("%v goroutines", got["go_goroutines"])
	}
	if runtime.GOOS == "linux" && got["process_resident_memory_bytes"] < 1 {
		t.Errorf("%v bytes of memory", got["process_resident_memory_bytes"])
	}
}

// Each metric says what it counts, before anything was counted or after.
func TestEveryMetricHasHelp(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	for _, result := range []string{relay.ResultStored, relay.ResultDuplicate, relay.ResultDeadLettered, relay.ResultNotStored, relay.ResultRejected} {
		m.Done(relay.Outcome{Source: "together", Result: result, Body: 1, Receipt: relay.Receipt{Proof: "1"}})
	}
	_, _ = m.Log(&fakeLog{}).Append(context.Background(), relay.Event{})
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	for _, family := range families {
		if family.GetHelp() == "" {
			t.Errorf("%s has no help", family.GetName())
		}
		if strings.HasPrefix(family.GetName(), "relay_") {
			ours++
		}
	}
	if ours != 13 {
		t.Errorf("%d metrics of ours, want 13", ours)
	}
}
