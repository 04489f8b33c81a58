package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
// It does what a request of nats.go does, with less to allocate for each.
type acks struct {
	nc    *nats.Conn
	inbox string // replies come to <inbox>.<number>

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]*waiter
}

// A waiter is one sender that waits. It is used again and again.
type waiter struct {
	reply chan reply
	timer *time.Timer
}

type reply struct {
	msg *nats.Msg
	err error
}

var waiters = sync.Pool{New: func() any {
	w := &waiter{reply: make(chan reply, 1), timer: time.NewTimer(time.Hour)}
	w.timer.Stop()
	return w
}}

func newAcks(nc *nats.Conn) (*acks, error) {
	a := &acks{nc: nc, inbox: nc.NewRespInbox(), waiting: map[uint64]*waiter{}}
	_, err := nc.Subscribe(a.inbox+".*", a.take)
	return a, err
}

// take hands a reply to whoever waits for it. One that nobody waits for came too late.
func (a *acks) take(msg *nats.Msg) {
	number, err := strconv.ParseUint(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:], 10, 64)
	if err != nil {
		return
	}
	a.mu.Lock()
	w := a.waiting[number]
	delete(a.waiting, number)
	a.mu.Unlock()
	if w != nil {
		w.reply <- reply{msg: msg}
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

// request sends the message and blocks until its reply, until the deadline, or until the
// connection is lost.
func (a *acks) request(msg *nats.Msg, deadline time.Time) (*nats.Msg, error) {
	w := waiters.Get().(*waiter)
	defer waiters.Put(w)
	w.timer.Reset(time.Until(deadline))
	defer w.timer.Stop()

	a.mu.Lock()
	a.last++
	number := a.last
	a.waiting[number] = w
	a.mu.Unlock()

	msg.Reply = a.inbox + "." + strconv.FormatUint(number, 10)
	err := a.nc.PublishMsg(msg)
	if err == nil {
		select {
		case r := <-w.reply:
			return r.msg, r.err
		case <-w.timer.C:
			err = context.DeadlineExceeded
		}
	}
	a.mu.Lock()
	_, still := a.waiting[number]
	delete(a.waiting, number)
	a.mu.Unlock()
	if !still { // the reply came at the same moment
		r := <-w.reply
		return r.msg, r.err
	}
	return nil, err
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
