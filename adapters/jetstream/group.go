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

// A group makes one atomic batch of messages that wait at the same moment, so that a server
// that flushes every message flushes once for all of them. There is no timer and no least
// number. Messages go one by one, at once, as long as all that are on their way cost less
// than a batch does; those beyond them wait for a batch, and a batch goes whenever none is
// on its way, unless what is in it costs less one by one. So a lone message waits for nobody, and a server that does not flush sees no
// batch. What a message and a batch cost is learnt. Each sender's own goroutine waits for
// its own acknowledgement.
//
// A batch that the server refuses, for a duplicate in it or an oversized message, goes one
// by one after all, so that no message harms its neighbours.
type group struct {
	one func(*nats.Msg, time.Time) (ack, error)
	all func([]*ticket) error

	mu      sync.Mutex
	waiting []*ticket
	out     int           // messages on their way one by one
	busy    int           // batches on their way
	single  time.Duration // learnt: what one message adds while others are on their way
	whole   time.Duration // learnt: what a batch adds
	acked   time.Time     // when something was acknowledged last

	// What the messages of the last while took, of which single is learnt. Acknowledgements come
	// in bursts, so that one says nothing.
	took  time.Duration
	count int
}

// A ticket is one message that waits to be sent.
type ticket struct {
	msg      *nats.Msg
	deadline time.Time
	turn     chan turn
	ack      ack
	err      error
}

// A turn says how a message goes.
type turn int

const (
	gone  turn = iota // it has gone in a batch; the ticket holds what came of it
	alone             // by its sender's goroutine
)

const (
	maxGroup      = 512     // messages; a server takes 1,000
	maxGroupBytes = 4 << 20 // of bodies
	manyWaiting   = 64      // so many do not wait for the batch before them
	maxBusy       = 2
	firstGuess    = 2 * time.Millisecond // what a batch costs, until it is known
	enough        = 64                   // messages to learn from at once
)

func newGroup(one func(*nats.Msg, time.Time) (ack, error), all func([]*ticket) error) *group {
	return &group{one: one, all: all, whole: firstGuess}
}

// publish sends the message. It blocks until the message's own acknowledgement, or the
// deadline.
func (g *group) publish(msg *nats.Msg, deadline time.Time) (ack, error) {
	g.mu.Lock()
	if len(g.waiting) == 0 && time.Duration(g.out+1)*g.single <= g.whole {
		g.out++
		g.mu.Unlock()
		return g.sendAlone(msg, deadline)
	}
	t := &ticket{msg: msg, deadline: deadline, turn: make(chan turn, 1)}
	g.waiting = append(g.waiting, t)
	start := g.busy == 0 || g.busy < maxBusy && len(g.waiting) >= manyWaiting
	if start {
		g.busy++
	}
	g.mu.Unlock()
	if start {
		go g.run()
	}
	if <-t.turn == alone {
		return g.sendAlone(msg, deadline)
	}
	return t.ack, t.err
}

// sendAlone sends a message that is counted in out.
func (g *group) sendAlone(msg *nats.Msg, deadline time.Time) (ack, error) {
	began := time.Now()
	got, err := g.one(msg, deadline)
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.out--
	if g.acked.After(began) {
		began = g.acked // until then the server was busy with others
	}
	g.acked = now
	g.took += now.Sub(began)
	if g.count++; g.count == enough {
		learn(&g.single, g.took/enough)
		g.took, g.count = 0, 0
		g.whole -= g.whole / 128 // what was dear once is tried again some day
	}
	return got, err
}

// run sends batches until nobody waits.
func (g *group) run() {
	for {
		g.mu.Lock()
		now := g.take()
		if len(now) == 0 {
			g.busy--
			g.mu.Unlock()
			return
		}
		ahead := time.Duration(g.out) * g.single
		worth := len(now) > 1 && time.Duration(len(now))*g.single > g.whole
		g.mu.Unlock()
		if worth {
			began := time.Now()
			err := g.all(now)
			g.mu.Lock()
			g.acked = time.Now()
			learn(&g.whole, max(g.acked.Sub(began)-ahead, 0))
			g.mu.Unlock()
			_, refused := errors.AsType[jetstream.JetStreamError](err)
			// The headers of a batch may be what makes a message too large; nothing was committed then.
			if !refused && !errors.Is(err, nats.ErrMaxPayload) {
				for _, t := range now {
					t.err = err
					t.turn <- gone
				}
				continue
			}
		}
		g.mu.Lock()
		g.out += len(now)
		g.mu.Unlock()
		for _, t := range now {
			t.turn <- alone
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

// learn moves what is known of a price towards what was just paid.
func learn(price *time.Duration, paid time.Duration) {
	if *price == 0 {
		*price = paid
	}
	*price += (paid - *price) / 8
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
