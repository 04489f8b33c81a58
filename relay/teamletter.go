package relay

import (
	"fmt"
	"time"
)

// The reasons why an event is a dead letter of a team.
const (
	ReasonMaxDeliver = "max_deliver" // delivered as often as the team takes it, and never acknowledged
	ReasonTerminated = "terminated"  // the team said that it never can
	ReasonGone       = "gone"        // no longer stored when that was noticed; there is no copy of it
)

// An Ending is how a team's attempts at an event ended, as it was reported.
type Ending struct {
	Team       string
	Attempts   int
	Terminated bool   // by the team, or because the event was deleted; else the attempts are used up
	Said       string // why, for Terminated
	Stored     bool   // the event still is
}

// Why is the reason of the dead letter that follows from the ending, and one line for people.
func (e Ending) Why() (reason, detail string) {
	reason, detail = ReasonMaxDeliver, fmt.Sprintf("delivered %d times, never acknowledged", e.Attempts)
	if e.Attempts == 1 {
		detail = "delivered once, not acknowledged"
	}
	if e.Terminated {
		reason, detail = ReasonTerminated, e.Said
	}
	if e.Stored {
		return reason, detail
	}
	if detail == "" {
		detail = "terminated by the team"
	}
	return ReasonGone, "the event is not stored any more: " + detail
}

// A TeamLetter is a dead letter of a team: an event that it could not handle.
type TeamLetter struct {
	Team     string
	Reason   string // ReasonMaxDeliver, ReasonTerminated or ReasonGone
	Detail   string // one line for people
	Attempts int    // how often it was delivered

	// What is known of the event. With ReasonGone it is little.
	ID, Type string
	Source   string
	Subject  string    // where it is stored, or was
	Sequence uint64    // likewise; 0 if it is not known
	Replay   string    // the replay in which the attempts were made; empty for the event itself
	Arrived  time.Time // at the relay
}

// ValidTeamName says whether a team can be called so.
func ValidTeamName(name string) bool {
	if name == "" || len(name) > 32 || name[0] == '-' || name[0] == '_' {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
