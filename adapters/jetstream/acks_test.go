package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"together-relay/relay"
	"together-relay/relay/relaytest"
)

func TestParseAck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want ack
		ok   bool
	}{
		{`{"stream":"TOGETHER","seq":1}`, ack{1, false}, true},
		{`{"stream":"TOGETHER","seq":18446744073709551615}`, ack{1<<64 - 1, false}, true},
		{`{"stream":"TOGETHER","seq":42,"duplicate":true}`, ack{42, true}, true},
		{`{"stream":"TOGETHER","domain":"hub","seq":7,"duplicate":true}`, ack{7, true}, true},
		{` { "seq" : 7, "stream" : "X" } `, ack{7, false}, true},
		{`{"stream":"TOGETHER","seq":0}`, ack{}, false},
		{`{"seq":1}`, ack{}, false},
		{`{"stream":"","seq":1}`, ack{}, false},
		{``, ack{}, false},
		{`hello`, ack{}, false},
		{`null`, ack{}, false},
		{`{"type":"x","error":{"code":503,"err_code":10077,"description":"full"},"stream":"TOGETHER","seq":0}`, ack{}, false},
	} {
		got, err := parseAck([]byte(c.text))
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("parseAck(%s) = %+v, %v; want %+v, ok %v", c.text, got, err, c.want, c.ok)
		}
	}
	_, err := parseAck([]byte(`{"error":{"code":503,"err_code":10077,"description":"full"},"stream":"TOGETHER","seq":0}`))
	if api, ok := errors.AsType[jetstream.JetStreamError](err); !ok || api.APIError().ErrorCode != 10077 {
		t.Errorf("the error of the API got lost: %v", err)
	}
}

func FuzzParseAck(f *testing.F) {
	f.Add([]byte(`{"stream":"TOGETHER","seq":42,"duplicate":true}`))
	f.Add([]byte(`{"stream":"a\"b","seq":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		quick, ok := quickAck(text)
		if !ok {
			return
		}
		var slow jetstream.PubAck
		if err := json.Unmarshal(text, &slow); err != nil {
			return // a stream's name holds no control character, and the quick look does not ask
		}
		if slow.Sequence != quick.sequence || slow.Duplicate != quick.duplicate {
			t.Fatalf("%s: quick %+v, slow %+v", text, quick, slow)
		}
	})
}

// Each of many senders gets the acknowledgement of its own message.
func TestAcksFindTheirSenders(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	var wg sync.WaitGroup
	var mu sync.Mutex
	at := map[uint64]string{}
	for i := range 200 {
		wg.Go(func() {
			id := fmt.Sprint("evt_", i)
			stored, err := l.Append(context.Background(), relaytest.NewEvent("together", id, `{}`))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			at[stored.Sequence] = id
		})
	}
	wg.Wait()
	for _, m := range readEvents(t, openReader(t, ns.ClientURL()), Query{}) {
		if at[m.Sequence] != m.CloudEvent.ID() {
			t.Errorf("sequence %d holds %s, its acknowledgement went to %s", m.Sequence, m.CloudEvent.ID(), at[m.Sequence])
		}
	}
	l.acks.mu.Lock()
	defer l.acks.mu.Unlock()
	if n := len(l.acks.waiting); n != 0 {
		t.Errorf("%d are still waiting", n)
	}
}

// A lost connection ends the wait at once: the sender can try again sooner.
func TestLostConnectionEndsTheWait(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cable := newCable(t, ns.Addr().String())
	cfg := testConfig()
	cfg.Timeout = time.Hour
	l := openLog(t, cable.URL(), cfg)
	ready(t, l)
	cable.Mute()
	done := make(chan error, 1)
	go func() {
		_, err := l.Append(context.Background(), relaytest.NewEvent("together", "evt_1", `{}`))
		done <- err
	}()
	eventually(t, "the event is in the stream", func() bool { return len(readEvents(t, openReader(t, ns.ClientURL()), Query{})) == 1 })
	cable.Cut()
	cable.Listen()
	if err := <-done; !errors.Is(err, errConnectionLost) || !errors.As(err, new(*relay.NotStored)) {
		t.Errorf("Append = %v, want NotStored for the lost connection", err)
	}
	cable.Mend()
	ready(t, l)
	if stored := appendEvent(t, l, "evt_1"); !stored.Duplicate {
		t.Errorf("the repeat = %+v, want a duplicate", stored)
	}
}

// While the stream has no leader nobody answers; within its time a publish asks again.
func TestNoLeaderIsWaitedOut(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	js := admin(t, ns.ClientURL())
	nc := client(t, ns.ClientURL())
	a, err := newAcks(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.publish(nats.NewMsg("late.x"), time.Now().Add(noLeaderPause)); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("publish without a stream = %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := a.publish(nats.NewMsg("late.x"), time.Now().Add(20*time.Second))
		done <- err
	}()
	if _, err := js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "LATE", Subjects: []string{"late.>"}}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A sender writes over its message as soon as the request has ended, whatever the end was.
func TestRequestLeavesItsMessageAlone(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	nc := client(t, ns.ClientURL())
	sub, err := nc.SubscribeSync("own.*")
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe("own.*", func(msg *nats.Msg) { _ = msg.Respond([]byte("ok")) }); err != nil {
		t.Fatal(err)
	}
	a, err := newAcks(nc)
	if err != nil {
		t.Fatal(err)
	}
	var senders sync.WaitGroup
	var answered, late, dropped atomic.Int64
	for i := range 32 {
		senders.Go(func() {
			msg := nats.NewMsg("own." + strconv.Itoa(i))
			for n := range 400 {
				text := fmt.Sprintf("<%d-%d>", i, n)
				msg.Header["N"] = []string{text}
				msg.Data = append(msg.Data[:0], strings.Repeat(text, 200)...)
				_, err := a.request(msg, time.Now())
				switch {
				case err == nil:
					answered.Add(1)
				case errors.Is(err, context.DeadlineExceeded):
					late.Add(1)
				case errors.Is(err, errConnectionLost):
					dropped.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { senders.Wait(); close(done) }()
	for over := false; !over; {
		select {
		case <-done:
			over = true
		case <-time.After(time.Millisecond):
			a.sweep()
			a.drop()
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for {
		msg, err := sub.NextMsg(time.Second / 10)
		if errors.Is(err, nats.ErrTimeout) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if text := msg.Header.Get("N"); string(msg.Data) != strings.Repeat(text, 200) {
			t.Fatalf("message %s holds %.40s", text, msg.Data)
		}
	}
	if answered.Load() == 0 || late.Load()+dropped.Load() == 0 {
		t.Errorf("%d answered, %d late, %d dropped: it proves nothing", answered.Load(), late.Load(), dropped.Load())
	}
}

// What cannot be sent is told at once, and says why.
func TestMessageThatCannotBeSent(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	nc := client(t, ns.ClientURL())
	a, err := newAcks(nc)
	if err != nil {
		t.Fatal(err)
	}
	msg := nats.NewMsg("own.x")
	msg.Data = make([]byte, nc.MaxPayload()+1)
	if _, err := a.request(msg, time.Now().Add(5*time.Second)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("request = %v, want that it is too large", err)
	}
}
