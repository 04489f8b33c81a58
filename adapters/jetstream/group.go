package jetstream

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// A group sends what waits at the same moment as one atomic batch, so that a server that
// flushes every message flushes once for all of them. There is no timer and no least number:
// whoever comes while nothing is on its way goes at once, and those who come meanwhile
// are the next group. Each sender's own goroutine waits for its own acknowledgement.
//
// A batch has a price of its own. So a group goes message by message where that is
// cheaper: a small one, or on a server that does not flush. What is cheaper is learnt.
// A batch that the server refuses, for a duplicate in it or an oversized message, goes
// message by message too, so that no message harms its neighbours.
type group struct {
	one func(*nats.Msg, time.Time) (ack, error)
	all func([]*ticket) error

	mu      sync.Mutex
	waiting []*ticket
	busy    int           // groups on their way
	single  time.Duration // learnt: one message of a group that goes message by message
	whole   time.Duration // learnt: a batch
}

// A ticket is one message that waits to be sent.
type ticket struct {
	msg      *nats.Msg
	deadline time.Time
	turn     chan turn
	ack      ack
	err      error
}

// A turn says how a message goes: alone, by its sender's goroutine, which then reports;
// or, with alone nil, it has gone and the ticket holds what came of it.
type turn struct{ alone *sync.WaitGroup }

const (
	maxGroup      = 512     // messages; a server takes 1,000
	maxGroupBytes = 4 << 20 // of bodies
	manyWaiting   = 64      // so many do not wait for the group before them
	maxBusy       = 2
	firstGuess    = 2 * time.Millisecond // what a batch costs, until it is known
)

func newGroup(one func(*nats.Msg, time.Time) (ack, error), all func([]*ticket) error) *group {
	return &group{one: one, all: all, whole: firstGuess}
}

// publish sends the message with those that wait beside it. It blocks until the message's
// own acknowledgement, or the deadline.
func (g *group) publish(msg *nats.Msg, deadline time.Time) (ack, error) {
	t := &ticket{msg: msg, deadline: deadline, turn: make(chan turn, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, t)
	start := g.busy == 0 || g.busy < maxBusy && len(g.waiting) >= manyWaiting
	if start {
		g.busy++
	}
	g.mu.Unlock()
	if start {
		go g.run()
	}
	if now := <-t.turn; now.alone != nil {
		defer now.alone.Done()
		return g.one(msg, deadline)
	}
	return t.ack, t.err
}

// run sends groups until nobody waits.
func (g *group) run() {
	for {
		g.mu.Lock()
		now := g.take()
		if len(now) == 0 {
			g.busy--
			g.mu.Unlock()
			return
		}
		together := len(now) > 1 && time.Duration(len(now))*g.single > g.whole
		g.mu.Unlock()
		began := time.Now()
		if together && g.batch(now) {
			g.learn(&g.whole, time.Since(began))
			continue
		}
		var alone sync.WaitGroup
		alone.Add(len(now))
		for _, t := range now {
			t.turn <- turn{&alone}
		}
		alone.Wait()
		if together {
			g.learn(&g.whole, time.Since(began)) // refused: the price of the attempt counts
		} else {
			g.learn(&g.single, time.Since(began)/time.Duration(len(now)))
		}
	}
}

// take is the next group. Of messages with the same id only one is in it: the stream tells
// the other that it is a duplicate, and refuses both in one batch.
func (g *group) take() []*ticket {
	var now, later []*ticket
	ids := make(map[string]bool, min(len(g.waiting), maxGroup))
	bytes := 0
	for i, t := range g.waiting {
		id := t.msg.Header[nats.MsgIdHdr][0]
		bytes += len(t.msg.Data)
		if len(now) == maxGroup || len(now) > 0 && bytes > maxGroupBytes {
			later = append(later, g.waiting[i:]...)
			break
		}
		if ids[id] {
			later = append(later, t)
			continue
		}
		ids[id] = true
		now = append(now, t)
	}
	g.waiting = later
	return now
}

// batch sends the group as one and says whether it has gone, well or not. If it was refused,
// nothing of it is stored.
func (g *group) batch(now []*ticket) bool {
	err := g.all(now)
	if _, refused := errors.AsType[jetstream.JetStreamError](err); refused {
		return false
	}
	for _, t := range now {
		t.err = err
		t.turn <- turn{}
	}
	return true
}

// learn moves what is known of a price towards what was just paid. The price of a batch that
// is not paid sinks slowly, so that it is tried again some day.
func (g *group) learn(price *time.Duration, paid time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if *price == 0 {
		*price = paid
	}
	*price += (paid - *price) / 8
	if price != &g.whole {
		g.whole -= g.whole / 256
	}
}

// Headers of an atomic batch. They stay in the stored message.
const (
	batchID       = "Nats-Batch-Id"
	batchSequence = "Nats-Batch-Sequence"
	batchCommit   = "Nats-Batch-Commit"
)

// batch sends the messages as one atomic batch: the stream stores all of them, in order, or
// none. The last message carries the commit, and its acknowledgement is that of all.
func (a *acks) batch(now []*ticket) error {
	id := nuid.Next()
	last := len(now) - 1
	for i, t := range now {
		t.msg.Reply = ""
		t.msg.Header[batchID] = []string{id}
		t.msg.Header[batchSequence] = []string{strconv.Itoa(i + 1)}
	}
	now[last].msg.Header[batchCommit] = []string{"1"}
	defer func() { // a message that goes alone after all must not look like part of a batch
		for _, t := range now {
			delete(t.msg.Header, batchID)
			delete(t.msg.Header, batchSequence)
			delete(t.msg.Header, batchCommit)
		}
	}()
	for _, t := range now[:last] {
		if err := a.nc.PublishMsg(t.msg); err != nil {
			return err
		}
	}
	got, err := a.publish(now[last].msg, now[0].deadline)
	for i, t := range now {
		t.ack = ack{sequence: got.sequence - uint64(last-i)}
	}
	return err
}
