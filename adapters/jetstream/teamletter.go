package jetstream

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"together-relay/relay"
)

// Headers of a team's dead letter, beside those of the event and those of every dead letter.
const (
	teamHeader     = "Relay-Team"
	attemptsHeader = "Relay-Attempts"
	streamHeader   = "Relay-Stream"   // where the attempts were made: at the events, or at the copies for single teams
	sequenceHeader = "Relay-Sequence" // of the event in the event stream
	subjectHeader  = "Relay-Subject"  // of the event
	copyHeader     = "Relay-Copy"     // sequence of the copy, if the attempts were made at one
	omittedHeader  = "Relay-Omitted"  // what there was no room for
)

// omittedData says in omittedHeader that not even the event had room.
const omittedData = "data"

// encodeTeamLetter writes a letter about a message. It is a copy of it, if there is one.
func encodeTeamLetter(letter relay.TeamLetter, about died, original *Original) *nats.Msg {
	msg := &nats.Msg{Subject: teamDeadSubject(letter.Team, letter.Reason), Header: nats.Header{}}
	if original != nil {
		msg.Data, msg.Header = original.Data, original.carried()
	}
	set := func(name, value string) {
		if value != "" {
			msg.Header[name] = []string{escapeValue(value)}
		}
	}
	number := func(n uint64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatUint(n, 10)
	}
	set(reasonHeader, letter.Reason)
	set(detailHeader, shorten(letter.Detail))
	set(teamHeader, letter.Team)
	set(attemptsHeader, strconv.Itoa(letter.Attempts))
	set(streamHeader, about.stream)
	set(sequenceHeader, number(letter.Sequence))
	set(subjectHeader, letter.Subject)
	set(sourceHeader, letter.Source)
	if about.copied {
		set(copyHeader, number(about.sequence))
	}
	if !letter.Arrived.IsZero() {
		set(receivedHeader, letter.Arrived.UTC().Format(time.RFC3339Nano))
	}
	return msg
}

// decodeTeamLetter reads a team's letter back. Its header holds what is not said otherwise.
func decodeTeamLetter(h nats.Header, data []byte) (Letter, error) {
	team := &relay.TeamLetter{}
	letter := Letter{DeadLetter: relay.DeadLetter{Delivery: relay.Delivery{Body: data, Header: map[string]string{}}}, Team: team, event: nats.Header{}}
	var broken error
	for name := range h {
		value, err := unescapeValue(h.Get(name))
		switch {
		case err != nil && strings.HasPrefix(name, ours) && name != envelopeHeader: // which is not escaped
			broken = errors.Join(broken, fmt.Errorf("decode header %s: %w", name, err))
		case err != nil:
			letter.Header[name], letter.event[name] = h.Get(name), h[name] // of another hand, and kept as it is
		default:
			own, err := letter.note(name, value)
			if err != nil {
				broken = errors.Join(broken, fmt.Errorf("decode header %s: %w", name, err))
			}
			if !own {
				letter.event[name] = h[name]
			}
		}
	}
	letter.Reason, letter.Detail, letter.Source, letter.Arrived = team.Reason, team.Detail, team.Source, team.Arrived
	if broken == nil && (team.Team == "" || team.Reason == "") {
		broken = errors.New("decode message: no dead letter of a team")
	}
	return letter, broken
}

// note takes a header of a team's letter in. Own says that it is the letter's, not the event's.
func (l *Letter) note(name, value string) (own bool, err error) {
	team := l.Team
	switch name {
	case reasonHeader:
		team.Reason = value
	case detailHeader:
		team.Detail = value
	case teamHeader:
		team.Team = value
	case sourceHeader:
		team.Source = value
	case subjectHeader:
		team.Subject = value
	case streamHeader:
		l.Stream = value
	case omittedHeader:
		l.Omitted = value
	case attemptsHeader:
		team.Attempts, err = strconv.Atoi(value)
	case sequenceHeader:
		team.Sequence, err = strconv.ParseUint(value, 10, 64)
	case receivedHeader:
		team.Arrived, err = time.Parse(time.RFC3339Nano, value)
	case copyHeader:
		l.Header[name] = value
	default:
		switch name {
		case attribute + "id":
			team.ID = value
		case attribute + "type":
			team.Type = value
		case replayHeader:
			team.Replay = value
		}
		if !strings.HasPrefix(name, theirs) {
			l.Header[name] = value
		}
		return false, nil
	}
	return true, err
}

// Original is the event that a team's letter is a copy of. Without a copy there is none.
func (l Letter) Original() (Original, error) {
	switch {
	case l.Team == nil:
		return Original{}, errors.New("it is a delivery, not an event")
	case l.Reason == relay.ReasonGone:
		return Original{}, errors.New("the event was not stored any more when the letter was made")
	case strings.Contains(l.Omitted, omittedData):
		return Original{}, fmt.Errorf("no message had room for the event; it is number %d of the stream, if that is not too long ago", l.Team.Sequence)
	case l.Team.Subject == "" || l.Team.Sequence == 0:
		return Original{}, errors.New("it does not say which event it is a copy of")
	}
	return Original{Subject: l.Team.Subject, Sequence: l.Team.Sequence, Data: l.Body, Header: l.event, Buried: l.Stored}, nil
}

// fitTeamLetter leaves out of a letter what there is no room for, the least worthy first and the
// event last, and notes what that was.
func (l *Log) fitTeamLetter(msg *nats.Msg) {
	for _, group := range [][]string{{headHeader, tailHeader}, {envelopeHeader}, {attribute + "tracestate", attribute + "traceparent"}} {
		if l.fits(msg) == nil {
			return
		}
		omit(msg, group...)
	}
	if l.fits(msg) != nil {
		omitData(msg)
	}
	if l.fits(msg) != nil { // headers of another hand, and too many
		var others []string
		for name := range msg.Header {
			if !strings.HasPrefix(name, ours) && !strings.HasPrefix(name, theirs) && name != attribute+"id" && name != attribute+"type" {
				others = append(others, name)
			}
		}
		for _, name := range others {
			delete(msg.Header, name)
		}
		noteOmitted(msg, "headers")
	}
}

func omit(msg *nats.Msg, names ...string) {
	for _, name := range names {
		if msg.Header[name] != nil {
			delete(msg.Header, name)
			noteOmitted(msg, name)
		}
	}
}

func omitData(msg *nats.Msg) {
	msg.Data = nil
	noteOmitted(msg, omittedData)
}

func noteOmitted(msg *nats.Msg, what string) {
	msg.Header[omittedHeader] = []string{strings.TrimSpace(msg.Header.Get(omittedHeader) + " " + what)}
}
