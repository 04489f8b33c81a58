package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"together-relay/relay"
)

// Letters is the metrics of dead letters. The counters speak of what this relay has done, the
// gauges of what is stored, as it was seen within the last seconds.
type Letters struct {
	made       *prometheus.CounterVec
	unreadable prometheus.Counter
	stored     *prometheus.GaugeVec
	waiting    prometheus.Gauge
	seen       map[[2]string]bool // by team and reason, what is in stored
}

// NewLetters registers the metrics of dead letters with the others.
func (m *Metrics) NewLetters() *Letters {
	l := &Letters{
		made: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "relay_team_dead_letters_total",
			Help: "Events that a team could not handle, and of which this relay has made a dead letter."}, []string{"team", "reason"}),
		unreadable: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_advisories_unreadable_total",
			Help: "What NATS has said of a team's deliveries, and nobody could read."}),
		stored: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "relay_dead_letters_stored",
			Help: "Dead letters that are stored now; kind is delivery or team."}, []string{"kind", "team", "reason"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{Name: "relay_advisories_waiting",
			Help: "What NATS has said of a team's deliveries, and of which no dead letter was made yet."}),
	}
	m.registry.MustRegister(l.made, l.unreadable, l.stored, l.waiting)
	return l
}

// Made counts a dead letter of a team.
func (l *Letters) Made(letter relay.TeamLetter) {
	l.made.WithLabelValues(letter.Team, letter.Reason).Inc()
}

// Unreadable counts an advisory that nobody could read.
func (l *Letters) Unreadable() { l.unreadable.Inc() }

// Stored says how many letters are stored, of deliveries and by team and reason, and how many
// advisories wait. It is called by one goroutine.
func (l *Letters) Stored(deliveries uint64, teams map[string]map[string]uint64, waiting uint64) {
	l.stored.WithLabelValues("delivery", "", "").Set(float64(deliveries))
	before := l.seen
	l.seen = map[[2]string]bool{}
	for team, reasons := range teams {
		for reason, n := range reasons {
			l.stored.WithLabelValues("team", team, reason).Set(float64(n))
			l.seen[[2]string{team, reason}] = true
		}
	}
	for key := range before {
		if !l.seen[key] {
			l.stored.DeleteLabelValues("team", key[0], key[1])
		}
	}
	l.waiting.Set(float64(waiting))
}
