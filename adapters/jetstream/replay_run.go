package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"together-relay/relay"
)

// Run copies the events of a replay that was begun, or goes on with one that was interrupted. It
// blocks until all are copied, and tells now and then how far it has got. What stands in its way
// for a while, such as a stream that is full or a server that is away, it tells too, and tries
// again. So it tells of each event that is passed over, when it has counted it. The error is that of ctx, or says why it cannot go on; either way, the replay can be run again, and the plan
// does not say any more that this process copies.
//
// Copies are stored first and marked then. Whoever goes on looks at which copies are there, so
// that none is made twice, also when the stream of the copies has forgotten their ids.
func (p *Replayer) Run(ctx context.Context, plan Replay, told func(Replay, error)) (Replay, error) {
	w := &replaying{Replayer: p, Replay: plan, told: told, limit: newLimit(plan.Rate)}
	w.Owner = newOwner()
	for {
		err := w.pass(ctx)
		switch {
		case err == nil:
			return w.Replay, nil
		case ctx.Err() != nil:
			w.leave(ctx)
			return w.Replay, ctx.Err()
		case errors.Is(err, ErrNoTeam):
			w.leave(ctx)
			return w.Replay, err
		case errors.Is(err, ErrReplayStopped), errors.Is(err, ErrReplayTaken), errors.Is(err, ErrReplayGone):
			return w.Replay, err
		case errors.Is(err, errLookAgain):
			continue
		}
		told(w.Replay, err)
		select {
		case <-ctx.Done():
		case <-time.After(shortWait):
		}
	}
}

func newLimit(perSecond float64) *rate.Limiter {
	if perSecond == 0 {
		return rate.NewLimiter(rate.Inf, 1)
	}
	return rate.NewLimiter(rate.Limit(perSecond), 1)
}

// replaying is a replay in the hands of one process.
type replaying struct {
	*Replayer
	Replay
	told    func(Replay, error)
	limit   *rate.Limiter
	claimed bool // the plan says that it is this process's
	leaving bool // the next mark says that nobody copies

	have   map[uint64]uint64 // copies that are stored and not marked, by their originals
	looked time.Time         // when they were looked for
	window time.Duration     // how long the stream of the copies remembers ids
}

// errLookAgain says that copies are gone that were marked.
var errLookAgain = errors.New("the stream of the copies was made anew")

// errBehind says that the server that was read from has not got all that is stored.
var errBehind = errors.New("not all that is stored could be read yet")

// markEvery is the time between two marks.
const markEvery = time.Second

// pass copies from the last event on, until all are copied or something stands in its way.
func (w *replaying) pass(ctx context.Context) error {
	if err := w.reader.Receives(ctx, w.Team); err != nil {
		return err
	}
	if !w.claimed || time.Since(w.Marked) >= markEvery { // also while something stands in its way
		if err := w.mark(context.WithoutCancel(ctx)); err != nil { // whether it is there has to be known
			return err
		}
		w.claimed = true
	}
	if w.State != ReplayOpen {
		return nil
	}
	if err := w.look(ctx); err != nil {
		return err
	}
	from := max(w.Last+1, w.From)
	events, err := openCursor(ctx, w.reader.js, w.reader.stream, span{filters: w.Filters, from: from, batch: w.batch()})
	if err != nil {
		return err
	}
	defer events.close()
	for {
		msg, at, ok, err := events.next(ctx)
		if err != nil {
			return err
		}
		if !ok && w.Last < w.To {
			if more, err := w.more(ctx); more || err != nil {
				return errors.Join(errBehind, err)
			}
		}
		if !ok || at.Sequence > w.To {
			w.State = ReplayDone
			if err := w.mark(ctx); err != nil {
				if w.State == ReplayDone {
					w.State = ReplayOpen
				}
				return err
			}
			return w.log.flush()
		}
		if err := w.copyOne(ctx, msg, at); err != nil {
			return err
		}
		if time.Since(w.Marked) >= markEvery {
			if err := w.mark(ctx); err != nil {
				return err
			}
			w.told(w.Replay, nil)
		}
	}
}

// batch is how many events are asked for at a time: those of a second, and few enough to hold.
func (w *replaying) batch() int {
	if w.Rate == 0 {
		return 64
	}
	return int(min(max(w.Rate, 1), 64))
}

// copyOne copies an event, unless its copy is there.
func (w *replaying) copyOne(ctx context.Context, msg jetstream.Msg, at Place) error {
	copied, there := w.have[at.Sequence]
	if !there {
		if err := w.wait(ctx); err != nil {
			return err
		}
		if time.Since(w.looked) > w.window/2 { // as after a long wait: another process may have copied meanwhile
			last := w.Last
			if err := w.look(ctx); err != nil {
				return err
			}
			if w.Last != last {
				return errLookAgain
			}
			copied, there = w.have[at.Sequence]
		}
	}
	if !there {
		got, err := w.log.copyTo(ctx, w.Team, Original{Subject: at.Subject, Sequence: at.Sequence, Header: msg.Headers(), Data: msg.Data()}, w.ID)
		if large, ok := errors.AsType[*relay.Unusable](err); ok {
			w.Skipped++
			w.Last = at.Sequence
			w.told(w.Replay, fmt.Errorf("event %d is passed over: %w", at.Sequence, large))
			return nil
		}
		if err != nil {
			return err
		}
		copied = got.sequence
	}
	w.Copied++
	w.Last, w.Copy = at.Sequence, copied
	return nil
}

// wait blocks until the rate allows one more copy. It goes on marking, so that a slow replay learns
// in time that it was stopped.
func (w *replaying) wait(ctx context.Context) error {
	turn := w.limit.Reserve()
	for left := turn.Delay(); left > 0; left = turn.Delay() {
		select {
		case <-ctx.Done():
		case <-time.After(min(left, markEvery)):
		}
		err := ctx.Err()
		if err == nil && left > markEvery {
			err = w.mark(ctx)
		}
		if err != nil {
			turn.Cancel()
			return err
		}
	}
	return ctx.Err()
}

// more asks the leader of the stream whether there is an event of the replay behind the last one.
// Whoever else is asked may not have it yet.
func (w *replaying) more(ctx context.Context) (bool, error) {
	for _, filter := range w.Filters {
		first, err := fromLeader(ctx, w.reader.nc, w.reader.stream, max(w.Last+1, w.From), filter)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return false, err
		case first.Sequence <= w.To:
			return true, nil
		}
	}
	return false, nil
}
