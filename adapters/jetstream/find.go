package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Search says where events are looked for.
type Search struct {
	Since    time.Time // stored since then; zero is from the beginning
	Prefixes []string  // subject prefixes that lie below one another, beside those of the stream
	// Read is told now and then how many messages were read, and how many there are; may be nil.
	Read func(read, all uint64)
}

// ByResource calls yield for each event about the resource, in stream order, without its data. The
// subjects say what an event is about, so nothing else is read.
func (r *Reader) ByResource(ctx context.Context, resource string, s Search, yield func(Message) error) error {
	stream, err := r.lookup(ctx, r.stream)
	if err != nil {
		return err
	}
	filters, err := apart(eventFilters(stream.CachedInfo().Config.Subjects, s.Prefixes, "", resource))
	if err != nil {
		return err
	}
	return r.search(ctx, r.stream, s, filters, true, func(msg jetstream.Msg, at Place) error {
		ev, err := decode(msg.Headers(), nil)
		return yield(Message{Event: ev, Place: at, Broken: err})
	})
}

// ByID calls yield for each event of that id, in stream order, without its data. No subject says
// an id: it reads the headers of all that is stored.
func (r *Reader) ByID(ctx context.Context, id string, s Search, yield func(Message) error) error {
	stream, err := r.lookup(ctx, r.stream)
	if err != nil {
		return err
	}
	return r.search(ctx, r.stream, s, nil, true, func(msg jetstream.Msg, at Place) error {
		h := msg.Headers()
		var data []byte
		if structured(h) { // its attributes are in the data
			raw, err := stream.GetMsg(ctx, at.Sequence)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("read event %d: %w", at.Sequence, err)
			}
			data = raw.Data
		} else if have, err := unescapeValue(h.Get(attribute + "id")); err != nil || have != id {
			return nil
		}
		ev, err := decode(h, data)
		if err == nil && ev.CloudEvent.ID() != id {
			return nil
		}
		return yield(Message{Event: ev, Place: at, Broken: err})
	})
}

func structured(h nats.Header) bool {
	return strings.HasPrefix(strings.ToLower(h.Get("Content-Type")), "application/cloudevents")
}

// BySequence reads the event of a sequence; ok is false if there is none.
func (r *Reader) BySequence(ctx context.Context, seq uint64) (m Message, ok bool, err error) {
	stream, err := r.lookup(ctx, r.stream)
	if err != nil {
		return m, false, err
	}
	raw, err := stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("read event %d: %w", seq, err)
	}
	m.Place = Place{Subject: raw.Subject, Sequence: raw.Sequence, Stored: raw.Time}
	m.Event, m.Broken = decode(raw.Header, raw.Data)
	return m, true, nil
}

// DeadDeliveries calls yield for each dead letter of a delivery, with its body, in stream order.
func (r *Reader) DeadDeliveries(ctx context.Context, s Search, yield func(Letter) error) error {
	return r.search(ctx, deadStream(r.stream), s, []string{deadRoot + ".dlq.ingest.>"}, false, func(msg jetstream.Msg, at Place) error {
		letter, err := decodeLetter(msg.Headers(), msg.Data())
		return yield(Letter{DeadLetter: letter, Place: at, Broken: err})
	})
}

// search reads what the filters hold, and calls yield for each message.
func (r *Reader) search(ctx context.Context, stream string, s Search, filters []string, headersOnly bool, yield func(jetstream.Msg, Place) error) error {
	batch := 500
	if !headersOnly {
		batch = 64
	}
	c, err := openCursor(ctx, r.js, stream, span{filters: filters, since: s.Since, headersOnly: headersOnly, batch: batch})
	if err != nil {
		return err
	}
	defer c.close()
	all := c.pending
	for read := uint64(0); ; read++ {
		msg, at, ok, err := c.next(ctx)
		if err != nil || !ok {
			return err
		}
		if s.Read != nil && read%uint64(batch) == 0 {
			s.Read(read, all)
		}
		if err := yield(msg, at); err != nil {
			return err
		}
	}
}

// Held says what the event stream holds: how many events, and the first and last sequence.
func (r *Reader) Held(ctx context.Context) (events, first, last uint64, err error) {
	stream, err := r.lookup(ctx, r.stream)
	if err != nil {
		return 0, 0, 0, err
	}
	state := stream.CachedInfo().State
	return state.Msgs, state.FirstSeq, state.LastSeq, nil
}
