package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"together-relay/relay"
	"together-relay/relay/relaytest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	relaytest.Conform(t, func(t *testing.T) relaytest.Subject {
		ns := startServer(t, t.TempDir(), -1)
		cable := newCable(t, ns.Addr().String())
		l := openLog(t, cable.URL(), testConfig())
		ready(t, l)
		if _, err := l.Ledger().Load(t.Context(), "fine_tunes"); err != nil { // somebody watches
			t.Fatal(err)
		}
		r := openReader(t, ns.ClientURL())
		return relaytest.Subject{
			Log: l,
			Events: func() (events []relay.Event) {
				for _, m := range readEvents(t, r, Query{}) {
					events = append(events, m.Event)
				}
				return events
			},
			Letters: func() (letters []relay.DeadLetter) {
				for _, l := range readLetters(t, r) {
					letters = append(letters, l.DeadLetter)
				}
				return letters
			},
			Away: func() {
				cable.Cut()
				eventually(t, "the connection is lost", func() bool { return !l.Connected() })
			},
			Back: func() { cable.Mend(); ready(t, l) },
		}
	})
}

func TestTwoLogsStoreOnce(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	a, b := openLog(t, ns.ClientURL(), testConfig()), openLog(t, ns.ClientURL(), testConfig())
	ready(t, a)
	ready(t, b)
	var wg sync.WaitGroup
	var mu sync.Mutex
	fresh := map[string]int{}
	for i := range 50 {
		for _, l := range []*Log{a, b} {
			wg.Go(func() {
				id := fmt.Sprint("evt_", i)
				stored, err := l.Append(context.Background(), relaytest.NewEvent("together", id, `{}`))
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				} else if !stored.Duplicate {
					fresh[id]++
				}
			})
		}
	}
	wg.Wait()
	if n := len(readEvents(t, openReader(t, ns.ClientURL()), Query{})); n != 50 || len(fresh) != 50 {
		t.Errorf("%d events stored, %d first answers; want 50 of each", n, len(fresh))
	}
	for id, n := range fresh {
		if n != 1 {
			t.Errorf("%s was first %d times", id, n)
		}
	}
}

func TestWaitsForAServer(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cable := newCable(t, ns.Addr().String())
	cable.Cut()
	l := openLog(t, cable.URL(), testConfig())
	if err := l.Ready(context.Background()); err == nil || l.Connected() {
		t.Errorf("ready without a server: %v", err)
	}
	if _, err := l.Append(context.Background(), relaytest.NewEvent("together", "evt_1", `{}`)); !errors.As(err, new(*relay.NotStored)) {
		t.Errorf("Append = %v, want NotStored", err)
	}
	cable.Mend()
	ready(t, l)
	if stored := appendEvent(t, l, "evt_1"); stored.Duplicate || stored.Sequence != 1 {
		t.Errorf("stored = %+v, want the first", stored)
	}
}

// A publish whose acknowledgement got lost is stored, and its repeat is known. One that
// failed before it was sent is never sent later.
func TestNothingIsSentLater(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cable := newCable(t, ns.Addr().String())
	cfg := testConfig()
	cfg.Timeout = 300 * time.Millisecond
	l := openLog(t, cable.URL(), cfg)
	ready(t, l)

	cable.Mute()
	_, err := l.Append(context.Background(), relaytest.NewEvent("together", "evt_heard", `{}`))
	if !errors.As(err, new(*relay.NotStored)) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Append = %v, want NotStored after the deadline", err)
	}
	cable.Cut()
	cable.Listen()
	eventually(t, "the connection is lost", func() bool { return !l.Connected() })
	if _, err = l.Append(context.Background(), relaytest.NewEvent("together", "evt_unsent", `{}`)); !errors.As(err, new(*relay.NotStored)) {
		t.Errorf("Append = %v, want NotStored", err)
	}
	cable.Mend()
	ready(t, l)
	if stored := appendEvent(t, l, "evt_heard"); !stored.Duplicate {
		t.Errorf("the repeat = %+v, want a duplicate", stored)
	}
	if stored := appendEvent(t, l, "evt_last"); stored.Sequence != 2 {
		t.Errorf("evt_last has sequence %d, want 2: something was sent later", stored.Sequence)
	}
}

func TestFullStreamIsNotStored(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cfg := testConfig()
	cfg.MaxBytes = 10_000
	l := openLog(t, ns.ClientURL(), cfg)
	ready(t, l)
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, err = l.Append(context.Background(), relaytest.NewEvent("together", fmt.Sprint("evt_", n), `{"x":"`+strings.Repeat("x", 1000)+`"}`))
	}
	if !errors.As(err, new(*relay.NotStored)) {
		t.Fatalf("Append to a full stream = %v, want NotStored", err)
	}
	if got := len(readEvents(t, openReader(t, ns.ClientURL()), Query{})); got != n-1 {
		t.Errorf("%d events are there, %d were acknowledged", got, n-1)
	}
	if stored := appendEvent(t, l, "evt_0"); !stored.Duplicate {
		t.Errorf("a full stream knows evt_0: %+v", stored)
	}
	if err := l.Bury(context.Background(), relaytest.NewLetter([]byte("x"))); err != nil {
		t.Errorf("a dead letter found no room: %v", err)
	}
}

func TestServerWithoutRoomIsNotStored(t *testing.T) {
	t.Parallel()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 20_000, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { stopServer(ns) })
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	for n := 0; err == nil && n < 1000; n++ {
		_, err = l.Append(context.Background(), relaytest.NewEvent("together", fmt.Sprint("evt_", n), `{"x":"`+strings.Repeat("x", 1000)+`"}`))
	}
	if !errors.As(err, new(*relay.NotStored)) {
		t.Fatalf("Append = %v, want NotStored", err)
	}
	if err := l.Ready(context.Background()); err == nil {
		t.Error("ready, although the server has no room")
	}
}

// What needs more room than a message has is unusable, whichever part of it is too long.
func TestSizes(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	long := relaytest.NewEvent("together", "evt_1", `{}`)
	long.Members = []byte(`{"x":"` + strings.Repeat("x", 70_000) + `"}`)
	if _, err := l.Append(context.Background(), long); !errors.As(err, new(*relay.Unusable)) {
		t.Errorf("long headers: %v, want Unusable", err)
	}
	framed := relaytest.NewEvent("together", "evt_2", `{}`)
	framed.Head, framed.Tail = []byte(strings.Repeat(" ", 30_000)+`{`), []byte(`}`)
	if _, err := l.Append(context.Background(), framed); err != nil {
		t.Errorf("a frame that is too long is let go: %v", err)
	}
	// The largest body that is taken always fits, whatever the envelope says.
	id := strings.Repeat("\x01", 1024)
	most := relaytest.NewEvent("together", id, `{"x":"`+strings.Repeat("x", int(l.Room())-9)+`"}`)
	resource := strings.Repeat("é", 512)
	most.CloudEvent.Context.AsV1().Subject = &resource
	most.Type, most.CloudEvent.Context.AsV1().Type = strings.Repeat("é", 100), "ai.together."+strings.Repeat("é", 100)
	if _, err := l.Append(context.Background(), most); err != nil {
		t.Errorf("the largest body: %v", err)
	}
	letter := relaytest.NewLetter([]byte(strings.Repeat("x", int(l.Room()))))
	letter.Detail = strings.Repeat("é", 10_000)
	for i := range 4 {
		letter.Header[fmt.Sprint("X-", i)] = strings.Repeat("\x01", 1024)
	}
	if err := l.Bury(context.Background(), letter); err != nil {
		t.Errorf("the largest dead letter: %v", err)
	}
}

func TestSenderThatHangsUpDoesNotEndAPublish(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Append(ctx, relaytest.NewEvent("together", "evt_1", `{}`)); err != nil {
		t.Error(err)
	}
}

func TestStreamGoneIsMadeAnew(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	js := admin(t, ns.ClientURL())
	if err := js.DeleteStream(context.Background(), "TOGETHER"); err != nil {
		t.Fatal(err)
	}
	if err := l.Ready(context.Background()); err == nil {
		t.Error("ready without a stream")
	}
	ready(t, l)
	appendEvent(t, l, "evt_1")
}

func TestProvisionCheckMakesNothing(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cfg := testConfig()
	cfg.Provision = ProvisionCheck
	l := openLog(t, ns.ClientURL(), cfg)
	eventually(t, "the log has looked", func() bool { return !errors.Is(l.Look(context.Background()), errNotChecked) })
	js := admin(t, ns.ClientURL())
	if _, err := js.Stream(context.Background(), "TOGETHER"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("stream: %v, want none", err)
	}
}

func TestStreamsAreAsPromised(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cfg := testConfig()
	cfg.Prefixes = map[string]string{"a": "together", "b": "together.sub", "c": "other"}
	ready(t, openLog(t, ns.ClientURL(), cfg))
	js := admin(t, ns.ClientURL())
	for name, subjects := range map[string]string{"TOGETHER": "other.> together.>", "TOGETHER_DLQ": "relay.dlq.>"} {
		s, err := js.Stream(context.Background(), name)
		if err != nil {
			t.Fatal(err)
		}
		got := s.CachedInfo().Config
		if sorted(got.Subjects) != subjects || got.Storage != jetstream.FileStorage || got.Retention != jetstream.LimitsPolicy ||
			got.Discard != jetstream.DiscardNew || !got.AllowDirect || got.MaxAge != time.Hour || got.Duplicates != time.Minute {
			t.Errorf("%s is %+v", name, got)
		}
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	api := func(code int, errorCode jetstream.ErrorCode) error {
		return fmt.Errorf("nats: %w", &jetstream.APIError{Code: code, ErrorCode: errorCode, Description: "x"})
	}
	for _, c := range []struct {
		name  string
		err   error
		large bool
		again bool
		wait  time.Duration
	}{
		{"too large for the client", nats.ErrMaxPayload, true, false, 0},
		{"too large for the stream", api(400, 10054), true, false, 0},
		{"headers too large", api(400, 10097), true, false, 0},
		{"id in process", api(409, 10158), false, true, time.Second},
		{"sequence in process", api(400, 10164), false, true, time.Second},
		{"too many requests", api(429, 10167), false, false, time.Second},
		{"stream full", api(503, 10077), false, false, 5 * time.Second},
		{"no resources", api(503, 10023), false, false, 5 * time.Second},
		{"wrong stream", api(400, 10060), false, false, 5 * time.Second},
		{"deadline", context.DeadlineExceeded, false, false, 5 * time.Second},
		{"disconnected", nats.ErrReconnectBufExceeded, false, false, 5 * time.Second},
	} {
		f := classify(c.err)
		_, large := errors.AsType[*relay.Unusable](f.err)
		away, _ := errors.AsType[*relay.NotStored](f.err)
		if large != c.large || f.again != c.again || !large && (away == nil || away.RetryAfter != c.wait || !errors.Is(away, c.err)) {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}
