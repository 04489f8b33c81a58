package telemetry

import (
	"testing"

	"together-relay/relay"
)

func TestLettersAreCounted(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	letters := m.NewLetters()
	letters.Made(relay.TeamLetter{Team: "ml", Reason: relay.ReasonTerminated})
	letters.Made(relay.TeamLetter{Team: "ml", Reason: relay.ReasonTerminated})
	letters.Made(relay.TeamLetter{Team: "billing", Reason: relay.ReasonGone})
	letters.Unreadable()
	letters.Stored(3, map[string]map[string]uint64{"ml": {"terminated": 2, "gone": 1}, "billing": {"gone": 1}}, 5)
	want(t, m, "relay_team_dead", map[string]float64{
		`relay_team_dead_letters_total{reason="terminated",team="ml"}`: 2, `relay_team_dead_letters_total{reason="gone",team="billing"}`: 1,
	})
	want(t, m, "relay_advisories", map[string]float64{"relay_advisories_unreadable_total": 1, "relay_advisories_waiting": 5})
	want(t, m, "relay_dead_letters", map[string]float64{
		`relay_dead_letters_stored{kind="delivery",reason="",team=""}`:         3,
		`relay_dead_letters_stored{kind="team",reason="terminated",team="ml"}`: 2,
		`relay_dead_letters_stored{kind="team",reason="gone",team="ml"}`:       1,
		`relay_dead_letters_stored{kind="team",reason="gone",team="billing"}`:  1,
	})
	// What is not stored any more is not shown.
	letters.Stored(0, map[string]map[string]uint64{"ml": {"terminated": 1}}, 0)
	want(t, m, "relay_dead_letters", map[string]float64{
		`relay_dead_letters_stored{kind="delivery",reason="",team=""}`:         0,
		`relay_dead_letters_stored{kind="team",reason="terminated",team="ml"}`: 1,
	})
}
