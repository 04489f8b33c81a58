package natsd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A stage is a server with streams and two teams, on which acts are tried: the relay's own, or
// one that reads the configuration which is printed for outside servers.
type stage struct {
	url              string // over TCP or WebSocket
	operator         user   // may do everything
	team, other      user   // two teams
	events, copies   string // the streams of which each has a consumer
	letters, reports string // those that no team may see
}

// A user is somebody who connects.
type user struct{ name, password string }

func (u user) options() []nats.Option {
	if u.name == "" {
		return nil
	}
	return []nats.Option{nats.UserInfo(u.name, u.password)}
}

const waitFor = 10 * time.Second // for what must happen

// A player does things as a user, and keeps all that it hears.
type player struct {
	*stage
	nc    *nats.Conn
	js    jetstream.JetStream // of the operator, who looks on
	inbox string              // a subject that it hears

	mu     sync.Mutex
	heard  []*nats.Msg
	denied int // errors that the server told beside the answers
	news   chan struct{}
}

// enter connects as the user.
func (s *stage) enter(t testing.TB, u user, js jetstream.JetStream) *player {
	t.Helper()
	p := &player{stage: s, js: js, news: make(chan struct{}, 1)}
	p.nc = connect(t, s.url, append(u.options(), nats.NoReconnect(), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, _ error) {
		p.mu.Lock()
		p.denied++
		p.mu.Unlock()
		p.wake()
	}))...)
	p.inbox = p.nc.NewInbox()
	p.hear(t, p.inbox)
	return p
}

func (p *player) wake() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// hear subscribes; what the server refuses is counted.
func (p *player) hear(t testing.TB, subject string) {
	t.Helper()
	sub, err := p.nc.Subscribe(subject, func(m *nats.Msg) {
		if m.Header.Get("Status") == "503" {
			return // nobody is there
		}
		p.mu.Lock()
		p.heard = append(p.heard, m)
		p.mu.Unlock()
		p.wake()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	p.settle(t)
}

// settle waits until the server has read all that was sent.
func (p *player) settle(t testing.TB) {
	t.Helper()
	if err := p.nc.FlushTimeout(waitFor); err != nil {
		t.Fatal(err)
	}
}

// send publishes with a reply subject, which may be anybody's.
func (p *player) send(t testing.TB, subject, reply, data string, header ...string) {
	t.Helper()
	m := &nats.Msg{Subject: subject, Reply: reply, Data: []byte(data)}
	if len(header) > 0 {
		m.Header = nats.Header{}
		for i := 0; i < len(header); i += 2 {
			m.Header.Set(header[i], header[i+1])
		}
	}
	if err := p.nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	p.settle(t)
}

// words is what was heard.
func (p *player) words() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, m := range p.heard {
		all = append(all, fmt.Sprintf("%s: %v %.200q", m.Subject, m.Header, m.Data))
	}
	return all
}

// waitNews blocks until something was heard or denied, or the time is over.
func (p *player) waitNews(d time.Duration) {
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		p.mu.Lock()
		n := len(p.heard) + p.denied
		p.mu.Unlock()
		if n > 0 {
			return
		}
		select {
		case <-p.news:
		case <-end.C:
			return
		}
	}
}

// js is JetStream as the operator sees it.
func (s *stage) js(t testing.TB) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(connect(t, s.url, s.operator.options()...))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func (s *stage) advisories() []string {
	return []string{"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES." + s.events + ".*", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED." + s.events + ".*"}
}

const bucket = "MARKS"

// build makes what is missing: the streams, a message of each kind, and the teams' consumers, each
// of which has delivered a message that is not acknowledged.
func (s *stage) build(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitFor)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	create := func(do func(context.Context) error) { // a cluster that elects may leave a request without an answer
		t.Helper()
		for {
			once, cancel := context.WithTimeout(ctx, waitFor/5)
			err := do(once)
			cancel()
			if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
				must(err)
				return
			}
		}
	}
	for name, subjects := range map[string][]string{
		s.events: {"together.>"}, s.copies: {"relay.replay.>"}, s.letters: {"relay.dlq.>"}, s.reports: s.advisories(),
	} {
		create(func(ctx context.Context) error {
			_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: subjects, AllowDirect: true, Storage: jetstream.MemoryStorage})
			return err
		})
	}
	create(func(ctx context.Context) error {
		_, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket, Storage: jetstream.MemoryStorage})
		return err
	})
	for _, team := range []user{s.team, s.other} {
		for stream, subject := range map[string]string{s.events: "together.batch.done.b1", s.copies: "relay.replay." + team.name + ".together.batch.done.b1"} {
			filter := ""
			if stream == s.copies {
				filter = "relay.replay." + team.name + ".>"
			}
			var c jetstream.Consumer
			create(func(ctx context.Context) (err error) {
				c, err = js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{
					Durable: team.name, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, MaxDeliver: 5,
				})
				return err
			})
			for range 2 {
				_, err := js.Publish(ctx, subject, []byte(`{"of":"`+team.name+`"}`))
				must(err)
			}
			if c.CachedInfo().NumAckPending == 0 {
				var err error
				for err = nats.ErrNoResponders; errors.Is(err, nats.ErrNoResponders); { // another node may have just made it
					_, err = c.Next(jetstream.FetchMaxWait(waitFor))
				}
				must(err)
			}
		}
	}
	_, err := js.Publish(ctx, "relay.dlq.ingest.together.json", []byte("a dead letter"))
	must(err)
}

// look is all there is to see of the streams and their consumers.
func (s *stage) look(t testing.TB, js jetstream.JetStream) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitFor)
	defer cancel()
	var all bytes.Buffer
	list := js.ListStreams(ctx)
	var lines []string
	for info := range list.Info() {
		text, err := json.Marshal(map[string]any{"config": info.Config, "state": info.State})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, info.Config.Name+" "+string(text))
		stream, err := js.Stream(ctx, info.Config.Name)
		if err != nil {
			t.Fatal(err)
		}
		consumers := stream.ListConsumers(ctx)
		for c := range consumers.Info() {
			c.Delivered.Last, c.AckFloor.Last, c.TimeStamp, c.Cluster = nil, nil, time.Time{}, nil
			c.NumWaiting, c.NumPending, c.PauseRemaining = 0, 0, 0 // the second one is counted when there is time
			text, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, info.Config.Name+"/"+c.Name+" "+string(text))
		}
		if err := consumers.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	for _, line := range lines {
		fmt.Fprintln(&all, line)
	}
	return all.String()
}

// difference are the lines of two looks that are not in both.
func difference(before, after string) string {
	var all []string
	for _, pair := range []struct{ sign, one, two string }{{"-", before, after}, {"+", after, before}} {
		lines := strings.Split(pair.two, "\n")
		for line := range strings.Lines(pair.one) {
			if line = strings.TrimSuffix(line, "\n"); !slices.Contains(lines, line) {
				all = append(all, pair.sign+" "+line)
			}
		}
	}
	return strings.Join(all, "\n")
}
