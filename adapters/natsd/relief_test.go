package natsd

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// A team that asks without end is put out, and what it took is free again. Another one is not.
func TestFlood(t *testing.T) {
	t.Parallel()
	s, st := newStage(t)
	js := st.js(t)
	st.build(t, js)
	s.gate.waysBack = 1000
	look := func() {
		t.Helper()
		if err := s.Look(); err != nil {
			t.Fatal(err)
		}
	}
	other, listener := connect(t, st.url, st.other.options()...), connect(t, st.url, append(st.team.options(), nats.NoReconnect())...)
	flooder := connect(t, st.url, append(st.team.options(), nats.NoReconnect())...)
	for _, nc := range []*nats.Conn{listener, flooder} { // the answers stay of interest
		if _, err := nc.Subscribe("_INBOX.>", func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
		works(t, "a connection of the team", nc)
	}
	ask := func(n int) {
		t.Helper()
		for range n {
			if err := flooder.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+st.copies+"."+st.team.name, "_INBOX.flood", []byte(`{"batch":1,"no_wait":true}`)); err != nil {
				t.Fatal(err)
			}
		}
		works(t, "the flooder", flooder)
	}
	ask(900)
	look()
	look()
	ask(1000)
	look()
	works(t, "the flooder", flooder) // nothing is known yet of who it is
	ask(1000)
	if _, err := other.Request("$JS.API.CONSUMER.INFO."+st.events+"."+st.other.name, nil, waitFor); err != nil {
		t.Fatal(err)
	}
	look()
	waitClosed(t, flooder)
	waitClosed(t, listener)
	works(t, "another team", other)
	for end := time.Now().Add(waitFor); s.ns.GlobalAccount().NumPendingAllResponses() > 100; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d ways back are open still", s.ns.GlobalAccount().NumPendingAllResponses())
		}
	}
	look()
	works(t, "another team", other)
}

// Each message goes to all that hear it, so a team has not more of those than others can bear.
func TestManySubscriptions(t *testing.T) {
	t.Parallel()
	s, st := newStage(t)
	other := connect(t, st.url, st.other.options()...)
	quiet := func(*nats.Conn, *nats.Subscription, error) {}
	subscribe := func(nc *nats.Conn, n int) {
		t.Helper()
		for range n {
			_, _ = nc.SubscribeSync("_INBOX.>") // the connection may be closed by then
		}
		_ = nc.FlushTimeout(waitFor)
	}
	options := append(st.team.options(), nats.NoReconnect(), nats.ErrorHandler(quiet))
	one := connect(t, st.url, options...)
	subscribe(one, maxSubscriptions+500)
	account, _ := s.ns.LookupAccount(accountOf + st.team.name)
	if n := account.TotalSubs(); n < maxSubscriptions || n > maxSubscriptions+100 {
		t.Fatalf("%d subscriptions of a connection, want %d and some of the account itself", n, maxSubscriptions)
	}
	works(t, "a connection that may have no more", one)
	for range mostSubscriptions / maxSubscriptions {
		nc, err := nats.Connect(st.url, options...)
		if err != nil {
			break // it is out already
		}
		t.Cleanup(nc.Close)
		subscribe(nc, maxSubscriptions)
	}
	waitClosed(t, one)
	if nc, err := nats.Connect(st.url, options...); err == nil {
		nc.Close()
		t.Error("the team comes in again at once")
	}
	works(t, "another team", other)
	connect(t, st.url, st.other.options()...)
}

// What a team does not read lies in memory, for each of its connections.
func TestUnread(t *testing.T) {
	t.Parallel()
	s, st := newStage(t)
	st.build(t, st.js(t))
	other := connect(t, st.url, st.other.options()...)
	flooder := connect(t, st.url, append(st.team.options(), nats.NoReconnect())...)
	works(t, "the team", flooder)
	s.gate.unread.Store(1 << 20)
	for range 3 {
		deaf, err := net.Dial("tcp", s.ns.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = deaf.Close() })
		line := fmt.Sprintf("CONNECT {\"user\":%q,\"pass\":%q}\r\n%s", st.team.name, st.team.password, "SUB _INBOX.> 1\r\n")
		if _, err := deaf.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(waitFor); !flooder.IsClosed(); { // more than the system keeps for each of them
		if time.Now().After(end) {
			t.Fatal("the team is not put out")
		}
		for range 100 {
			_ = flooder.PublishRequest("$JS.API.CONSUMER.INFO."+st.events+"."+st.team.name, "_INBOX.flood", nil) // it may be closed by then
		}
		<-time.After(time.Millisecond)
	}
	works(t, "another team", other)
}

// What a team sends is small.
func TestLargeRequest(t *testing.T) {
	t.Parallel()
	_, st := newStage(t)
	nc := connect(t, st.url, append(st.team.options(), nats.NoReconnect(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	ack := "$JS.ACK." + st.events + "." + st.team.name + ".1.1.1.1.0"
	if err := nc.Publish(ack, make([]byte, maxPayload)); err != nil {
		t.Fatal(err)
	}
	works(t, "a request that may be", nc)
	if err := nc.Publish(ack, make([]byte, maxPayload+1)); err == nil { // the client may know by itself
		waitClosed(t, nc)
	}
}
