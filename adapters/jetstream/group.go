package jetstream

import (
	"cmp"
	"errors"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// A group makes one atomic batch of messages that wait at the same moment, so that a server
// that flushes every message flushes a few times for all of them. There is no timer and no
// least number: either a few messages are on their way one by one, or one batch is, and what
// comes meanwhile is the next batch, or goes one by one if it is few. So a lone message waits
// for nobody. What a message costs either way is learnt, and where batches do not pay, as on
// a server that does not flush, all go one by one. Each sender's own goroutine waits for its
// own acknowledgement.
//
// A batch that the server refuses, for a duplicate in it or an oversized message, goes one
// by one after all, so that no message harms its neighbours.
type group struct {
	one func(*nats.Msg, time.Time) (ack, error)
	all func(now []*ticket, more func([]*ticket) []*ticket) ([]*ticket, error)

	mu      sync.Mutex
	waiting []*ticket
	out     int       // messages on their way one by one
	room    int       // how many may be: one at first and after a batch, and one more with each answer
	busy    bool      // a batch is on its way; the server would not do two at a time
	single  price     // of a message while others are on their way one by one
	shared  price     // of a message in a batch
	acked   time.Time // when something was acknowledged last
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
	maxGroup      = 512                   // messages; a server takes 1,000
	maxGroupBytes = 4 << 20               // of bodies
	few           = 8                     // messages cost no more one by one than a batch does, on any disk
	remembered    = 512                   // messages, for their price
	stall         = 20 * time.Millisecond // what takes longer, and far longer than usual, says little
)

// newGroup returns a group that sends a message by one and a batch by all. The latter calls
// more once, for those who came while the server opened the batch, and returns all that are in it.
func newGroup(one func(*nats.Msg, time.Time) (ack, error), all func(now []*ticket, more func([]*ticket) []*ticket) ([]*ticket, error)) *group {
	return &group{one: one, all: all, room: 1, single: guess(50 * time.Microsecond), shared: guess(100 * time.Microsecond)}
}

// publish sends the message. It blocks until the message's own acknowledgement, or the
// deadline.
func (g *group) publish(msg *nats.Msg, deadline time.Time) (ack, error) {
	g.mu.Lock()
	if !g.busy && len(g.waiting) == 0 && g.out < g.room {
		g.out++
		g.mu.Unlock()
		return g.sendAlone(msg, deadline)
	}
	t := &ticket{msg: msg, deadline: deadline, turn: make(chan turn, 1)}
	g.waiting = append(g.waiting, t)
	g.next()
	g.mu.Unlock()
	if <-t.turn == alone {
		return g.sendAlone(msg, deadline)
	}
	return t.ack, t.err
}

// most is how many messages may be on their way one by one, and may wait for that. The lock
// is held.
func (g *group) most() int {
	if g.shared.each() > g.single.each()*2/3 {
		return math.MaxInt
	}
	return few
}

// next lets those go who need not wait any longer. The lock is held.
func (g *group) next() {
	for most := g.most(); !g.busy && len(g.waiting) > most; {
		now := g.take(nil)
		if g.busy = len(now) > few; g.busy {
			go g.sendAll(now)
		} else { // large ones, or copies of one
			g.apart(now)
		}
	}
	if !g.busy {
		n := max(0, min(len(g.waiting), g.room-g.out))
		g.apart(g.waiting[:n])
		g.waiting = g.waiting[n:]
	}
}

// apart lets each of the messages go alone. The lock is held.
func (g *group) apart(now []*ticket) {
	g.out += len(now)
	for _, t := range now {
		t.turn <- alone
	}
}

// sendAlone sends a message that is counted in out.
func (g *group) sendAlone(msg *nats.Msg, deadline time.Time) (ack, error) {
	began := time.Now()
	got, err := g.one(msg, deadline)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.out--
	g.room = min(g.room+1, g.most())
	if took := g.since(began); err == nil && g.out >= few { // else most of it is the way there and back
		g.single.learn(took, 1, &g.shared)
	}
	g.next()
	return got, err
}

// sendAll sends a batch, and lets its messages go alone if the server refuses it.
func (g *group) sendAll(now []*ticket) {
	began := time.Now()
	now, err := g.all(now, func(now []*ticket) []*ticket {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.take(now)
	})

	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy, g.room = false, 1
	took := g.since(began)
	_, refused := errors.AsType[jetstream.JetStreamError](err)
	// The headers of a batch may be what makes a message too large; nothing was committed then.
	if refused || errors.Is(err, nats.ErrMaxPayload) {
		g.shared.learn(took, 0, &g.single) // for nothing
		g.apart(now)
	} else {
		if err == nil {
			g.shared.learn(took, len(now), &g.single)
		}
		for _, t := range now {
			t.err = err
			t.turn <- gone
		}
	}
	g.next()
}

// take adds those who wait to the group. Of messages with the same id only one is in it: the
// stream tells the other that it is a duplicate, and refuses both in one batch.
func (g *group) take(now []*ticket) []*ticket {
	var later []*ticket
	ids := make(map[string]bool, min(len(now)+len(g.waiting), maxGroup))
	bytes := 0
	for _, t := range now {
		ids[t.id()] = true
		bytes += len(t.msg.Data)
	}
	for i, t := range g.waiting {
		bytes += len(t.msg.Data)
		if len(now) == maxGroup || len(now) > 0 && bytes > maxGroupBytes {
			later = append(later, g.waiting[i:]...)
			break
		}
		if ids[t.id()] {
			later = append(later, t)
			continue
		}
		ids[t.id()] = true
		now = append(now, t)
	}
	g.waiting = later
	return now
}

func (t *ticket) id() string { return t.msg.Header[nats.MsgIdHdr][0] }

// since is the time that the server had for what was sent at began and is acknowledged now:
// until the acknowledgement before, it was busy with others. The lock is held.
func (g *group) since(began time.Time) time.Duration {
	if g.acked.After(began) {
		began = g.acked
	}
	g.acked = time.Now()
	return g.acked.Sub(began)
}

// A price is what a message costs: the mean of the last few hundred, since acknowledgements
// come in bursts.
type price struct {
	took  time.Duration
	count int
}

func guess(each time.Duration) price { return price{64 * each, 64} }

func (p *price) each() time.Duration { return p.took / time.Duration(p.count) }

// learn takes in that n messages took a time. What the other way costs is forgotten little by
// little, so that it is tried again some day.
func (p *price) learn(took time.Duration, n int, other *price) {
	p.took += min(took, max(stall, 4*time.Duration(n)*p.each()))
	if p.count += n; p.count >= remembered {
		p.took, p.count = p.took/2, p.count/2
		other.took -= other.took / 256
	}
}

// Headers of an atomic batch. They stay in the stored message.
const (
	batchID       = "Nats-Batch-Id"
	batchSequence = "Nats-Batch-Sequence"
	batchCommit   = "Nats-Batch-Commit"
)

// batch sends the messages as one atomic batch: the stream stores all of them, in order, or
// none. The first message opens the batch, which takes the server most of the time that a batch
// takes it; those who come meanwhile are in it too. The last message carries the commit, and
// its acknowledgement is that of all.
func (a *acks) batch(now []*ticket, more func([]*ticket) []*ticket) ([]*ticket, error) {
	id := nuid.Next()
	defer func() { // a message that goes alone after all must not look like part of a batch
		for _, t := range now {
			delete(t.msg.Header, batchID)
			delete(t.msg.Header, batchSequence)
			delete(t.msg.Header, batchCommit)
		}
	}()
	enter := func(i int) *nats.Msg {
		msg := now[i].msg
		msg.Reply = ""
		msg.Header[batchID] = []string{id}
		msg.Header[batchSequence] = []string{strconv.Itoa(i + 1)}
		return msg
	}
	answer, err := a.ask(enter(0), now[0].deadline)
	if err != nil {
		return now, err
	}
	if len(answer.Data) > 0 {
		_, err := parseAck(answer.Data)
		return now, cmp.Or(err, errNoAck)
	}
	now = more(now)
	last := len(now) - 1
	for i := 1; i < last; i++ {
		if err := a.nc.PublishMsg(enter(i)); err != nil {
			return now, err
		}
	}
	msg := enter(last)
	msg.Header[batchCommit] = []string{"1"}
	got, err := a.publish(msg, now[0].deadline)
	for i, t := range now {
		t.ack = ack{sequence: got.sequence - uint64(last-i)}
	}
	return now, err
}
