// Package telemetry counts and traces what the relay does, as decorators around it: the
// story itself has no hooks.
package telemetry

import (
	"cmp"
	"context"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"together-relay/relay"
)

// Metrics is the relay's Prometheus metrics on a registry of their own.
type Metrics struct {
	registry     *prometheus.Registry
	received     *prometheus.CounterVec
	verified     *prometheus.CounterVec
	rejected     *prometheus.CounterVec
	stored       *prometheus.CounterVec
	duplicate    *prometheus.CounterVec
	deadLettered *prometheus.CounterVec
	notStored    *prometheus.CounterVec
	request      *prometheus.HistogramVec
	body         *prometheus.HistogramVec
	publish      *prometheus.HistogramVec
	inFlight     prometheus.Gauge

	mu      sync.RWMutex
	tallies map[outcome]*tally
}

// NewMetrics registers everything. The two functions are asked at each scrape.
func NewMetrics(version string, connected func() bool) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), tallies: map[outcome]*tally{}}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(h)
		return h
	}
	seconds := prometheus.ExponentialBuckets(0.0001, 2, 18) // 0.1 ms to 13 s
	m.received = counter("relay_deliveries_received_total", "Requests to a source.", "source")
	m.verified = counter("relay_deliveries_verified_total", "Deliveries proven, by which secret of the source: 1 is the first.", "source", "key")
	m.rejected = counter("relay_deliveries_rejected_total", "Requests turned away before anything was stored.", "source", "reason")
	m.stored = counter("relay_events_stored_total", "Events that were stored now.", "source")
	m.duplicate = counter("relay_events_duplicate_total", "Events that were stored before.", "source")
	m.deadLettered = counter("relay_deliveries_dead_lettered_total", "Deliveries that were proven but unusable.", "source", "reason")
	m.notStored = counter("relay_deliveries_not_stored_total", "Deliveries answered 503.", "source")
	m.request = histogram("relay_request_duration_seconds", "From the first byte to the answer.", seconds, "source", "result")
	m.body = histogram("relay_request_body_bytes", "Size of the bodies that were read.", prometheus.ExponentialBuckets(128, 4, 8), "source")
	m.publish = histogram("relay_publish_duration_seconds", "From the publish to the stream's acknowledgement.", seconds, "kind", "result")
	m.inFlight = prometheus.NewGauge(prometheus.GaugeOpts{Name: "relay_requests_in_flight", Help: "HTTP requests being answered now."})
	m.registry.MustRegister(m.inFlight,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "relay_nats_connected", Help: "1 while there is a connection to NATS."}, func() float64 {
			if connected() {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "relay_build_info", Help: "Always 1; the labels say what runs.",
			ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()}}, func() float64 { return 1 }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Done counts one request to a source.
func (m *Metrics) Done(o relay.Outcome) {
	t := m.tally(outcome{cmp.Or(o.Source, "unknown"), o.Proof, o.Result, cmp.Or(o.Rejected, o.Reason), o.Body > 0})
	t.received.Inc()
	if t.verified != nil {
		t.verified.Inc()
	}
	if t.body != nil {
		t.body.Observe(float64(o.Body))
	}
	t.request.Observe(o.Took.Seconds())
	t.result.Inc()
}

// An outcome is what requests that are counted alike have in common.
type outcome struct {
	source, proof, result, reason string
	read                          bool // there was a body, and it was read
}

// A tally is where such requests are counted.
type tally struct {
	received, verified, result prometheus.Counter  // verified is nil for what nobody proved
	body, request              prometheus.Observer // body is nil for what was not read
}

// tally looks up each of the metrics once.
func (m *Metrics) tally(o outcome) *tally {
	m.mu.RLock()
	t := m.tallies[o]
	m.mu.RUnlock()
	if t != nil {
		return t
	}
	t = &tally{
		received: m.received.WithLabelValues(o.source),
		request:  m.request.WithLabelValues(o.source, o.result),
	}
	if o.read {
		t.body = m.body.WithLabelValues(o.source)
	}
	if o.proof != "" {
		t.verified = m.verified.WithLabelValues(o.source, o.proof)
	}
	switch o.result {
	case relay.ResultStored:
		t.result = m.stored.WithLabelValues(o.source)
	case relay.ResultDuplicate:
		t.result = m.duplicate.WithLabelValues(o.source)
	case relay.ResultDeadLettered:
		t.result = m.deadLettered.WithLabelValues(o.source, o.reason)
	case relay.ResultNotStored:
		t.result = m.notStored.WithLabelValues(o.source)
	default:
		t.result = m.rejected.WithLabelValues(o.source, o.reason)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tallies[o] = t
	return t
}

// InFlight counts the requests that next is answering.
func (m *Metrics) InFlight(next http.Handler) http.Handler {
	return promhttp.InstrumentHandlerInFlight(m.inFlight, next)
}

// Log times the log's publishing.
func (m *Metrics) Log(next relay.Log) relay.Log { return timedLog{next, m.publish} }

type timedLog struct {
	next    relay.Log
	publish *prometheus.HistogramVec
}

func (l timedLog) Append(ctx context.Context, ev relay.Event) (relay.Stored, error) {
	started := time.Now()
	stored, err := l.next.Append(ctx, ev)
	l.observe("event", started, err)
	return stored, err
}

func (l timedLog) Bury(ctx context.Context, letter relay.DeadLetter) error {
	started := time.Now()
	err := l.next.Bury(ctx, letter)
	l.observe("dead_letter", started, err)
	return err
}

func (l timedLog) observe(kind string, started time.Time, err error) {
	result := "stored"
	if err != nil {
		result = "failed"
	}
	l.publish.WithLabelValues(kind, result).Observe(time.Since(started).Seconds())
}
