package relay_test

import (
	"testing"

	"together-relay/relay"
)

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, typ string
		want         bool
	}{
		{"batch.done", "batch.done", true},
		{"batch.done", "batch.failed", false},
		{"batch", "batch.done", false},
		{"batch.done", "batch", false},
		{"batch.*", "batch.done", true},
		{"batch.*", "batch.done.late", false},
		{"batch.*", "batch", false},
		{"*.done", "batch.done", true},
		{"*", "batch", true},
		{"batch.>", "batch.done", true},
		{"batch.>", "batch.done.late", true},
		{"batch.>", "batch", false},
		{">", "batch.done", true},
	} {
		if got := relay.Matches(test.pattern, test.typ); got != test.want {
			t.Errorf("Matches(%q, %q) = %v", test.pattern, test.typ, got)
		}
		team := relay.Team{Events: []string{"no.such", test.pattern}}
		if got := team.Wants(test.typ); got != test.want {
			t.Errorf("a team of %q wants %q: %v", test.pattern, test.typ, got)
		}
	}
}
