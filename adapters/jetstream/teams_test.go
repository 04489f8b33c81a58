package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"together-relay/relay"
	"together-relay/relay/relaytest"
)

func newTeam(name string, events ...string) relay.Team {
	return relay.Team{Name: name, Events: events, MaxDeliver: 3, BackOff: []time.Duration{time.Second, time.Minute}, MaxAckPending: 5}
}

// A teamLog keeps the log lines of a keeper.
type teamLog struct {
	mu    sync.Mutex
	lines []map[string]any
}

func (l *teamLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(p) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			return 0, err
		}
		l.lines = append(l.lines, fields)
	}
	return len(p), nil
}

// count is how many lines have the part in their message.
func (l *teamLog) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if strings.Contains(line["message"].(string), part) {
			n++
		}
	}
	return n
}

// A teamHouse is a server with a log, and the teams of one relay or several.
type teamHouse struct {
	log   *Log
	js    jetstream.JetStream
	url   string
	lines *teamLog
}

func newTeamHouse(t testing.TB) *teamHouse {
	t.Helper()
	url := startServer(t, t.TempDir(), -1).ClientURL()
	l := openLog(t, url, testConfig())
	ready(t, l)
	return &teamHouse{log: l, js: admin(t, url), url: url}
}

// relay is the keeper of a relay that has just started with the teams, and looked once.
func (h *teamHouse) relay(t testing.TB, provision string, teams ...relay.Team) *Teams {
	t.Helper()
	cfg := h.log.cfg
	cfg.Provision = provision
	other := openLog(t, h.url, cfg)
	ready(t, other)
	h.lines = &teamLog{}
	keeper := other.Teams(zerolog.New(h.lines).Level(zerolog.InfoLevel))
	keeper.set(t, teams...)
	return keeper
}

func (t *Teams) set(tb testing.TB, teams ...relay.Team) {
	tb.Helper()
	t.Set(teams)
	if err := t.look(context.Background()); err != nil {
		tb.Error(err)
	}
}

func (h *teamHouse) info(t *testing.T, name string) *jetstream.ConsumerInfo {
	t.Helper()
	c, err := h.js.Consumer(t.Context(), "TOGETHER", name)
	if err != nil {
		t.Fatal(err)
	}
	return c.CachedInfo()
}

// alter changes the consumer as another hand would.
func (h *teamHouse) alter(t *testing.T, name string, change func(*jetstream.ConsumerConfig)) {
	t.Helper()
	cfg := h.info(t, name).Config
	change(&cfg)
	if _, err := h.js.UpdateConsumer(t.Context(), "TOGETHER", cfg); err != nil {
		t.Fatal(err)
	}
}

// take takes so many events for the team, or what there is of them, and acknowledges them.
func (h *teamHouse) take(t *testing.T, name string, n int) []string {
	t.Helper()
	c, err := h.js.Consumer(t.Context(), "TOGETHER", name)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for msg := range batch.Messages() {
		ids = append(ids, msg.Headers().Get("ce-id"))
		if err := msg.DoubleAck(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if batch.Error() != nil {
		t.Error(batch.Error())
	}
	if left := h.info(t, name).NumPending; left > 0 {
		t.Errorf("%d more wait for %s", left, name)
	}
	return ids
}

func (h *teamHouse) append(t *testing.T, typ string, ids ...string) {
	t.Helper()
	for _, id := range ids {
		ev := relaytest.NewEvent("together", id, `{}`)
		ev.Type = typ
		if _, err := h.log.Append(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTeamsConsumersAreMade(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.append(t, "batch.done", "before")
	h.append(t, "model.deprecated", "other")
	keeper := h.relay(t, ProvisionCreate, newTeam("ml", "fine_tune.*", "model.deprecated"), newTeam("billing", "batch.done", "batch.*"))
	h.append(t, "batch.failed", "after")

	cfg := h.info(t, "ml").Config
	if cfg.AckPolicy != jetstream.AckExplicitPolicy || cfg.DeliverPolicy != jetstream.DeliverAllPolicy || cfg.MaxDeliver != 3 ||
		!cmp.Equal(cfg.BackOff, []time.Duration{time.Second, time.Minute}) || cfg.MaxAckPending != 5 || cfg.Metadata[teamKey] != "ml" || cfg.Description == "" {
		t.Errorf("the consumer is %+v", cfg)
	}
	want := []string{"other.fine_tune.*.*", "other.model.deprecated.*", "together.fine_tune.*.*", "together.model.deprecated.*"}
	if diff := cmp.Diff(want, cfg.FilterSubjects); diff != "" {
		t.Errorf("filters (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"before", "after"}, h.take(t, "billing", 2)); diff != "" {
		t.Errorf("billing (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"other"}, h.take(t, "ml", 1)); diff != "" {
		t.Errorf("ml (-want +got):\n%s", diff)
	}

	// One that is gone is made again at the next look.
	if err := h.js.DeleteConsumer(t.Context(), "TOGETHER", "ml"); err != nil {
		t.Fatal(err)
	}
	if err := keeper.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.info(t, "ml")

	// Without waits the server's own holds, and an old consumer of the same settings is no drift.
	plain := newTeam("plain", ">")
	plain.BackOff = nil
	h.relay(t, ProvisionCreate, newTeam("ml", "fine_tune.*", "model.deprecated"), newTeam("billing", "batch.done", "batch.*"), plain)
	if h.lines.count("differs")+h.lines.count("changed") > 0 || h.info(t, "plain").Config.AckWait != 30*time.Second {
		t.Errorf("log %v", h.lines.lines)
	}
	h.relay(t, ProvisionApply, newTeam("ml", "fine_tune.*", "model.deprecated"), newTeam("billing", "batch.done", "batch.*"), plain)
	if len(h.lines.lines) > 0 {
		t.Errorf("log %v, want nothing", h.lines.lines)
	}
}

// What the file changes is changed; each of the other modes has its way.
func TestTeamsFileChanges(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	keeper := h.relay(t, ProvisionCreate, newTeam("ml", "batch.done"))
	h.append(t, "batch.done", "1")
	if diff := cmp.Diff([]string{"1"}, h.take(t, "ml", 1)); diff != "" {
		t.Errorf("before the change (-want +got):\n%s", diff)
	}

	team := newTeam("ml", "batch.done", "fine_tune.*")
	team.MaxDeliver, team.BackOff, team.MaxAckPending = 4, []time.Duration{2 * time.Second}, 7
	keeper.set(t, team)
	cfg := h.info(t, "ml").Config
	if cfg.MaxDeliver != 4 || len(cfg.BackOff) != 1 || cfg.MaxAckPending != 7 || len(cfg.FilterSubjects) != 4 {
		t.Errorf("the consumer is %+v", cfg)
	}
	if n := h.lines.count("consumer was changed"); n != 4 {
		t.Errorf("%d settings were changed, want 4: %v", n, h.lines.lines)
	}
	h.append(t, "batch.done", "2")
	if diff := cmp.Diff([]string{"2"}, h.take(t, "ml", 1)); diff != "" {
		t.Errorf("its place was not kept (-want +got):\n%s", diff)
	}

	// A start with another file is a change of the file too; with check it is reported alone.
	team.MaxAckPending = 8
	h.relay(t, ProvisionCheck, team)
	if h.info(t, "ml").Config.MaxAckPending != 7 || h.lines.count("differs") != 2 { // one for each consumer
		t.Errorf("check: log %v", h.lines.lines)
	}
	h.relay(t, ProvisionCreate, team)
	if h.info(t, "ml").Config.MaxAckPending != 8 {
		t.Error("a start with another file changes nothing")
	}

	// A relay with an older file makes no change back, at no look but its first.
	older := keeper
	if err := older.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.info(t, "ml").Config.MaxAckPending != 8 {
		t.Error("a relay with an older file has changed the consumer back")
	}
}

func TestTeamsDrift(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	team := newTeam("ml", "batch.done")
	h.relay(t, ProvisionCreate, team)
	h.alter(t, "ml", func(cfg *jetstream.ConsumerConfig) { cfg.MaxDeliver, cfg.MaxRequestBatch = 99, 100 })

	for _, provision := range []string{ProvisionCheck, ProvisionCreate} {
		keeper := h.relay(t, provision, team)
		if err := keeper.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(h.lines.lines) != 1 {
			t.Fatalf("%s: log %v, want one line", provision, h.lines.lines)
		}
		line := h.lines.lines[0]
		if line["level"] != "warn" || line["setting"] != "max_deliver" || line["want"] != "3" || line["have"] != "99" {
			t.Errorf("%s: log line %v", provision, line)
		}
		if h.info(t, "ml").Config.MaxDeliver != 99 {
			t.Errorf("%s changed the consumer", provision)
		}
	}
	seen, err := openReader(t, h.url).Teams(t.Context(), nil)
	if err != nil || len(seen) != 1 || !cmp.Equal(seen[0].Drifts, []TeamDrift{{"max_deliver", "3", "99"}}) {
		t.Errorf("seen %+v, %v", seen, err)
	}

	// What the file says, a relay has not done yet.
	later := newTeam("ml", "batch.*")
	later.MaxAckPending = 6
	seen, err = openReader(t, h.url).Teams(t.Context(), []relay.Team{later})
	if err != nil || len(seen) != 1 || !cmp.Equal(seen[0].Drifts, []TeamDrift{{"max_deliver", "3", "99"}, {"max_ack_pending", "6", "5"}, {"events", "batch.*", "batch.done"}, {"replay max_ack_pending", "6", "5"}}) {
		t.Errorf("seen %+v, %v", seen, err)
	}

	keeper := h.relay(t, ProvisionApply, team)
	if cfg := h.info(t, "ml").Config; cfg.MaxDeliver != 3 || cfg.MaxRequestBatch != 100 {
		t.Errorf("after apply the consumer is %+v", cfg)
	}
	h.alter(t, "ml", func(cfg *jetstream.ConsumerConfig) { cfg.BackOff, cfg.AckWait = nil, time.Hour })
	if err := keeper.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if cfg := h.info(t, "ml").Config; len(cfg.BackOff) != 2 || cfg.AckWait != time.Second {
		t.Errorf("after a later drift the consumer is %+v", cfg)
	}
}

func TestTeamsTakenOutOfTheFile(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	ml, billing := newTeam("ml", "batch.done"), newTeam("billing", "batch.done")
	h.relay(t, ProvisionCreate, ml, billing)
	h.append(t, "batch.done", "1", "2")
	h.take(t, "ml", 2)
	h.append(t, "batch.done", "3")

	h.relay(t, ProvisionCheck, billing)
	if h.info(t, "ml").Paused || h.lines.count("does not pause it") != 1 {
		t.Errorf("check: log %v", h.lines.lines)
	}
	keeper := h.relay(t, ProvisionCreate, ml, billing)
	keeper.set(t, billing)
	for range 2 {
		if err := keeper.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !h.info(t, "ml").Paused || h.info(t, "billing").Paused || h.lines.count("it is paused and keeps its place") != 1 {
		t.Errorf("log %v", h.lines.lines)
	}
	c, err := h.js.Consumer(t.Context(), "TOGETHER", "ml")
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := c.Next(jetstream.FetchMaxWait(200 * time.Millisecond)); err == nil {
		t.Errorf("while it is paused it gets %s", msg.Subject())
	}
	seen, err := openReader(t, h.url).Teams(t.Context(), nil)
	if err != nil || len(seen) != 2 || !seen[1].Removed || seen[1].Pending != 1 {
		t.Errorf("seen %+v, %v", seen, err)
	}

	h.relay(t, ProvisionCheck, ml, billing)
	if !h.info(t, "ml").Paused || h.lines.count("does not resume it") != 1 {
		t.Errorf("check: log %v", h.lines.lines)
	}
	keeper.set(t, ml, billing)
	if h.info(t, "ml").Paused || h.lines.count("resumed") != 0 {
		t.Errorf("it is not resumed")
	}
	if diff := cmp.Diff([]string{"3"}, h.take(t, "ml", 1)); diff != "" {
		t.Errorf("after it is back (-want +got):\n%s", diff)
	}

	// Whom somebody else has paused stays so.
	if _, err := h.js.PauseConsumer(t.Context(), "TOGETHER", "ml", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	h.relay(t, ProvisionApply, ml, billing)
	if !h.info(t, "ml").Paused {
		t.Error("a pause of another hand was ended")
	}

	// The last one too; and whom somebody else had paused for a while.
	keeper.set(t)
	for _, name := range []string{"ml", "billing"} {
		if !isRemoved(h.info(t, name).Config) {
			t.Errorf("%s is not paused", name)
		}
	}
}

// Several relays may begin at the same moment.
func TestTeamsOfManyRelays(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	teams := []relay.Team{newTeam("a", "batch.done"), newTeam("b", "fine_tune.*"), newTeam("c", ">")}
	var keepers []*Teams
	for range 3 {
		keepers = append(keepers, h.relay(t, ProvisionCreate))
	}
	var relays sync.WaitGroup
	for _, keeper := range keepers {
		relays.Go(func() { keeper.set(t, teams...) })
	}
	relays.Wait()
	seen, err := openReader(t, h.url).Teams(t.Context(), teams)
	if err != nil || len(seen) != 3 {
		t.Fatalf("seen %+v, %v", seen, err)
	}
	for _, team := range seen {
		if team.Paused || len(team.Drifts) > 0 {
			t.Errorf("seen %+v", team)
		}
	}
}

func TestTeamsForeignConsumers(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	for _, name := range []string{"ml", "unrelated"} {
		cfg := jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckNonePolicy, FilterSubject: "together.x.>"}
		if _, err := h.js.CreateConsumer(t.Context(), "TOGETHER", cfg); err != nil {
			t.Fatal(err)
		}
	}
	before := h.info(t, "ml").Config
	keeper := h.relay(t, ProvisionApply, newTeam("ml", "batch.done"), newTeam("billing", "batch.done"))
	for range 2 {
		if err := keeper.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	keeper.set(t)
	if diff := cmp.Diff(before, h.info(t, "ml").Config); diff != "" {
		t.Errorf("it was changed (-before +after):\n%s", diff)
	}
	if h.info(t, "ml").Paused || h.info(t, "unrelated").Paused {
		t.Error("it was paused")
	}
	if h.lines.count("not the relay's") != 1 || !h.info(t, "billing").Paused {
		t.Errorf("log %v, want one line about it, and the other team kept", h.lines.lines)
	}
	r := openReader(t, h.url)
	seen, err := r.Teams(t.Context(), []relay.Team{newTeam("ml", ">")})
	if err != nil || len(seen) != 2 || seen[0].Name != "billing" || !seen[1].Foreign {
		t.Errorf("seen %+v, %v", seen, err)
	}
	if err := r.RemoveTeam(t.Context(), "ml"); err == nil {
		t.Error("it was removed")
	}
	if err := r.RemoveTeam(t.Context(), "nobody"); err == nil {
		t.Error("nobody was removed")
	}
	if err := r.RemoveTeam(t.Context(), "billing"); err != nil {
		t.Error(err)
	}
}

func TestTeamsAreSeen(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", "batch.done", "fine_tune.*"))
	h.append(t, "batch.done", "1", "2")
	h.take(t, "ml", 2)
	h.append(t, "model.deprecated", "not for it")
	h.append(t, "fine_tune.failed", "3", "4")
	c, err := h.js.Consumer(t.Context(), "TOGETHER", "ml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Next(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server counts the other", func() bool { return h.info(t, "ml").NumPending == 1 })
	seen, err := openReader(t, h.url).Teams(t.Context(), nil)
	if err != nil || len(seen) != 1 {
		t.Fatalf("seen %+v, %v", seen, err)
	}
	team := seen[0]
	stream, err := h.js.Stream(t.Context(), "TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	third, err := stream.GetMsg(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	if team.Pending != 1 || team.InFlight != 1 || team.Delivered.Sequence != 4 || team.Acknowledged.Sequence != 2 || team.Delivered.Time.IsZero() ||
		team.Acknowledged.Time.IsZero() || !team.Oldest.Equal(third.Time) || team.Paused || len(team.Drifts) > 0 ||
		!cmp.Equal(team.Events, []string{"batch.done", "fine_tune.*"}) {
		t.Errorf("seen %+v", team)
	}
}

// The loop finds the stream by itself, and takes what is set while it runs.
func TestTeamsRun(t *testing.T) {
	t.Parallel()
	url := startServer(t, t.TempDir(), -1).ClientURL()
	l := openLog(t, url, testConfig())
	keeper := l.Teams(zerolog.Nop())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- keeper.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	h := &teamHouse{log: l, js: admin(t, url), url: url}
	made := func(name string) bool {
		_, err := h.js.Consumer(t.Context(), "TOGETHER", name)
		return err == nil
	}
	keeper.Set([]relay.Team{newTeam("ml", ">")})
	eventually(t, "the first consumer", func() bool { return made("ml") })
	keeper.Set([]relay.Team{newTeam("ml", ">"), newTeam("billing", ">")})
	eventually(t, "the second consumer", func() bool { return made("billing") })
}

func thousandTeams() []relay.Team {
	var teams []relay.Team
	for i := range 1000 {
		teams = append(teams, newTeam(fmt.Sprintf("team-%d", i), "fine_tune.*", "batch.done"))
	}
	return teams
}

// A start with a thousand teams that do nothing: their consumers made, and found again.
func BenchmarkThousandTeams(b *testing.B) {
	teams := thousandTeams()
	h := newTeamHouse(b)
	first := h.relay(b, ProvisionCreate)
	for b.Loop() {
		start := time.Now()
		first.set(b, teams...)
		b.ReportMetric(time.Since(start).Seconds(), "s/made")
		start = time.Now()
		h.relay(b, ProvisionCreate, teams...)
		b.ReportMetric(time.Since(start).Seconds(), "s/found")
		if readEvents(b, openReader(b, h.url), Query{}) != nil { // there is room for others beside the teams
			b.Error("there are events")
		}
		b.StopTimer()
		for _, team := range teams {
			for _, stream := range TeamStreams("TOGETHER") {
				if err := h.js.DeleteConsumer(b.Context(), stream, team.Name); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.StartTimer()
	}
}
