package telemetry

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"together-relay/relay"
)

// Watch is the metrics of watching. Its gauges speak of the looks of this relay; they are
// there from its first look on.
type Watch struct {
	looks  *prometheus.CounterVec
	events *prometheus.CounterVec
	jobs   *prometheus.GaugeVec
	ratio  *prometheus.GaugeVec
	key    prometheus.Gauge

	mu   sync.Mutex
	told map[string]int // facts by resource
}

// NewWatch registers the metrics of watching with the others.
func (m *Metrics) NewWatch() *Watch {
	w := &Watch{
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "relay_watch_looks_total", Help: "Looks at a resource of the Together API."}, []string{"resource", "result"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "relay_watch_events_total",
			Help: "Facts that a look has found new: stored now, or found stored."}, []string{"resource", "result"}),
		jobs: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "relay_watch_jobs", Help: "Jobs in the last list of the resource."}, []string{"resource"}),
		ratio: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "relay_watch_completeness_ratio",
			Help: "Of the facts that this relay has learnt from the resource, the share that is stored."}, []string{"resource"}),
		key:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "relay_watch_key_accepted", Help: "0 while the Together API refuses the key."}),
		told: map[string]int{},
	}
	w.key.Set(1)
	m.registry.MustRegister(w.looks, w.events, w.jobs, w.ratio, w.key)
	return w
}

// LookAge adds the age of a resource's last good look: the seconds since then, or since the
// relay began if there was none.
func (m *Metrics) LookAge(resource string, lastGood func() time.Time) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relay_watch_last_success_age_seconds", Help: "Time since the last good look at the resource by this relay.",
		ConstLabels: prometheus.Labels{"resource": resource},
	}, func() float64 { return time.Since(lastGood()).Seconds() }))
}

// Done counts one look.
func (w *Watch) Done(look relay.Look) {
	result := "ok"
	if look.Err != nil {
		result = "failed"
	}
	w.looks.WithLabelValues(look.Resource, result).Inc()
	if look.Err == nil || look.Jobs > 0 {
		w.jobs.WithLabelValues(look.Resource).Set(float64(look.Jobs))
	}
	for _, receipt := range look.Told {
		w.events.WithLabelValues(look.Resource, relay.Result(receipt, nil)).Inc()
	}
	if errors.Is(look.Err, relay.ErrKeyRefused) {
		w.key.Set(0)
	} else if look.Err == nil {
		w.key.Set(1)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[look.Resource] += len(look.Told)
	ratio := 1.0
	if all := w.told[look.Resource] + look.Missing; all > 0 {
		ratio = float64(w.told[look.Resource]) / float64(all)
	}
	w.ratio.WithLabelValues(look.Resource).Set(ratio)
}
