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

// A LetterQuery chooses dead letters.
type LetterQuery struct {
	Team   string    // of that team; empty is all
	Reason string    // empty is all
	Since  time.Time // kept since then; zero is from the beginning
	UpTo   uint64    // no further than that number; 0 is to the end
}

// filter is the subjects of the letters: relay.dlq.<kind>.<source or team>.<reason>.
func (q LetterQuery) filter() string {
	kind, of, reason := "*", "*", "*"
	if q.Team != "" {
		kind, of = "team", ResourceToken(q.Team)
	}
	if q.Reason != "" {
		reason = ResourceToken(q.Reason)
	}
	return deadRoot + ".dlq." + kind + "." + of + "." + reason
}

// Letters calls yield for each dead letter of the query in stream order, without its body, as
// long as yield takes. It ends early with yield's error.
func (r *Reader) Letters(ctx context.Context, q LetterQuery, yield func(Letter) error) error {
	stream := deadStream(r.stream)
	if _, err := r.lookup(ctx, stream); err != nil {
		return err
	}
	letters, err := openCursor(ctx, r.js, stream, span{filters: []string{q.filter()}, since: q.Since, headersOnly: true, batch: letterBatch})
	if err != nil {
		return err
	}
	defer letters.close()
	for {
		msg, place, ok, err := letters.next(ctx)
		if err != nil || !ok || q.UpTo > 0 && place.Sequence > q.UpTo {
			return err
		}
		letter := letterOf(place, msg.Headers(), msg.Data())
		letter.Size, _ = strconv.Atoi(msg.Headers().Get(nats.MsgSize))
		if err := yield(letter); err != nil {
			return err
		}
	}
}

// letterBatch is how many letters, without their bodies, are held at one time.
const letterBatch = 200

func letterOf(p Place, h nats.Header, data []byte) Letter {
	letter := Letter{}
	if strings.HasPrefix(p.Subject, deadRoot+".dlq.team.") {
		letter, letter.Broken = decodeTeamLetter(h, data)
	} else {
		letter.DeadLetter, letter.Broken = decodeLetter(h, data)
	}
	letter.Place, letter.Size = p, len(data)
	return letter
}

// LastLetter is the number of the newest dead letter, or 0.
func (r *Reader) LastLetter(ctx context.Context) (uint64, error) {
	stream, err := r.lookup(ctx, deadStream(r.stream))
	if err != nil {
		return 0, err
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// ErrNoLetter says that there is no dead letter of that number.
var ErrNoLetter = errors.New("no such dead letter")

// Letter reads one dead letter.
func (r *Reader) Letter(ctx context.Context, seq uint64) (Letter, error) {
	stream, err := r.lookup(ctx, deadStream(r.stream))
	if err != nil {
		return Letter{}, err
	}
	raw, err := stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Letter{}, fmt.Errorf("dead letter %d: %w", seq, ErrNoLetter)
	}
	if err != nil {
		return Letter{}, fmt.Errorf("read dead letter %d: %w", seq, err)
	}
	return letterOf(Place{Subject: raw.Subject, Sequence: raw.Sequence, Stored: raw.Time}, raw.Header, raw.Data), nil
}

// Drop removes one dead letter for good.
func (r *Reader) Drop(ctx context.Context, seq uint64) error {
	stream, err := r.lookup(ctx, deadStream(r.stream))
	if err != nil {
		return err
	}
	err = stream.DeleteMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return fmt.Errorf("dead letter %d: %w", seq, ErrNoLetter)
	}
	if err != nil {
		return fmt.Errorf("drop dead letter %d: %w", seq, err)
	}
	return nil
}

// LetterCounts is how many dead letters are stored.
type LetterCounts struct {
	Deliveries uint64
	Teams      map[string]map[string]uint64 // by team and reason
	Waiting    uint64                       // advisories of which no letter was made yet
}

// LetterCounts says how many dead letters are stored.
func (r *Reader) LetterCounts(ctx context.Context) (LetterCounts, error) {
	return countLetters(ctx, r.js, r.stream)
}

// countLetters asks the server how many dead letters there are.
func countLetters(ctx context.Context, js jetstream.JetStream, events string) (LetterCounts, error) {
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	counts := LetterCounts{Teams: map[string]map[string]uint64{}}
	stream, err := js.Stream(ctx, deadStream(events))
	if err != nil {
		return counts, fmt.Errorf("look at stream %s: %w", deadStream(events), err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(deadRoot+".dlq.>"))
	if err != nil {
		return counts, fmt.Errorf("look at stream %s: %w", deadStream(events), err)
	}
	for subject, n := range info.State.Subjects {
		tokens := strings.Split(subject, ".")
		if len(tokens) != 5 || tokens[2] != "team" {
			counts.Deliveries += n
			continue
		}
		if counts.Teams[tokens[3]] == nil {
			counts.Teams[tokens[3]] = map[string]uint64{}
		}
		counts.Teams[tokens[3]][tokens[4]] += n
	}
	consumer, err := js.Consumer(ctx, advisoryStream(events), advisoryConsumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return counts, nil
	case err != nil:
		return counts, fmt.Errorf("look at consumer %s: %w", advisoryConsumer, err)
	}
	waiting := consumer.CachedInfo()
	counts.Waiting = waiting.NumPending + uint64(waiting.NumAckPending)
	return counts, nil
}
