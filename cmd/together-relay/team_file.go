package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/natsd"
	"together-relay/relay"
	"together-relay/schemas"
)

// teamSettings is an entry of teams.
type teamSettings struct {
	relay.Team
	at string // file:line
}

var teamKeys = []string{"events", "max_deliver", "backoff", "max_ack_pending", "push"}

// The settings of a team that says nothing else.
const (
	defaultMaxDeliver    = 10
	defaultMaxAckPending = 1000
)

func defaultBackOff() []time.Duration {
	return []time.Duration{30 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, time.Hour}
}

func (f *file) readTeams(n *yaml.Node) error {
	f.teams = map[string]*teamSettings{}
	return f.each(n, nil, func(name string, value *yaml.Node) error {
		if !relay.ValidTeamName(name) {
			return f.errorf(value, "team %q: a name is made of a-z, 0-9, - and _, 32 characters at most", name)
		}
		if natsd.Reserved(name) {
			return f.errorf(value, "team %s: the name is taken by a NATS user of the relay; choose another", name)
		}
		team := &teamSettings{at: f.at(value), Team: relay.Team{Name: name, MaxDeliver: defaultMaxDeliver, MaxAckPending: defaultMaxAckPending}}
		waits := false
		err := f.each(value, teamKeys, func(key string, v *yaml.Node) error {
			waits = waits || key == "backoff"
			return f.readTeam(team, key, v)
		})
		switch {
		case err != nil:
			return err
		case len(team.Events) == 0:
			return f.errorf(value, "team %s: events is missing; name types, such as batch.done, or \">\" for all", name)
		case !waits:
			usual := defaultBackOff()
			team.BackOff = usual[:min(len(usual), team.MaxDeliver)]
		case len(team.BackOff) > team.MaxDeliver:
			return f.errorf(value, "team %s: backoff has %d waits, and max_deliver is %d; NATS takes no more waits than deliveries", name, len(team.BackOff), team.MaxDeliver)
		}
		f.teams[name] = team
		return nil
	})
}

func (f *file) readTeam(team *teamSettings, key string, v *yaml.Node) error {
	switch key {
	case "events":
		if v.Kind != yaml.SequenceNode {
			return f.errorf(v, "team %s: events must be a list of types", team.Name)
		}
		for _, entry := range v.Content {
			if err := checkPattern(entry.Value); entry.Kind != yaml.ScalarNode || err != nil {
				return f.errorf(entry, "team %s: %w", team.Name, err)
			}
			team.Events = append(team.Events, entry.Value)
		}
	case "backoff":
		if v.Kind != yaml.SequenceNode {
			return f.errorf(v, "team %s: backoff must be a list of lengths of time, such as [1s, 10s]", team.Name)
		}
		for _, entry := range v.Content {
			d, err := parseDays(entry.Value)
			if err != nil || d <= 0 {
				return f.errorf(entry, "team %s: backoff: %q is no length of time that can be waited; write 30s, 2h or 7d", team.Name, entry.Value)
			}
			team.BackOff = append(team.BackOff, d)
		}
	case "max_deliver", "max_ack_pending":
		into := &team.MaxDeliver
		if key == "max_ack_pending" {
			into = &team.MaxAckPending
		}
		if v.Decode(into) != nil || *into < 1 || *into > 1e6 {
			return f.errorf(v, "team %s: %s must be a number from 1 to 1000000", team.Name, key)
		}
	case "push":
		return f.errorf(v, "team %s: push is not built yet; leave it out, and let the team pull", team.Name)
	}
	return nil
}

// checkPattern says whether the text is a type, or a pattern of types.
func checkPattern(text string) error {
	tokens := strings.Split(text, ".")
	for i, token := range tokens {
		switch {
		case token == "":
			return fmt.Errorf("%q is no type; write batch.done, fine_tune.* or fine_tune.>", text)
		case token == ">" && i < len(tokens)-1:
			return fmt.Errorf("%q: > stands for all that follows, so it comes last", text)
		case len(token) > 1 && strings.ContainsAny(token, "*>"):
			return fmt.Errorf("%q: * and > stand for whole tokens, between dots", text)
		case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f }):
			return fmt.Errorf("%q has a space in it", text)
		}
	}
	return nil
}

// checkTeams finds teams that the server would refuse.
func (s *settings) checkTeams() error {
	if len(s.teams) == 0 {
		return nil
	}
	prefixes, err := s.prefixes()
	if err != nil {
		return err
	}
	for _, name := range sortedNames(s.teams) {
		if _, err := jetstream.TeamFilters(prefixes, s.teams[name].Events); err != nil {
			return usagef("%s: team %s: %w", s.teams[name].at, name, err)
		}
	}
	return nil
}

// teamList are the teams in the order of their names.
func (s *settings) teamList() []relay.Team {
	teams := []relay.Team{}
	for _, name := range sortedNames(s.teams) {
		teams = append(teams, s.teams[name].Team)
	}
	return teams
}

// teamWarnings are about a single delivery, and about events that no known type is among. The relay takes types that it
// does not know, so it may be right all the same.
func (s *settings) teamWarnings() []string {
	var warnings []string
	types := schemas.Types()
	for _, name := range sortedNames(s.teams) {
		if s.teams[name].MaxDeliver == 1 {
			warnings = append(warnings, fmt.Sprintf("%s: team %s: max_deliver is 1: of what is in the team's hands when NATS restarts, NATS says nothing, so it neither comes again nor is a dead letter; from 2 on it is", s.teams[name].at, name))
		}
		for _, pattern := range s.teams[name].Events {
			if !slices.ContainsFunc(types, func(typ string) bool { return relay.Matches(pattern, typ) }) {
				warnings = append(warnings, fmt.Sprintf("%s: team %s: no known type is %q%s", s.teams[name].at, name, pattern, nearestType(pattern, types)))
			}
		}
	}
	return warnings
}

// nearestType suggests a type or a pattern that was probably meant.
func nearestType(pattern string, types []string) string {
	if _, rest, _ := strings.Cut(pattern, "."); strings.Contains(rest, ".") && slices.ContainsFunc(types, func(typ string) bool { return relay.Matches(rest, typ) }) {
		return fmt.Sprintf("; did you mean %q? The prefix is no part of a type", rest)
	}
	candidates := types
	if family, last, ok := strings.Cut(pattern, "."); ok && family != "*" && (last == "*" || last == ">") {
		candidates = nil
		for _, typ := range types {
			family, _, _ := strings.Cut(typ, ".")
			candidates = append(candidates, family+"."+last)
		}
	}
	return nearest(pattern, candidates)
}
