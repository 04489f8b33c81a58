package relay

import (
	"slices"
	"strings"
	"time"
)

// A Team takes the events that it asks for, at its own pace: each until it has acknowledged
// it, or until it has had it MaxDeliver times.
type Team struct {
	Name          string
	Events        []string // types, or patterns of types
	MaxDeliver    int
	BackOff       []time.Duration // the waits between two deliveries; the last one repeats
	MaxAckPending int             // most events that are in the team's hands at one time
}

// Wants says whether an event of the type is for the team.
func (t Team) Wants(typ string) bool {
	return slices.ContainsFunc(t.Events, func(pattern string) bool { return Matches(pattern, typ) })
}

// Matches says whether the type is one of the pattern's: "*" stands for one token, ">" at the
// end for one or more.
func Matches(pattern, typ string) bool {
	have := strings.Split(typ, ".")
	for i, token := range strings.Split(pattern, ".") {
		switch {
		case i >= len(have):
			return false
		case token == ">":
			return true
		case token != "*" && token != have[i]:
			return false
		}
	}
	return strings.Count(pattern, ".") == strings.Count(typ, ".")
}
