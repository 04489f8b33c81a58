package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"together-relay/relay"
)

// A lookup finds what there is to know of a message that died. It asks for a stream once, so it
// is good for a short while.
type lookup struct {
	log     *Log
	streams map[string]jetstream.Stream
}

// A teamConsumerSeen says whether a consumer is a team's, and when it was made.
type teamConsumerSeen struct {
	is        bool
	made      time.Time // zero if it is not there any more
	delivered uint64    // the last message of the stream that it got
	filters   []string
}

// knows says whether what is seen of the consumer tells anything of a message that died. NATS does
// not look whether a message that a team terminates was ever given to it, so the word of a
// team alone makes no letter: one would hold an event of others, which a retry would hand to the
// team, and there are as many numbers without an event as a team wants to name. That deliveries are
// used up is the server's own word.
func (c teamConsumerSeen) knows(about died) bool {
	return about.terminated && !c.made.IsZero() && !about.when.Before(c.made)
}

// madeFor is when the consumer was made that the word is about: zero if that is not there any more, as
// when another one has its name now.
func (c teamConsumerSeen) madeFor(about died) time.Time {
	if about.when.Before(c.made) {
		return time.Time{}
	}
	return c.made
}

// neverHad says that the team has terminated a message that it has not got to yet. If it was given
// one before its consumer was set back, it gets it again.
func (c teamConsumerSeen) neverHad(about died) bool {
	return c.knows(about) && about.sequence > c.delivered
}

// mayNotHave says that the team has terminated a message that its consumer leaves out.
func (c teamConsumerSeen) mayNotHave(about died, subject string) bool {
	return c.knows(about) && !holds(c.filters, subject)
}

// team says whether the consumer is a team's. One that is not there any more was one if its name
// could be a team's: a letter too many does less harm than an event that vanishes.
func (l lookup) team(ctx context.Context, about died) (teamConsumerSeen, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	consumer, err := l.log.js.Consumer(ctx, about.stream, about.consumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return teamConsumerSeen{is: relay.ValidTeamName(about.consumer)}, nil
	case err != nil:
		return teamConsumerSeen{}, fmt.Errorf("look at consumer %s of stream %s: %w", about.consumer, about.stream, err)
	}
	info := consumer.CachedInfo()
	return teamConsumerSeen{is: isTeam(info.Config), made: info.Created, delivered: info.Delivered.Stream, filters: filtersOf(info.Config)}, nil
}

// stream looks at a stream; nil says that there is none.
func (l lookup) stream(ctx context.Context, name string) (jetstream.Stream, error) {
	if stream, ok := l.streams[name]; ok {
		return stream, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	stream, err := l.log.js.Stream(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look at stream %s: %w", name, err)
	}
	l.streams[name] = stream
	return stream, nil
}

// original reads the message of that number, and when it was stored. It is nil if it is not stored any more.
func (l lookup) original(ctx context.Context, about died) (*Original, time.Time, error) {
	stream, err := l.stream(ctx, about.stream)
	if err != nil || stream == nil {
		return nil, time.Time{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	raw, err := stream.GetMsg(ctx, about.sequence)
	if err != nil && ctx.Err() == nil { // a replica may lag behind, or the client refuses its headers
		raw, err = fromLeader(ctx, l.log.nc, about.stream, about.sequence, "")
	}
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, time.Time{}, nil
	case err != nil:
		return nil, time.Time{}, fmt.Errorf("read message %d of stream %s: %w", about.sequence, about.stream, err)
	}
	return &Original{Subject: raw.Subject, Sequence: raw.Sequence, Header: raw.Header, Data: raw.Data}, raw.Time, nil
}

// letter says whether there is a letter of the id, stored since then. It reads letter by letter, so
// that a relay needs no right to make consumers on that stream.
func (l lookup) letter(ctx context.Context, team, id string, since time.Time) (bool, error) {
	stream, err := l.stream(ctx, deadStream(l.log.cfg.Stream))
	if err != nil || stream == nil {
		return false, err
	}
	asking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	info, err := stream.Info(asking)
	if err != nil {
		return false, fmt.Errorf("look at the dead letters: %w", err)
	}
	// Times go up with sequences: the search asks for a few letters only.
	var failed error
	first, behind := info.State.FirstSeq, info.State.LastSeq+1
	next := first + uint64(sort.Search(int(behind-first), func(i int) bool {
		raw, err := nextLetter(ctx, stream, first+uint64(i), ">")
		failed = errors.Join(failed, err)
		return raw == nil || !raw.Time.Before(since.Add(-clocks))
	}))
	for failed == nil && next < behind {
		raw, err := nextLetter(ctx, stream, next, LetterQuery{Team: team}.filter())
		switch {
		case err != nil || raw == nil:
			return false, err
		case raw.Header.Get(nats.MsgIdHdr) == id:
			return true, nil
		}
		next = raw.Sequence + 1
	}
	return false, failed
}

// nextLetter reads the first letter from a sequence on that lies on a subject, or nil.
func nextLetter(ctx context.Context, stream jetstream.Stream, seq uint64, filter string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	raw, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(filter))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the dead letters: %w", err)
	}
	return raw, nil
}
