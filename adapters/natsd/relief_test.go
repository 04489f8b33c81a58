package natsd

import (
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
