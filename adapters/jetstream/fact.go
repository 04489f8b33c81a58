package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"together-relay/relay"
)

// A fact may come by two ways, as a webhook and from the watched API, and each gives it an id
// of its own. The stream makes one event of both: whoever publishes says which message it
// knows as the last one of the subject, and the stream refuses if there is another one by then.

// factHeader tells the facts of one subject apart, where they are more than one.
const factHeader = "Relay-Fact"

// appendShared stores an event if the subject holds none of the same fact.
func (l *Log) appendShared(ctx context.Context, msg *nats.Msg, ev relay.Event) (relay.Stored, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Timeout)
	defer cancel()
	var last uint64 // of the subject, as far as it was read
	for {
		msg.Header[nats.ExpectedLastSubjSeqHdr] = []string{strconv.FormatUint(last, 10)}
		if last > 0 && ev.Fact == "" {
			// What happens once is brought from the API only while its subject is empty. It was not,
			// and its first message came as this one does: these are two events.
			delete(msg.Header, nats.ExpectedLastSubjSeqHdr)
		}
		got, err := l.publish(l.cfg.Stream, msg, l.grouped.Load())
		newer, refused := errors.AsType[*moved](err)
		if !refused {
			return relay.Stored{Subject: msg.Subject, Sequence: got.sequence, Duplicate: got.duplicate}, err
		}
		known := min(last, newer.last)
		found, read, err := l.find(ctx, ev, msg.Subject, known, newer.last)
		switch {
		case err != nil:
			return relay.Stored{}, notStored(err, shortWait)
		case found > 0: // it may have been stored just now
			return relay.Stored{Subject: msg.Subject, Sequence: found, Duplicate: true}, l.flush()
		case ctx.Err() != nil:
			return relay.Stored{}, notStored(fmt.Errorf("%s does not hold still: %w", msg.Subject, ctx.Err()), shortWait)
		case read == known:
			<-time.After(replicaPause)
		}
		last = read
	}
}

// find looks for the event's fact among the messages of the subject behind the sequence after, up
// to another one, and returns where it is, or 0, and how far it has read. That may be less
// far: replicas learn of a message one after the other. Of what happens once, the
// first message says enough.
func (l *Log) find(ctx context.Context, ev relay.Event, subject string, after, upTo uint64) (found, read uint64, err error) {
	stream, err := l.events(ctx)
	if err != nil {
		return 0, after, err
	}
	for read = after; read < upTo; {
		raw, err := stream.GetMsg(ctx, read+1, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return 0, read, nil
		}
		if err != nil && !l.nc.IsConnected() {
			return 0, read, fmt.Errorf("read what is stored on %s: the connection to NATS is lost; try again: %w", subject, err)
		}
		if err != nil {
			return 0, read, fmt.Errorf("read what is stored on %s: %w", subject, err)
		}
		if read = raw.Sequence; sameFact(raw.Header, ev) {
			return read, read, nil
		}
		if ev.Fact == "" {
			break
		}
	}
	return 0, read, nil
}

// replicaPause is how long a replica is left alone that does not know yet what is stored.
const replicaPause = 20 * time.Millisecond

// sameFact says whether a stored message tells the same as the event: it is that event, or it
// came by another ingress and speaks of the same fact.
func sameFact(h nats.Header, ev relay.Event) bool {
	if h.Get(nats.MsgIdHdr) == escapeValue(messageID(ev)) {
		return true
	}
	fact, err := unescapeValue(h.Get(factHeader))
	return err == nil && h.Get(attribute+"ingress") != ingress(ev) && relay.SameFact(fact, ev.Fact)
}

// ingress is the way that the event came.
func ingress(ev relay.Event) string {
	way, _ := ev.CloudEvent.Extensions()["ingress"].(string)
	return way
}

// Holds says where the stream holds the event, or the same fact from another ingress. The
// sequence is 0 if it does not. It blocks for the server's answers.
func (l *Log) Holds(ctx context.Context, ev relay.Event) (relay.Stored, error) {
	subject := Subject(l.cfg.Prefixes[ev.Source], ev.Type, ev.Resource)
	found, _, err := l.find(ctx, ev, subject, 0, math.MaxUint64)
	return relay.Stored{Subject: subject, Sequence: found, Duplicate: found > 0}, err
}

// events is the event stream. It asks the server only if that was never looked at.
func (l *Log) events(ctx context.Context) (jetstream.Stream, error) {
	if known := l.stream.Load(); known != nil {
		return *known, nil
	}
	stream, err := l.js.Stream(ctx, l.cfg.Stream)
	if err != nil {
		return nil, fmt.Errorf("look at stream %s: %w", l.cfg.Stream, err)
	}
	l.stream.Store(&stream)
	return stream, nil
}

// moved says that the subject holds another last message than was expected.
type moved struct{ last uint64 }

func (e *moved) Error() string {
	return fmt.Sprintf("the last message of the subject is %d", e.last)
}

// asMoved reads the stream's refusal, such as "wrong last sequence: 42".
func asMoved(api *jetstream.APIError) (*moved, bool) {
	if api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
		return nil, false
	}
	_, digits, ok := strings.Cut(api.Description, "wrong last sequence: ")
	if !ok {
		return nil, false
	}
	last, err := strconv.ParseUint(digits, 10, 64)
	return &moved{last}, err == nil
}
