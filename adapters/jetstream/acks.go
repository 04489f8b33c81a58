package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// An ack is the stream's word on a message.
type ack struct {
	sequence  uint64
	duplicate bool
}

// acks sends messages and brings each sender its acknowledgement, all by one subscription.
// It does what a request of nats.go does, with less to allocate for each. Messages that are sent at
// the same moment share a write to the server.
type acks struct {
	nc    *nats.Conn
	inbox string // replies come to this and a number

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]*waiter
	ready   []*waiter // whose messages the first one of them sends
	sweeper *time.Timer
	sweeps  bool // the sweeper is set

	sending sync.RWMutex // held for reading while messages are being sent
}

// A waiter is one sender that waits. It is used again and again.
type waiter struct {
	reply    chan reply
	deadline time.Time
	msg      *nats.Msg
	number   uint64
}

type reply struct {
	msg *nats.Msg
	err error
}

var waiters = sync.Pool{New: func() any { return &waiter{reply: make(chan reply, 1)} }}

func newAcks(nc *nats.Conn) (*acks, error) {
	a := &acks{nc: nc, inbox: nc.NewRespInbox() + ".", waiting: map[uint64]*waiter{}}
	a.sweeper = time.AfterFunc(time.Hour, a.sweep)
	a.sweeper.Stop()
	_, err := nc.Subscribe(a.inbox+"*", a.take)
	return a, err
}

// take hands a reply to whoever waits for it.
func (a *acks) take(msg *nats.Msg) {
	number, err := strconv.ParseUint(strings.TrimPrefix(msg.Subject, a.inbox), 10, 64)
	if err == nil {
		a.answer(number, reply{msg: msg})
	}
}

// answer ends a wait, unless it has ended.
func (a *acks) answer(number uint64, r reply) {
	a.mu.Lock()
	w := a.waiting[number]
	delete(a.waiting, number)
	a.mu.Unlock()
	if w != nil {
		w.reply <- r
	}
}

var errConnectionLost = errors.New("the connection was lost before the stream acknowledged; it may be stored all the same")

// drop tells all who wait that no reply will come. The connection is gone.
func (a *acks) drop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.waiting {
		w.reply <- reply{err: errConnectionLost}
	}
	clear(a.waiting)
}

// sweepEach is how often deadlines are looked at, so that a wait needs no timer of its own.
const sweepEach = 50 * time.Millisecond

// sweep ends the waits whose deadlines are over.
func (a *acks) sweep() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for number, w := range a.waiting {
		if now.After(w.deadline) {
			delete(a.waiting, number)
			w.reply <- reply{err: context.DeadlineExceeded}
		}
	}
	if a.sweeps = len(a.waiting) > 0; a.sweeps {
		a.sweeper.Reset(sweepEach)
	}
}

// request sends the message and blocks until its reply, until the deadline or a moment after it, or
// until the connection is lost. Nobody else uses the message afterwards.
func (a *acks) request(msg *nats.Msg, deadline time.Time) (*nats.Msg, error) {
	w := waiters.Get().(*waiter)
	defer waiters.Put(w)
	w.msg, w.deadline = msg, deadline
	a.send(w)
	r := <-w.reply
	if r.err != nil { // what has an answer was sent; this may be ready or on its way
		a.sending.Lock()
		defer a.sending.Unlock()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.ready = slices.DeleteFunc(a.ready, func(other *waiter) bool { return other == w })
	}
	return r.msg, r.err
}

// send sends the waiter's message, or leaves that to another one. Of those who come at the same
// moment the first one sends all.
func (a *acks) send(w *waiter) {
	a.mu.Lock()
	a.last++
	w.number = a.last
	w.msg.Reply = string(strconv.AppendUint(append(make([]byte, 0, 64), a.inbox...), w.number, 10))
	a.waiting[w.number] = w
	a.ready = append(a.ready, w)
	if !a.sweeps {
		a.sweeps = true
		a.sweeper.Reset(sweepEach)
	}
	first := len(a.ready) == 1
	a.mu.Unlock()
	if !first {
		return
	}
	runtime.Gosched() // whoever can run now comes, too
	a.sending.RLock()
	defer a.sending.RUnlock()
	a.mu.Lock()
	now := a.ready
	a.ready = make([]*waiter, 0, 8)
	a.mu.Unlock()
	for _, w := range now {
		number := w.number // once it is sent, the waiter may be another one's
		if err := a.nc.PublishMsg(w.msg); err != nil {
			a.answer(number, reply{err: err})
		}
	}
}

// publish sends the message until the stream acknowledges or refuses it, or until the
// deadline.
func (a *acks) publish(msg *nats.Msg, deadline time.Time) (ack, error) {
	answer, err := a.ask(msg, deadline)
	if err != nil {
		return ack{}, err
	}
	return parseAck(answer.Data)
}

// ask sends the message until the stream answers, or until the deadline. While the stream
// has no leader, nobody answers, and it asks again.
func (a *acks) ask(msg *nats.Msg, deadline time.Time) (*nats.Msg, error) {
	for {
		answer, err := a.request(msg, deadline)
		if err != nil {
			return nil, err
		}
		if len(answer.Data) > 0 || answer.Header.Get("Status") != "503" {
			return answer, nil
		}
		if wait := time.Until(deadline); wait < noLeaderPause {
			return nil, jetstream.ErrNoStreamResponse
		}
		<-time.After(noLeaderPause)
	}
}

// noLeaderPause is how long a stream without a leader is left alone.
const noLeaderPause = 250 * time.Millisecond

var errNoAck = errors.New("the answer is no acknowledgement by a stream")

// parseAck reads {"stream":"TOGETHER","seq":42} by hand and any other answer with the
// library.
func parseAck(data []byte) (ack, error) {
	if a, ok := quickAck(data); ok {
		return a, nil
	}
	var answer struct {
		*jetstream.PubAck
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return ack{}, errNoAck
	}
	if answer.Error != nil {
		return ack{}, fmt.Errorf("nats: %w", answer.Error)
	}
	if answer.PubAck == nil || answer.Stream == "" || answer.Sequence == 0 {
		return ack{}, errNoAck
	}
	return ack{answer.Sequence, answer.Duplicate}, nil
}

func quickAck(data []byte) (a ack, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok {
		return a, false
	}
	name, rest, ok := bytes.Cut(rest, []byte(`","seq":`))
	if !ok || len(name) == 0 || bytes.IndexByte(name, '"') >= 0 {
		return a, false
	}
	digits := 0
	for digits < len(rest) && digits < 19 && '0' <= rest[digits] && rest[digits] <= '9' {
		a.sequence = a.sequence*10 + uint64(rest[digits]-'0')
		digits++
	}
	a.duplicate = string(rest[digits:]) == `,"duplicate":true}`
	return a, a.sequence > 0 && (a.duplicate || string(rest[digits:]) == "}")
}
