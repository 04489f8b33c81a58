package jetstream

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"together-relay/relay/relaytest"
)

func TestEventsAreChosen(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	r := openReader(t, ns.ClientURL())
	if got := readEvents(t, r, Query{}); len(got) != 0 {
		t.Fatalf("an empty stream lists %d events", len(got))
	}
	for i, typ := range []string{"fine_tune.completed", "fine_tune.failed", "batch.done", "fine_tune.a.b"} {
		for _, source := range []string{"together", "other"} {
			ev := relaytest.NewEvent(source, fmt.Sprint(typ, i), `{}`)
			ev.Type, ev.Resource = typ, fmt.Sprintf("r.%d", i)
			if _, err := l.Append(context.Background(), ev); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := readEvents(t, r, Query{})
	for _, c := range []struct {
		q    Query
		want int
	}{
		{Query{}, 8}, {Query{Type: "fine_tune.*"}, 4}, {Query{Type: "fine_tune.>"}, 6}, {Query{Type: "batch.done"}, 2}, {Query{Type: "nothing"}, 0},
		{Query{Resource: "r.1"}, 2}, {Query{Resource: "r"}, 0}, {Query{Type: "batch.*", Resource: "r.2"}, 2},
		{Query{Since: all[3].Stored}, 5}, {Query{Since: time.Now().Add(time.Hour)}, 0}, {Query{Since: time.Now().Add(-time.Hour)}, 8},
	} {
		if got := len(readEvents(t, r, c.q)); got != c.want {
			t.Errorf("%+v lists %d events, want %d", c.q, got, c.want)
		}
	}
}

func TestEventsAreFollowed(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	r := openReader(t, ns.ClientURL())
	ctx, cancel := context.WithCancel(context.Background())
	appendEvent(t, l, "evt_0")
	n := 0
	err := r.Events(ctx, Query{Follow: true}, func(m Message) error {
		if want := fmt.Sprint("evt_", n); m.CloudEvent.ID() != want {
			t.Errorf("got %s, want %s", m.CloudEvent.ID(), want)
		}
		if n++; n == 5 {
			cancel()
		} else {
			appendEvent(t, l, fmt.Sprint("evt_", n))
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n != 5 {
		t.Errorf("followed %d events, %v", n, err)
	}
}

func TestForeignMessagesAreMarked(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	if _, err := l.js.PublishMsg(context.Background(), &nats.Msg{Subject: "together.x.y", Data: []byte("hello")}); err != nil {
		t.Fatal(err)
	}
	appendEvent(t, l, "evt_1")
	var broken, whole int
	err := openReader(t, ns.ClientURL()).Events(context.Background(), Query{}, func(m Message) error {
		if m.Broken != nil {
			broken++
		} else {
			whole++
		}
		return nil
	})
	if err != nil || broken != 1 || whole != 1 {
		t.Errorf("%d broken, %d whole, %v; want one of each", broken, whole, err)
	}
}

func TestLetters(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	r := openReader(t, ns.ClientURL())
	if got := readLetters(t, r); len(got) != 0 {
		t.Fatalf("%d dead letters, want none", len(got))
	}
	for i := range 3 {
		if err := l.Bury(context.Background(), relaytest.NewLetter([]byte{byte(i)})); err != nil {
			t.Fatal(err)
		}
	}
	if got := readLetters(t, r); len(got) != 3 || got[1].Sequence != 2 || got[1].Subject != "relay.dlq.ingest.together.json" {
		t.Errorf("letters = %+v", got)
	}
	if err := r.Drop(context.Background(), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Letter(context.Background(), 2); !errors.Is(err, ErrNoLetter) {
		t.Errorf("a dropped letter: %v", err)
	}
	if err := r.Drop(context.Background(), 2); !errors.Is(err, ErrNoLetter) {
		t.Errorf("dropped twice: %v", err)
	}
	if got := readLetters(t, r); len(got) != 2 {
		t.Errorf("%d dead letters, want 2", len(got))
	}
}

func TestReaderSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	if _, err := OpenReader("nats://127.0.0.1:1", Auth{}, "TOGETHER"); err == nil {
		t.Error("connected to nothing")
	}
	ns := startServer(t, t.TempDir(), -1)
	r := openReader(t, ns.ClientURL())
	if err := r.Events(context.Background(), Query{}, nil); err == nil {
		t.Error("read a stream that is not there")
	}
}

// A prefix below another one has no subject of its own in the stream, and is found all the same.
func TestEventsBelowAnotherPrefix(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cfg := testConfig()
	cfg.Prefixes = map[string]string{"together": "acme", "other": "acme.ci"}
	l := openLog(t, ns.ClientURL(), cfg)
	ready(t, l)
	for _, source := range []string{"together", "other"} {
		if _, err := l.Append(context.Background(), relaytest.NewEvent(source, "evt_1", `{}`)); err != nil {
			t.Fatal(err)
		}
	}
	q := Query{Type: "fine_tune.completed", Prefixes: []string{"acme", "acme.ci"}}
	if n := len(readEvents(t, openReader(t, ns.ClientURL()), q)); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
}
