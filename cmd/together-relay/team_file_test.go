package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"together-relay/relay"
)

func TestTeamsOfTheFile(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for _, test := range []struct {
		name, text string
		want       []relay.Team
		err        string
	}{
		{name: "no teams", text: "{}", want: []relay.Team{}},
		{name: "none at all", text: "teams: {}", want: []relay.Team{}},
		{name: "defaults", text: "teams: {ml: {events: [batch.done]}}",
			want: []relay.Team{{Name: "ml", Events: []string{"batch.done"}, MaxDeliver: 10, BackOff: defaultBackOff(), MaxAckPending: 1000}}},
		{name: "all of it", text: "teams:\n  b_1:\n    events: ['fine_tune.>', '*.done', '>']\n    max_deliver: 2\n    backoff: [30s, 1d]\n    max_ack_pending: 1\n  a-2: {events: [x]}",
			want: []relay.Team{
				{Name: "a-2", Events: []string{"x"}, MaxDeliver: 10, BackOff: defaultBackOff(), MaxAckPending: 1000},
				{Name: "b_1", Events: []string{"fine_tune.>", "*.done", ">"}, MaxDeliver: 2, BackOff: []time.Duration{30 * time.Second, day}, MaxAckPending: 1},
			}},
		{name: "few deliveries need few waits", text: "teams: {ml: {events: [x], max_deliver: 2}}",
			want: []relay.Team{{Name: "ml", Events: []string{"x"}, MaxDeliver: 2, BackOff: []time.Duration{30 * time.Second, time.Minute}, MaxAckPending: 1000}}},
		{name: "no waits", text: "teams: {ml: {events: [x], backoff: []}}",
			want: []relay.Team{{Name: "ml", Events: []string{"x"}, MaxDeliver: 10, MaxAckPending: 1000}}},

		{name: "name", text: "teams:\n  ML: {events: [x]}", err: `f.yaml:2: team "ML": a name is made of`},
		{name: "long name", text: "teams: {" + strings.Repeat("a", 33) + ": {events: [x]}}", err: "32 characters at most"},
		{name: "unknown key", text: "teams:\n  ml:\n    event: [x]", err: `f.yaml:3: unknown key "event"; did you mean "events"?`},
		{name: "no events", text: "teams:\n  ml: {max_deliver: 3}", err: "f.yaml:2: team ml: events is missing"},
		{name: "empty events", text: "teams:\n  ml: {events: []}", err: "f.yaml:2: team ml: events is missing"},
		{name: "events is one", text: "teams:\n  ml: {events: x}", err: "f.yaml:2: team ml: events must be a list of types"},
		{name: "event is a list", text: "teams:\n  ml: {events: [[x]]}", err: "f.yaml:2: team ml:"},
		{name: "empty token", text: "teams:\n  ml:\n    events:\n    - x\n    - a..b", err: `f.yaml:5: team ml: "a..b" is no type`},
		{name: "part of a token", text: "teams:\n  ml: {events: ['fine_*.x']}", err: `f.yaml:2: team ml: "fine_*.x": * and > stand for whole tokens`},
		{name: "open in the middle", text: "teams:\n  ml: {events: ['a.>.b']}", err: "so it comes last"},
		{name: "space", text: "teams:\n  ml: {events: ['a b']}", err: `"a b" has a space in it`},
		{name: "crossing", text: "teams:\n  ml: {events: ['*.done', 'batch.*']}", err: "f.yaml:2: team ml: the subjects together.*.done.* and together.batch.*.* overlap"},
		{name: "deliveries", text: "teams:\n  ml: {events: [x], max_deliver: 0}", err: "f.yaml:2: team ml: max_deliver must be a number from 1 to 1000000"},
		{name: "deliveries in words", text: "teams:\n  ml: {events: [x], max_deliver: ten}", err: "max_deliver must be a number"},
		{name: "pending", text: "teams:\n  ml: {events: [x], max_ack_pending: -1}", err: "f.yaml:2: team ml: max_ack_pending must be a number"},
		{name: "waits", text: "teams:\n  ml: {events: [x], backoff: 1s}", err: "f.yaml:2: team ml: backoff must be a list"},
		{name: "wait", text: "teams:\n  ml: {events: [x], backoff: [1s, soon]}", err: `f.yaml:2: team ml: backoff: "soon" is no length of time`},
		{name: "no wait", text: "teams:\n  ml: {events: [x], backoff: [0s]}", err: `backoff: "0s" is no length of time that can be waited`},
		{name: "more waits than deliveries", text: "teams:\n  ml: {events: [x], max_deliver: 2, backoff: [1s, 2s, 3s]}", err: "f.yaml:2: team ml: backoff has 3 waits, and max_deliver is 2"},
		{name: "push", text: "teams:\n  ml:\n    events: [x]\n    push:\n      url: https://example.com", err: "f.yaml:5: team ml: push is not built yet"},
		{name: "twice", text: "teams:\n  ml: {events: [x]}\n  ml: {events: [x]}", err: `f.yaml:3: "ml" stands here twice`},
		{name: "no value", text: "teams:", err: "f.yaml:1: teams has no value"},
		{name: "a list", text: "teams: [ml]", err: "f.yaml:1: a mapping is expected here"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f, err := parseFile("f.yaml", []byte(test.text), func(string) (string, bool) { return "", false })
			s := newSettings((&settings{}).declare().FlagSet, 0)
			if err == nil {
				s.sources, s.teams = f.sources, f.teams
				err = s.checkTeams()
			}
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, s.teamList()); diff != "" {
				t.Errorf("teams (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTeamWarnings(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"batch.done": "", "fine_tune.*": "", "fine_tune.>": "", ">": "", "*.done": "", "*.*": "",
		"bach.done":        `f.yaml:2: team ml: no known type is "bach.done"; did you mean "batch.done"?`,
		"finetune.*":       `f.yaml:2: team ml: no known type is "finetune.*"; did you mean "fine_tune.*"?`,
		"fine_tune":        `f.yaml:2: team ml: no known type is "fine_tune"`,
		"together.batch.*": `f.yaml:2: team ml: no known type is "together.batch.*"; did you mean "batch.*"? The prefix is no part of a type`,
		"modell.>":         `f.yaml:2: team ml: no known type is "modell.>"; did you mean "model.>"?`,
		"orders.paid":      `f.yaml:2: team ml: no known type is "orders.paid"`,
	} {
		s := &settings{teams: map[string]*teamSettings{"ml": {Team: relay.Team{Name: "ml", Events: []string{pattern}}, at: "f.yaml:2"}}}
		if got := strings.Join(s.teamWarnings(), "\n"); got != want {
			t.Errorf("%s: %q, want %q", pattern, got, want)
		}
	}
	s := &settings{teams: map[string]*teamSettings{"ml": {Team: relay.Team{Name: "ml", Events: []string{">"}, MaxDeliver: 1}, at: "f.yaml:2"}}}
	if got := s.teamWarnings(); len(got) != 1 || !strings.HasPrefix(got[0], "f.yaml:2: team ml: max_deliver is 1: ") {
		t.Errorf("a single delivery: %q", got)
	}
}
