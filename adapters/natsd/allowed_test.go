package natsd

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestAllowed(t *testing.T) {
	t.Parallel()
	for _, over := range []string{"TCP", "WebSocket"} {
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			s, st := newStage(t)
			if over == "WebSocket" {
				st.url = s.ns.WebsocketURL()
			}
			st.tryAllowed(t)
		})
	}
}

// tryAllowed does all that a team may do, as any client does it: nothing has to be set up.
func (s *stage) tryAllowed(t *testing.T) {
	js := s.js(t)
	s.build(t, js)
	for _, stream := range []string{s.events, s.copies} {
		for _, inbox := range []string{"_INBOX", "_INBOX_" + s.team.name} {
			nc := connect(t, s.url, append(s.team.options(), nats.CustomInboxPrefix(inbox), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
				t.Errorf("%s: %v", inbox, err)
			}))...)
			t.Run(stream+" "+inbox, func(t *testing.T) { s.takeEvents(t, js, nc, stream) })
		}
	}
}

func (s *stage) takeEvents(t *testing.T, operator jetstream.JetStream, nc *nats.Conn, stream string) {
	prefix := ""
	if stream == s.copies {
		prefix = "relay.replay." + s.team.name + "."
	}
	subject := prefix + "together.batch.done.b9"
	n := 0
	more := func() string {
		t.Helper()
		n++
		if _, err := operator.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: nats.Header{"ce-id": {fmt.Sprint(n)}}, Data: []byte("data")}); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(n)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(nc)
	must(err)
	c, err := js.Consumer(t.Context(), stream, s.team.name)
	must(err)
	if all := c.CachedInfo().NumPending; all > 0 { // what is there from before
		batch, err := c.Fetch(int(all), jetstream.FetchMaxWait(waitFor))
		must(err)
		for msg := range batch.Messages() {
			must(msg.DoubleAck(t.Context()))
		}
	}
	floor := func() uint64 {
		t.Helper()
		info, err := c.Info(t.Context())
		must(err)
		return info.Delivered.Consumer
	}
	before := floor()

	one := func(msg jetstream.Msg, err error, id string) jetstream.Msg {
		t.Helper()
		must(err)
		meta, err := msg.Metadata()
		must(err)
		if msg.Subject() != subject || msg.Headers().Get("ce-id") != id || string(msg.Data()) != "data" || meta.Stream != stream || meta.Consumer != s.team.name {
			t.Fatalf("the event is %s %v %q, %+v, want %s %s", msg.Subject(), msg.Headers(), msg.Data(), meta, subject, id)
		}
		return msg
	}
	next := func(id string) jetstream.Msg {
		t.Helper()
		msg, err := c.Next(jetstream.FetchMaxWait(waitFor))
		return one(msg, err, id)
	}
	must(next(more()).DoubleAck(t.Context()))

	id := more()
	must(next(id).NakWithDelay(10 * time.Millisecond))
	msg := next(id)
	must(msg.InProgress())
	must(msg.Nak())
	must(next(id).TermWithReason("unusable"))

	// One that waits before there is an event, by Consume and by Messages.
	got := make(chan jetstream.Msg, 1)
	consuming, err := c.Consume(func(msg jetstream.Msg) { got <- msg })
	must(err)
	id = more()
	select {
	case msg := <-got:
		must(one(msg, nil, id).DoubleAck(t.Context()))
	case <-time.After(waitFor):
		t.Fatalf("%s is not consumed", id)
	}
	consuming.Stop()
	<-consuming.Closed()
	must(nc.FlushTimeout(waitFor)) // or the next event may go to the request that waits there
	messages, err := c.Messages()
	must(err)
	id = more()
	msg, err = messages.Next(jetstream.NextMaxWait(waitFor))
	must(one(msg, err, id).Ack())
	subscribed := nc.NumSubscriptions()
	messages.Stop() // which does not wait for its subscription to end
	for until := time.Now().Add(waitFor); nc.NumSubscriptions() == subscribed && time.Now().Before(until); {
		<-time.After(time.Millisecond)
	}
	must(nc.FlushTimeout(waitFor))

	// The next one by the acknowledgement of the last.
	msg = next(more())
	id = more()
	answer, err := nc.Request(msg.Reply(), []byte("+NXT"), waitFor)
	must(err)
	if answer.Header.Get("ce-id") != id {
		t.Errorf("+NXT has the answer %v, want %s", answer.Header, id)
	}
	must(answer.Ack())
	if done := floor() - before; done != 8 {
		t.Errorf("%d deliveries, want 8", done)
	}

	// More than there is, and nothing at all.
	batch, err := c.FetchNoWait(1000)
	must(err)
	for msg := range batch.Messages() {
		t.Errorf("there is still %s", msg.Subject())
	}
}

// The way back to a team's account is open longer than NATS keeps it by itself.
func TestWayBackIsOpenForLong(t *testing.T) {
	t.Parallel()
	s, st := newStage(t)
	for _, subject := range []string{"$JS.API.CONSUMER.MSG.NEXT.", "$JS.API.CONSUMER.INFO."} {
		for _, stream := range []string{st.events, st.copies} {
			if d, err := s.ns.GlobalAccount().ServiceExportResponseThreshold(subject + stream + ".ml"); err != nil || d != longestPull {
				t.Errorf("it is open for %s, %v", d, err)
			}
		}
	}
}
