package relay

import (
	"strings"
	"testing"
)

func TestWhyALetterIsDead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		e              Ending
		reason, detail string
	}{
		{Ending{Attempts: 10, Stored: true}, ReasonMaxDeliver, "delivered 10 times, never acknowledged"},
		{Ending{Attempts: 1, Stored: true}, ReasonMaxDeliver, "delivered once, not acknowledged"},
		{Ending{Attempts: 2, Terminated: true, Said: "no such batch", Stored: true}, ReasonTerminated, "no such batch"},
		{Ending{Attempts: 2, Terminated: true, Stored: true}, ReasonTerminated, ""},
		{Ending{Attempts: 2}, ReasonGone, "the event is not stored any more: delivered 2 times, never acknowledged"},
		{Ending{Attempts: 2, Terminated: true}, ReasonGone, "the event is not stored any more: terminated by the team"},
		{Ending{Terminated: true, Said: "deleted"}, ReasonGone, "the event is not stored any more: deleted"},
	} {
		if reason, detail := c.e.Why(); reason != c.reason || detail != c.detail {
			t.Errorf("%+v is %s, %q, want %s, %q", c.e, reason, detail, c.reason, c.detail)
		}
	}
}

func TestValidTeamName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"ml": true, "ml-platform_2": true, "0": true, strings.Repeat("a", 32): true,
		"": false, "-a": false, "_a": false, "a.b": false, "Ml": false, "a b": false, strings.Repeat("a", 33): false, "ü": false,
	} {
		if got := ValidTeamName(name); got != want {
			t.Errorf("%q is valid: %v", name, got)
		}
	}
}
