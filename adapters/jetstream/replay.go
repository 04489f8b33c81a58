package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of a copy that is for one team alone, beside those of the original.
const (
	replayHeader   = "ce-replay"      // which replay it belongs to
	replayedHeader = "Relay-Replayed" // the original's sequence in the event stream
)

// LetterReplay begins the id of a replay that is a dead letter tried again; its number follows.
const LetterReplay = "dlq-"

// An Original is a stored event as it lies in the stream.
type Original struct {
	Subject  string
	Sequence uint64
	Header   map[string][]string
	Data     []byte
	Buried   time.Time // when the dead letter was stored that this is from; zero if it is from the event stream
}

// carried are the headers that a copy has too: all but those that say how the original was stored.
func (o Original) carried() nats.Header {
	h := nats.Header{}
	for name, values := range o.Header {
		if !strings.HasPrefix(name, theirs) {
			h[name] = values
		}
	}
	return h
}

// SendTo sends a copy of a stored event to one team alone, as part of the replay of that id. The
// same event of the same replay, sent again within the deduplication window, is not a second copy.
// It blocks until the copy is stored and on disk, as far as that is the relay's business, and
// fails as Append does.
func (l *Log) SendTo(ctx context.Context, team string, original Original, replay string) error {
	if _, err := l.copyTo(ctx, team, original, replay); err != nil {
		return err
	}
	return l.flush()
}

// copyTo is SendTo whose copy need not be on disk yet.
func (l *Log) copyTo(ctx context.Context, team string, original Original, replay string) (ack, error) {
	if err := ctx.Err(); err != nil {
		return ack{}, err
	}
	got, err := l.store(replayStream(l.cfg.Stream), copyOf(team, original, replay), l.acks.publish)
	if err != nil {
		return ack{}, fmt.Errorf("copy event %d for team %s: %w", original.Sequence, team, err)
	}
	return got, nil
}

// Receives says why copies for the team alone would reach nobody: ErrNoTeam, if there is no
// consumer of them that a relay has made.
func (r *Reader) Receives(ctx context.Context, team string) error {
	_, err := r.team(ctx, replayStream(r.stream), team)
	return err
}

// team looks at the consumer of a team on one of the teams' streams. The error is ErrNoTeam if there is
// none that a relay has made.
func (r *Reader) team(ctx context.Context, stream, name string) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	consumer, err := r.js.Consumer(ctx, stream, name)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound), err == nil && !isTeam(consumer.CachedInfo().Config):
		return nil, fmt.Errorf("%s: %w; a relay makes it when the team is in its file", name, ErrNoTeam)
	case err != nil:
		return nil, fmt.Errorf("look at team %s: %w", name, err)
	}
	return consumer.CachedInfo(), nil
}

// copyOf is the message of a copy.
func copyOf(team string, original Original, replay string) *nats.Msg {
	sequence := strconv.FormatUint(original.Sequence, 10)
	msg := &nats.Msg{Subject: replaySubject(team, original.Subject), Header: original.carried(), Data: original.Data}
	msg.Header[replayHeader] = []string{escapeValue(replay)}
	msg.Header[replayedHeader] = []string{sequence}
	id := "replay:" + escapeValue(replay) + ":" + sequence
	if !original.Buried.IsZero() { // the numbers of letters begin anew with their stream
		id += ":" + strconv.FormatInt(original.Buried.UnixNano(), 10)
	}
	msg.Header[nats.MsgIdHdr] = []string{id}
	return msg
}
