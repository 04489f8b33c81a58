package jetstream

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"together-relay/relay"
	"together-relay/relay/relaytest"
)

// copyConsumer is the team's consumer of copies.
func (h *teamHouse) copyConsumer(t *testing.T, team string) jetstream.Consumer {
	t.Helper()
	c, err := h.js.Consumer(t.Context(), "TOGETHER_REPLAY", team)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// state is that of a stream.
func (h *teamHouse) state(t *testing.T, name string) jetstream.StreamState {
	t.Helper()
	s, err := h.js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State
}

// original reads a stored event.
func (h *teamHouse) original(t *testing.T, seq uint64) Original {
	t.Helper()
	s, err := h.js.Stream(t.Context(), "TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.GetMsg(t.Context(), seq)
	if err != nil {
		t.Fatal(err)
	}
	return Original{Subject: raw.Subject, Sequence: raw.Sequence, Header: raw.Header, Data: raw.Data}
}

func TestTeamsHaveAConsumerOfCopies(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	ml, billing := newTeam("ml", "batch.done"), newTeam("billing", "batch.done")
	keeper := h.relay(t, ProvisionCreate, ml, billing)
	cfg := h.copyConsumer(t, "ml").CachedInfo().Config
	if cfg.FilterSubject+strings.Join(cfg.FilterSubjects, " ") != "relay.replay.ml.>" || cfg.MaxDeliver != 3 || len(cfg.BackOff) != 2 || cfg.MaxAckPending != 5 ||
		cfg.AckPolicy != jetstream.AckExplicitPolicy || cfg.DeliverPolicy != jetstream.DeliverAllPolicy || cfg.Metadata[teamKey] != "ml" || cfg.Description == "" {
		t.Errorf("the consumer is %+v", cfg)
	}

	// It is changed, paused and resumed with the other one.
	ml.MaxDeliver = 9
	keeper.set(t, ml)
	if cfg := h.copyConsumer(t, "ml").CachedInfo().Config; cfg.MaxDeliver != 9 {
		t.Errorf("after a change of the file the consumer is %+v", cfg)
	}
	if !isRemoved(h.copyConsumer(t, "billing").CachedInfo().Config) {
		t.Error("a team was taken out of the file, and gets copies all the same")
	}
	keeper.set(t, ml, billing)
	if h.copyConsumer(t, "billing").CachedInfo().Paused {
		t.Error("a team is back in the file, and gets no copies")
	}

	// What another hand has changed is seen, and changed back with apply.
	cfg = h.copyConsumer(t, "ml").CachedInfo().Config
	cfg.MaxAckPending = 99
	if _, err := h.js.UpdateConsumer(t.Context(), "TOGETHER_REPLAY", cfg); err != nil {
		t.Fatal(err)
	}
	seen, err := openReader(t, h.url).Teams(t.Context(), nil)
	if err != nil || len(seen) != 2 || !cmp.Equal(seen[1].Drifts, []TeamDrift{{"replay max_ack_pending", "5", "99"}}) {
		t.Errorf("seen %+v, %v", seen, err)
	}
	h.relay(t, ProvisionApply, ml, billing)
	if cfg := h.copyConsumer(t, "ml").CachedInfo().Config; cfg.MaxAckPending != 5 || cfg.MaxDeliver != 9 {
		t.Errorf("after apply the consumer is %+v", cfg)
	}

	// One of another hand is left as it is.
	if err := h.js.DeleteConsumer(t.Context(), "TOGETHER_REPLAY", "ml"); err != nil {
		t.Fatal(err)
	}
	foreign := jetstream.ConsumerConfig{Durable: "ml", AckPolicy: jetstream.AckNonePolicy}
	if _, err := h.js.CreateConsumer(t.Context(), "TOGETHER_REPLAY", foreign); err != nil {
		t.Fatal(err)
	}
	h.relay(t, ProvisionApply, ml, billing)
	if h.lines.count("not the relay's") != 1 || h.copyConsumer(t, "ml").CachedInfo().Config.AckPolicy != jetstream.AckNonePolicy {
		t.Errorf("log %v", h.lines.lines)
	}
	if err := openReader(t, h.url).Receives(t.Context(), "ml"); !errors.Is(err, ErrNoTeam) {
		t.Errorf("Receives = %v", err)
	}
}

// A relay whose streams are of an older one stores as before, and makes what is missing.
func TestStreamOfCopiesIsMissing(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	if err := h.js.DeleteStream(t.Context(), "TOGETHER_REPLAY"); err != nil {
		t.Fatal(err)
	}
	// Without the right to make it, all else goes on.
	cfg := testConfig()
	cfg.Provision = ProvisionCheck
	other := openLog(t, h.url, cfg)
	ready(t, other)
	keeper := other.Teams(zerolog.Nop())
	keeper.Set([]relay.Team{newTeam("ml", ">")})
	eventually(t, "it says so", func() bool {
		if err := keeper.look(t.Context()); err != nil {
			return errors.Is(err, jetstream.ErrStreamNotFound)
		}
		_ = h.js.DeleteStream(t.Context(), "TOGETHER_REPLAY") // the other relay was looking at this moment
		return false
	})
	if _, err := keeper.events.Append(t.Context(), relaytest.NewEvent("together", "1", `{}`)); err != nil {
		t.Error(err)
	}
	if err := keeper.events.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	r := openReader(t, h.url)
	if err := r.Receives(t.Context(), "ml"); !errors.Is(err, ErrNoTeam) {
		t.Errorf("Receives = %v", err)
	}
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.copyConsumer(t, "ml")
	if err := r.Receives(t.Context(), "ml"); err != nil {
		t.Error(err)
	}

	// One that is not as it should be does not keep it from storing either.
	if err := h.js.DeleteStream(t.Context(), "TOGETHER_REPLAY"); err != nil {
		t.Fatal(err)
	}
	memory := h.log.beside()[0]
	memory.Storage = jetstream.MemoryStorage
	if _, err := h.js.CreateStream(t.Context(), memory); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	l := newLog(testConfig(), zerolog.New(&said))
	if err := l.use(h.log.nc); err != nil {
		t.Fatal(err)
	}
	if err := l.Look(t.Context()); err != nil || !strings.Contains(said.String(), "TOGETHER_REPLAY") {
		t.Errorf("Look = %v, log %s", err, said.String())
	}
}

func TestSendTo(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", "fine_tune.*"), newTeam("billing", "batch.done"))
	ev := relaytest.NewEvent("together", "é 1", `{"a": 1}`)
	ev.Members, ev.Head, ev.Tail = []byte(`{"x":1}`), []byte(`{"data":`), []byte(`}`)
	if _, err := h.log.Append(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server counts it", func() bool { return h.info(t, "ml").NumPending == 1 })
	before, original := h.info(t, "ml"), h.original(t, 1)
	for i, replay := range []string{"r1", "r1", "r2"} {
		err := h.log.SendTo(t.Context(), "ml", original, replay)
		if got, want := h.state(t, "TOGETHER_REPLAY").LastSeq, []uint64{1, 1, 2}[i]; err != nil || got != want {
			t.Errorf("SendTo = %v, and there are %d copies, want %d", err, got, want)
		}
	}

	msg, err := h.copyConsumer(t, "ml").Next()
	if err != nil {
		t.Fatal(err)
	}
	want, got := nats.Header{}, msg.Headers()
	for name, values := range original.Header {
		if !strings.HasPrefix(name, "Nats-") {
			want[name] = values
		}
	}
	want["ce-replay"], want["Relay-Replayed"] = []string{"r1"}, []string{"1"}
	want["Nats-Msg-Id"], want["Nats-Expected-Stream"] = []string{"replay:r1:1"}, []string{"TOGETHER_REPLAY"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if msg.Subject() != "relay.replay.ml.together.fine_tune.completed.ft-1" || string(msg.Data()) != `{"a": 1}` {
		t.Errorf("the copy is %s %s", msg.Subject(), msg.Data())
	}
	back, err := decode(msg.Headers(), msg.Data())
	if err != nil || back.CloudEvent.ID() != "é 1" || back.CloudEvent.Extensions()["replay"] != "r1" {
		t.Errorf("it is read as %+v, %v", back, err)
	}

	if n := h.copyConsumer(t, "billing").CachedInfo().NumPending; n != 0 {
		t.Errorf("another team got %d copies", n)
	}
	if after := h.info(t, "ml"); after.NumPending != before.NumPending || after.Delivered.Stream != before.Delivered.Stream || h.state(t, "TOGETHER").LastSeq != 1 {
		t.Errorf("the stream of events was touched: %+v", after)
	}

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.log.SendTo(cancelled, "ml", original, "r3"); !errors.Is(err, context.Canceled) {
		t.Errorf("SendTo = %v", err)
	}
}

// The copy is told of only when it is on disk.
func TestSendToFlushes(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.append(t, "batch.done", "1")
	cfg, broken := testConfig(), errors.New("the disk is broken")
	cfg.Flush = func() error { return broken }
	l, err := openReader(t, h.url).Log(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SendTo(t.Context(), "ml", h.original(t, 1), "r1"); !errors.Is(err, broken) {
		t.Errorf("SendTo = %v", err)
	}
}

func TestRemovedTeamLeavesNoCopies(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"), newTeam("ml-2", ">"))
	h.append(t, "batch.done", "1")
	for _, team := range []string{"ml", "ml-2"} {
		if err := h.log.SendTo(t.Context(), team, h.original(t, 1), "r1-"+team); err != nil {
			t.Fatal(err)
		}
	}
	r := openReader(t, h.url)
	if err := r.RemoveTeam(t.Context(), "ml"); err != nil {
		t.Fatal(err)
	}
	for _, stream := range TeamStreams("TOGETHER") {
		if _, err := h.js.Consumer(t.Context(), stream, "ml"); !errors.Is(err, jetstream.ErrConsumerNotFound) {
			t.Errorf("consumer on %s: %v", stream, err)
		}
	}
	if n := h.state(t, "TOGETHER_REPLAY").Msgs; n != 1 {
		t.Errorf("%d copies are left, want that of the other team", n)
	}

	// One that was cut short can be done again.
	if err := h.js.DeleteConsumer(t.Context(), "TOGETHER_REPLAY", "ml-2"); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveTeam(t.Context(), "ml-2"); err != nil {
		t.Error(err)
	}
	if n := h.state(t, "TOGETHER_REPLAY").Msgs; n != 0 {
		t.Errorf("%d copies are left of a team whose consumer of copies was gone", n)
	}
	if err := r.RemoveTeam(t.Context(), "ml-2"); !errors.Is(err, ErrNoTeam) {
		t.Errorf("removed twice: %v", err)
	}
}

// Time to stop a server that has so many teams.
func BenchmarkStopThousandTeams(b *testing.B) {
	teams := thousandTeams()
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		ns := startServer(b, dir, -1)
		l := openLog(b, ns.ClientURL(), testConfig())
		ready(b, l)
		l.Teams(zerolog.Nop()).set(b, teams...)
		b.StartTimer()
		start := time.Now()
		stopServer(ns)
		b.ReportMetric(time.Since(start).Seconds(), "s/stop")
		start = time.Now()
		startServer(b, dir, -1)
		b.ReportMetric(time.Since(start).Seconds(), "s/start")
	}
}
