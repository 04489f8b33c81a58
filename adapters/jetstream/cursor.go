package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A cursor reads what a stream holds, in order and without a gap, by a consumer that leaves no
// trace. It asks for a few messages at a time, so whoever uses it may be as slow as it likes.
type cursor struct {
	consumer jetstream.Consumer
	drop     func()
	batch    int

	ready   []jetstream.Msg
	last    uint64 // consumer sequence of the last message
	pending uint64 // how many are not read yet, as of the last message
}

// A span chooses messages of a stream.
type span struct {
	filters     []string
	from        uint64    // the first sequence; 0 is the beginning, or since
	since       time.Time // stored since then, if from is 0
	headersOnly bool
	batch       int // how many are asked for at a time
}

// cursorIdle is how long the server keeps the consumer of a cursor that nobody uses.
const cursorIdle = 5 * time.Minute

// openCursor blocks for the server's answer.
func openCursor(ctx context.Context, js jetstream.JetStream, stream string, s span) (*cursor, error) {
	cfg := jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: cursorIdle, MemoryStorage: true, HeadersOnly: s.headersOnly, FilterSubjects: s.filters,
	}
	switch {
	case s.from > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.from
	case !s.since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &s.since
	}
	asking, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	consumer, err := js.CreateConsumer(asking, stream, cfg)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", stream, err)
	}
	info := consumer.CachedInfo()
	c := &cursor{consumer: consumer, batch: s.batch, pending: info.NumPending}
	c.drop = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = js.DeleteConsumer(ctx, stream, info.Name) // else the server does
	}
	return c, nil
}

// atLeader is openCursor on the server that leads the stream, for what has to be known for certain:
// any other may not have all that is stored. NATS chooses the server, so it takes some tries, and one
// that stands still is not waited for.
func (r *Reader) atLeader(ctx context.Context, stream string, s span) (*cursor, error) {
	before, err := r.leader(ctx, stream)
	if err != nil {
		return nil, err
	}
	if before == "" {
		return openCursor(ctx, r.js, stream, s)
	}
	for end := time.Now().Add(makeTimeout); ; rest(ctx, replicaPause) {
		trying, cancel := context.WithTimeout(ctx, lookTimeout)
		c, err := openCursor(trying, r.js, stream, s)
		cancel()
		if err != nil {
			if !passes(err) || ctx.Err() != nil || time.Now().After(end) {
				return nil, err
			}
			continue
		}
		after, err := r.leader(ctx, stream)
		at := c.consumer.CachedInfo().Cluster
		if err == nil && before == after && at != nil && at.Leader == after {
			return c, nil
		}
		c.close()
		switch {
		case err != nil:
			return nil, err
		case time.Now().After(end):
			return nil, fmt.Errorf("read stream %s: %w", stream, errBehind)
		}
		before = after
	}
}

// leader names the server that leads a stream; empty if no other one holds it.
func (r *Reader) leader(ctx context.Context, stream string) (string, error) {
	seen, err := r.certain(ctx, stream)
	if err != nil {
		return "", err
	}
	cluster := seen.CachedInfo().Cluster
	if cluster == nil || len(cluster.Replicas) == 0 {
		return "", nil
	}
	return cluster.Leader, nil
}

// close lets go of the consumer.
func (c *cursor) close() { c.drop() }

var errGap = errors.New("a message was lost on the way")

// next reads the next message; ok is false at the end of what is stored.
func (c *cursor) next(ctx context.Context) (msg jetstream.Msg, at Place, ok bool, err error) {
	if len(c.ready) == 0 {
		if c.pending == 0 {
			return nil, Place{}, false, nil
		}
		if err := c.fetch(ctx); err != nil {
			return nil, Place{}, false, fmt.Errorf("read stream %s: %w", c.consumer.CachedInfo().Stream, err)
		}
		if len(c.ready) == 0 {
			return nil, Place{}, false, nil
		}
	}
	msg, c.ready = c.ready[0], c.ready[1:]
	meta, err := msg.Metadata()
	if err == nil && meta.Sequence.Consumer != c.last+1 {
		err = errGap
	}
	if err != nil {
		return nil, Place{}, false, fmt.Errorf("read stream %s: %w", c.consumer.CachedInfo().Stream, err)
	}
	c.last, c.pending = meta.Sequence.Consumer, meta.NumPending
	return msg, Place{Subject: msg.Subject(), Sequence: meta.Sequence.Stream, Stored: meta.Timestamp}, true, nil
}

// fetchTimeout is the wait for messages that are there.
const fetchTimeout = 5 * time.Second

func (c *cursor) fetch(ctx context.Context) error {
	n := min(uint64(c.batch), c.pending)
	batch, err := c.consumer.Fetch(int(n), jetstream.FetchMaxWait(fetchTimeout))
	if err != nil {
		return err
	}
	for {
		select {
		case msg, more := <-batch.Messages():
			if more {
				c.ready = append(c.ready, msg)
				continue
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		break
	}
	switch {
	case len(c.ready) > 0:
		return nil
	case batch.Error() != nil:
		return batch.Error()
	}
	// What was left may have been deleted meanwhile.
	if info, err := c.consumer.Info(ctx); err == nil && info.NumPending == 0 {
		c.pending = 0
		return nil
	}
	return nats.ErrTimeout
}

// count is how many messages of the filters have a sequence from one to another, as the leader of
// the stream knows it. Those that are stored while it counts can be counted too.
func (r *Reader) count(ctx context.Context, stream string, filters []string, from, to uint64) (uint64, error) {
	if from > to {
		return 0, nil
	}
	waiting := func(from uint64) (uint64, error) {
		c, err := r.atLeader(ctx, stream, span{filters: filters, from: from})
		if err != nil {
			return 0, err
		}
		defer c.close()
		return c.pending, nil
	}
	for range 3 {
		before, err := waiting(to + 1)
		if err != nil {
			return 0, err
		}
		all, err := waiting(from)
		if err != nil {
			return 0, err
		}
		after, err := waiting(to + 1)
		if err != nil {
			return 0, err
		}
		if before == after {
			return all - min(before, all), nil
		}
	}
	// They come in too fast to ask, and are counted one by one.
	c, err := r.atLeader(ctx, stream, span{filters: filters, from: from, headersOnly: true, batch: 500})
	if err != nil {
		return 0, err
	}
	defer c.close()
	for n := uint64(0); ; n++ {
		_, at, ok, err := c.next(ctx)
		if err != nil || !ok || at.Sequence > to {
			return n, err
		}
	}
}
