package jetstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"together-relay/relay"
)

// A died is a message that a consumer was given for the last time, as the server says.
type died struct {
	stream, consumer string
	sequence         uint64 // of the message, in its stream
	copied           bool   // the stream is that of the copies for single teams
	attempts         int
	terminated       bool
	said             string
	when             time.Time
}

// parseAdvisory reads what the server said on a subject about a consumer of one of the teams'
// streams.
func parseAdvisory(events, subject string, data []byte) (died, error) {
	var a struct {
		Time       time.Time `json:"timestamp"`
		Stream     string    `json:"stream"`
		Consumer   string    `json:"consumer"`
		Sequence   uint64    `json:"stream_seq"`
		Deliveries int       `json:"deliveries"`
		Reason     string    `json:"reason"`
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return died{}, fmt.Errorf("read advisory: %w", err)
	}
	d := died{stream: a.Stream, consumer: a.Consumer, sequence: a.Sequence, attempts: a.Deliveries, when: a.Time,
		copied: a.Stream == replayStream(events), terminated: strings.HasPrefix(subject, terminated)}
	if d.terminated {
		d.said = a.Reason
	}
	switch {
	case subject != usedUp+a.Stream+"."+a.Consumer && subject != terminated+a.Stream+"."+a.Consumer:
		return died{}, errors.New("read advisory: its subject names another consumer than it does")
	case a.Stream != events && !d.copied:
		return died{}, fmt.Errorf("read advisory: stream %q is none of the teams'", a.Stream)
	case a.Sequence == 0 || a.Deliveries < 0:
		return died{}, errors.New("read advisory: it names no message")
	}
	return d, nil
}

// messageID is under which name the letter is known. A consumer that was deleted and made again
// is another one, and may end badly with the same message again.
func (d died) messageID(made time.Time) string {
	id := fmt.Sprintf("team:%s:%s:%d", d.stream, d.consumer, d.sequence)
	if !made.IsZero() {
		id += fmt.Sprintf(":%d", made.UnixNano())
	}
	return id
}

// clocks is how far the clocks of two servers may be apart.
const clocks = time.Minute

// is says whether the message, stored at a time, is the one that died. A stream that was made
// anew counts from one again.
func (d died) is(original Original, stored time.Time) bool {
	if !d.when.IsZero() && stored.After(d.when.Add(clocks)) {
		return false
	}
	return !d.copied || strings.HasPrefix(original.Subject, replaySubject(d.consumer, ""))
}

// letter is the dead letter about the message, of which there is a copy or not.
func (d died) letter(original *Original, stored time.Time, prefixes map[string]string) relay.TeamLetter {
	ending := relay.Ending{Team: d.consumer, Attempts: d.attempts, Terminated: d.terminated, Said: d.said, Stored: original != nil}
	letter := relay.TeamLetter{Team: d.consumer, Attempts: d.attempts}
	letter.Reason, letter.Detail = ending.Why()
	if !d.copied {
		letter.Sequence = d.sequence
	}
	if original == nil {
		return letter
	}
	letter.Subject = original.Subject
	if d.copied {
		letter.Subject = strings.TrimPrefix(original.Subject, replaySubject(d.consumer, ""))
		_, letter.Sequence = copyMarks(original.Header)
	}
	letter.Source = sourceOf(letter.Subject, prefixes)
	letter.Arrived = stored
	// What cannot be read as an event was stored by another hand, and is kept as it is.
	if ev, err := decode(original.Header, original.Data); err == nil {
		letter.ID, letter.Type = ev.CloudEvent.ID(), ev.CloudEvent.Type()
		letter.Replay, _ = ev.CloudEvent.Extensions()[strings.TrimPrefix(replayHeader, attribute)].(string)
		letter.Arrived = Message{Event: ev, Place: Place{Stored: stored}}.Received()
	}
	return letter
}

// sourceOf is the source whose events lie on the subject: that of the longest prefix.
func sourceOf(subject string, prefixes map[string]string) string {
	source, longest := "", ""
	for name, prefix := range prefixes {
		if strings.HasPrefix(subject, prefix+".") && (len(prefix) > len(longest) || len(prefix) == len(longest) && name < source) {
			source, longest = name, prefix
		}
	}
	return source
}
