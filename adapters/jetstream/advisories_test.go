package jetstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"together-relay/relay"
	"together-relay/relay/relaytest"
)

// An undertaker is a relay that makes dead letters of teams, and what it has told.
type undertaker struct {
	*Advisories
	lines *teamLog

	mu         sync.Mutex
	made       []relay.TeamLetter
	unreadable int
	counts     LetterCounts
}

// undertaker is one of the log, and does not run yet.
func newUndertaker(l *Log) *undertaker {
	u := &undertaker{lines: &teamLog{}}
	u.Advisories = l.Advisories(zerolog.New(u.lines), Told{
		Letter:     func(letter relay.TeamLetter) { u.mu.Lock(); u.made = append(u.made, letter); u.mu.Unlock() },
		Unreadable: func() { u.mu.Lock(); u.unreadable++; u.mu.Unlock() },
		Counted:    func(c LetterCounts) { u.mu.Lock(); u.counts = c; u.mu.Unlock() },
	})
	u.wait, u.leaderEvery = 300*time.Millisecond, 50*time.Millisecond
	return u
}

// start runs it until the test ends, or until stop is called.
func (u *undertaker) start(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func (u *undertaker) letters() []relay.TeamLetter {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.made)
}

// pull takes the next event of a team's consumer on a stream.
func (h *teamHouse) pull(t *testing.T, stream, team string) jetstream.Msg {
	t.Helper()
	c, err := h.js.Consumer(t.Context(), stream, team)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// terminate makes the team end its next event.
func (h *teamHouse) terminate(t *testing.T, stream, team, why string) {
	t.Helper()
	msg, before := h.pull(t, stream, team), h.state(t, "TOGETHER_ADVISORIES").LastSeq
	if err := msg.TermWithReason(why); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server has said so", func() bool { return h.state(t, "TOGETHER_ADVISORIES").LastSeq > before })
}

// exhaust makes the team refuse its next event as often as it comes. The server says so when the
// team pulls the next time.
func (h *teamHouse) exhaust(t *testing.T, stream, team string, times int) {
	t.Helper()
	for range times {
		if err := h.pull(t, stream, team).Nak(); err != nil {
			t.Fatal(err)
		}
	}
}

// glance makes the team pull, and do nothing with what it gets.
func (h *teamHouse) glance(t *testing.T, stream, team string) {
	t.Helper()
	c, err := h.js.Consumer(t.Context(), stream, team)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.FetchNoWait(1)
	if err != nil {
		t.Fatal(err)
	}
	for range batch.Messages() {
		continue
	}
}

// waiting is how many advisories are stored.
func (h *teamHouse) waiting(t *testing.T) uint64 {
	t.Helper()
	return h.state(t, "TOGETHER_ADVISORIES").Msgs
}

// settled waits until every advisory was handled.
func (h *teamHouse) settled(t *testing.T) {
	t.Helper()
	eventually(t, "no advisory waits", func() bool { return h.waiting(t) == 0 })
}

func TestDeadLettersOfTeams(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	ml, billing := newTeam("ml", ">"), newTeam("billing", "batch.done")
	ml.BackOff, billing.BackOff = []time.Duration{time.Minute}, []time.Duration{time.Minute}
	h.relay(t, ProvisionCreate, ml, billing)
	h.append(t, "batch.done", "evt_1")

	// All this happens while no relay makes letters.
	h.exhaust(t, "TOGETHER", "ml", 3)
	eventually(t, "the server has said so", func() bool {
		h.glance(t, "TOGETHER", "ml") // it does so while the team pulls
		return h.waiting(t) == 1
	})
	h.append(t, "batch.done", "evt_2", "evt_3")
	h.terminate(t, "TOGETHER", "ml", "no such batch: ÄÖ")
	h.terminate(t, "TOGETHER", "billing", "")
	if n := h.waiting(t); n != 3 {
		t.Fatalf("%d advisories wait, want 3", n)
	}
	u := newUndertaker(h.log)
	u.start(t)
	h.settled(t)

	letters := readLetters(t, openReader(t, h.url))
	if len(letters) != 3 {
		t.Fatalf("%d letters, want 3: %+v", len(letters), letters)
	}
	arrived := time.Date(2026, 7, 1, 9, 0, 0, 123456789, time.UTC)
	base := relay.TeamLetter{Type: "ai.together.fine_tune.completed", Source: "together", Subject: "together.batch.done.ft-1", Arrived: arrived}
	want := []relay.TeamLetter{base, base, base}
	want[0].Team, want[0].Reason, want[0].Detail, want[0].Attempts, want[0].ID, want[0].Sequence = "ml", "max_deliver", "delivered 3 times, never acknowledged", 3, "evt_1", 1
	want[1].Team, want[1].Reason, want[1].Detail, want[1].Attempts, want[1].ID, want[1].Sequence = "ml", "terminated", "no such batch: ÄÖ", 1, "evt_2", 2
	want[2].Team, want[2].Reason, want[2].Attempts, want[2].ID, want[2].Sequence = "billing", "terminated", 1, "evt_1", 1
	for i, letter := range letters {
		if diff := cmp.Diff(want[i], *letter.Team); diff != "" {
			t.Errorf("letter %d (-want +got):\n%s", i+1, diff)
		}
		if letter.Subject != "relay.dlq.team."+want[i].Team+"."+want[i].Reason || letter.Stream != "TOGETHER" || letter.Omitted != "" || letter.Reason != want[i].Reason {
			t.Errorf("letter %d is %+v", i+1, letter)
		}
		original, err := letter.Original()
		if err != nil {
			t.Fatal(err)
		}
		stored := h.original(t, want[i].Sequence)
		for name := range stored.Header {
			if strings.HasPrefix(name, "Nats-") {
				delete(stored.Header, name)
			}
		}
		for name := range original.Header {
			if strings.HasPrefix(name, "Nats-") {
				delete(original.Header, name)
			}
		}
		stored.Buried = letter.Stored
		if diff := cmp.Diff(stored, original); diff != "" {
			t.Errorf("letter %d, the copy (-original +copy):\n%s", i+1, diff)
		}
	}
	if diff := cmp.Diff(want, u.letters()); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if n := u.lines.count("it is a dead letter"); n != 3 {
		t.Errorf("%d lines of letters, want 3: %v", n, u.lines.lines)
	}
	eventually(t, "the letters are counted", func() bool {
		counts, err := openReader(t, h.url).LetterCounts(t.Context())
		return err == nil && cmp.Equal(counts, LetterCounts{Teams: map[string]map[string]uint64{"ml": {"max_deliver": 1, "terminated": 1}, "billing": {"terminated": 1}}})
	})
}

// A copy that was for the team alone is a letter about the event that it is a copy of.
func TestDeadLetterOfAReplay(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.append(t, "batch.done", "evt_1", "evt_2")
	if err := h.log.SendTo(t.Context(), "ml", h.original(t, 2), "again 1"); err != nil {
		t.Fatal(err)
	}
	h.terminate(t, "TOGETHER_REPLAY", "ml", "still no")
	u := newUndertaker(h.log)
	u.start(t)
	h.settled(t)
	letters := readLetters(t, openReader(t, h.url))
	if len(letters) != 1 {
		t.Fatalf("letters %+v", letters)
	}
	got := letters[0]
	if got.Stream != "TOGETHER_REPLAY" || got.Team.Sequence != 2 || got.Team.Subject != "together.batch.done.ft-1" || got.Team.Replay != "again 1" ||
		got.Team.ID != "evt_2" || got.Team.Source != "together" || got.event.Get("ce-replay") != "again%201" || got.Header["Relay-Copy"] != "1" {
		t.Errorf("the letter is %+v of team %+v", got, got.Team)
	}
	original, err := got.Original()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.log.SendTo(t.Context(), "ml", original, fmt.Sprint("dlq-", got.Sequence)); err != nil {
		t.Fatal(err)
	}
	again := h.pull(t, "TOGETHER_REPLAY", "ml")
	if again.Subject() != "relay.replay.ml.together.batch.done.ft-1" || again.Headers().Get("ce-replay") != "dlq-1" || again.Headers().Get("Relay-Replayed") != "2" || again.Headers().Get("Relay-Reason") != "" {
		t.Errorf("the copy of the letter is %s %v", again.Subject(), again.Headers())
	}
}

// What cannot be a copy is a note all the same, and what is none of a team's is nothing.
func TestDeadLettersWithoutAnEvent(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"), newTeam("left", ">"))
	h.append(t, "batch.done", "evt_1", "evt_2", "evt_3")
	events, err := h.js.Stream(t.Context(), "TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	drop := func(seq uint64) {
		t.Helper()
		if err := events.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	// Terminated, and deleted before it was noticed; deleted while the team had it.
	h.terminate(t, "TOGETHER", "ml", "bad")
	drop(1)
	h.pull(t, "TOGETHER", "ml")
	drop(2)
	eventually(t, "the server has noticed both", func() bool { return h.waiting(t) == 2 })
	// A team that is removed before it was noticed.
	h.terminate(t, "TOGETHER", "left", "no")
	if err := openReader(t, h.url).RemoveTeam(t.Context(), "left"); err != nil {
		t.Fatal(err)
	}
	// Consumers of other hands, there and not there any more.
	for _, name := range []string{"Somebody", "somebody-else"} {
		c, err := h.js.CreateConsumer(t.Context(), "TOGETHER", jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy})
		if err != nil {
			t.Fatal(err)
		}
		msg, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := msg.Term(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the server has noticed", func() bool { return h.waiting(t) == 5 })
	if err := h.js.DeleteConsumer(t.Context(), "TOGETHER", "Somebody"); err != nil {
		t.Fatal(err)
	}
	// What is no advisory at all, and what lies about where it comes from.
	for subject, text := range map[string]string{
		usedUp + "TOGETHER.ml":            `{"stream":`,
		usedUp + "TOGETHER.billing":       `{"stream":"TOGETHER","consumer":"ml","stream_seq":3,"deliveries":1}`,
		terminated + "TOGETHER_REPLAY.ml": `{"stream":"TOGETHER_REPLAY","consumer":"ml","deliveries":1}`,
		terminated + "TOGETHER.ml":        ``,
	} {
		if _, err := h.js.Publish(t.Context(), subject, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	u := newUndertaker(h.log)
	u.start(t)
	h.settled(t)
	letters := readLetters(t, openReader(t, h.url))
	if len(letters) != 3 {
		t.Fatalf("%d letters: %+v", len(letters), letters)
	}
	for i, want := range []relay.TeamLetter{
		{Team: "ml", Reason: "gone", Detail: "the event is not stored any more: bad", Attempts: 1, Sequence: 1},
		{Team: "ml", Reason: "gone", Detail: "the event is not stored any more: Unacknowledged message was deleted", Attempts: 1, Sequence: 2},
		{Team: "left", Reason: "terminated", Detail: "no", Attempts: 1, ID: "evt_3", Sequence: 3},
	} {
		got := letters[i]
		if got.Team.Team != want.Team || got.Team.Reason != want.Reason || got.Team.Detail != want.Detail || got.Team.Attempts != want.Attempts ||
			got.Team.Sequence != want.Sequence || got.Team.ID != want.ID || want.Reason == "gone" && len(got.Body) > 0 {
			t.Errorf("letter %d is %+v, want %+v", i+1, got.Team, want)
		}
		if _, err := got.Original(); (err == nil) != (want.Reason != "gone") {
			t.Errorf("letter %d: Original = %v", i+1, err)
		}
	}
	if u.unreadable != 4 || u.lines.count("cannot be read") != 4 {
		t.Errorf("%d unreadable, log %v", u.unreadable, u.lines.lines)
	}
}

// NATS believes whatever number a team terminates. No letter is made of an event that the team
// does not subscribe to, nor of one that it has not got to: a retry would hand it to the team.
func TestNoDeadLetterOfWhatATeamWasNeverGiven(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"), newTeam("billing", "batch.done"))
	h.append(t, "batch.done", "evt_1")
	h.append(t, "fine_tune.completed", "evt_2")
	h.append(t, "batch.done", "evt_3", "evt_4")
	if err := h.log.SendTo(t.Context(), "ml", h.original(t, 2), "r"); err != nil {
		t.Fatal(err)
	}
	if err := h.log.SendTo(t.Context(), "billing", h.original(t, 1), "r"); err != nil {
		t.Fatal(err)
	}
	h.pull(t, "TOGETHER_REPLAY", "billing")
	first := h.pull(t, "TOGETHER", "billing")
	h.pull(t, "TOGETHER", "billing") // it has got to number 3
	for _, forged := range []string{"TOGETHER.billing.1.2", "TOGETHER.billing.1.4", "TOGETHER.billing.1.18446744073709551615", "TOGETHER_REPLAY.billing.1.1"} {
		if err := h.js.Conn().Publish("$JS.ACK."+forged+".1.1.0", []byte("+TERM")); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Term(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server has said so", func() bool { return h.waiting(t) == 5 })
	newUndertaker(h.log).start(t)
	h.settled(t)
	letters := readLetters(t, openReader(t, h.url))
	if len(letters) != 1 || letters[0].Team.ID != "evt_1" {
		for _, letter := range letters {
			t.Errorf("there is a letter about %+v", letter.Team)
		}
		t.Fatalf("%d letters, want that about evt_1", len(letters))
	}
}

// A copy that is gone leaves a note that does not claim to know which event it was.
func TestDeadLetterOfAGoneReplay(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.append(t, "batch.done", "evt_1", "evt_2")
	if err := h.log.SendTo(t.Context(), "ml", h.original(t, 2), "r"); err != nil {
		t.Fatal(err)
	}
	h.terminate(t, "TOGETHER_REPLAY", "ml", "")
	copies, err := h.js.Stream(t.Context(), "TOGETHER_REPLAY")
	if err != nil {
		t.Fatal(err)
	}
	if err := copies.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	newUndertaker(h.log).start(t)
	h.settled(t)
	got := readLetters(t, openReader(t, h.url))[0]
	if got.Team.Reason != "gone" || got.Team.Sequence != 0 || got.Stream != "TOGETHER_REPLAY" || got.Header["Relay-Copy"] != "1" {
		t.Errorf("the letter is %+v of team %+v", got, got.Team)
	}
}

// A relay that dies after the letter is stored, and before the advisory is acknowledged, leaves
// it to the next, and there is one letter.
func TestDeadLetterOnceWhenARelayDies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		window time.Duration
	}{{"window", time.Minute}, {"window over", 100 * time.Millisecond}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			url := startServer(t, t.TempDir(), -1).ClientURL()
			cfg := testConfig()
			cfg.Window = c.window
			l := openLog(t, url, cfg)
			ready(t, l)
			h := &teamHouse{log: l, js: admin(t, url), url: url}
			h.relay(t, ProvisionCreate, newTeam("ml", ">"))
			h.append(t, "batch.done", "evt_1", "evt_2", "evt_3")
			h.terminate(t, "TOGETHER", "ml", "one")
			h.terminate(t, "TOGETHER", "ml", "two")

			wire := newCable(t, strings.TrimPrefix(url, "nats://"))
			mortal := openLog(t, wire.URL(), cfg)
			ready(t, mortal)
			dying := newUndertaker(mortal)
			dead := wire.Trap("$JS.ACK.TOGETHER_ADVISORIES.relay.")
			stop := dying.start(t)
			<-dead
			stop()
			if n := h.state(t, "TOGETHER_DLQ").Msgs; n != 1 {
				t.Fatalf("%d letters when the relay dies, want 1", n)
			}
			eventually(t, "the window is over", func() bool {
				id := nats.NewMsg("relay.dlq.ingest.together.probe")
				id.Header.Set(nats.MsgIdHdr, "probe")
				got, err := h.js.PublishMsg(t.Context(), id)
				return err == nil && (c.window == time.Minute || !got.Duplicate && got.Sequence > 2)
			})
			h.terminate(t, "TOGETHER", "ml", "three")
			u := newUndertaker(l)
			u.start(t)
			h.settled(t)
			count := map[string]int{}
			err := openReader(t, url).Letters(t.Context(), LetterQuery{Team: "ml"}, func(l Letter) error { count[l.Team.ID]++; return l.Broken })
			if diff := cmp.Diff(map[string]int{"evt_1": 1, "evt_2": 1, "evt_3": 1}, count); diff != "" || err != nil {
				t.Errorf("letters by event (-want +got): %v\n%s", err, diff)
			}
			if len(u.letters())+len(dying.letters()) != 3 {
				t.Errorf("told of %d and %d letters, want 3", len(u.letters()), len(dying.letters()))
			}
		})
	}
}

// Many relays, and each letter once.
func TestDeadLettersOnceWithManyRelays(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"), newTeam("billing", ">"))
	var relays []*undertaker
	for range 3 {
		l := openLog(t, h.url, testConfig())
		ready(t, l)
		u := newUndertaker(l)
		u.start(t)
		relays = append(relays, u)
	}
	const events = 50
	for i := range events {
		h.append(t, "batch.done", fmt.Sprint(i))
	}
	for range events {
		for _, team := range []string{"ml", "billing"} {
			h.terminate(t, "TOGETHER", team, "no")
		}
	}
	eventually(t, "all letters are there", func() bool { return h.state(t, "TOGETHER_DLQ").Msgs >= 2*events })
	h.settled(t)
	count := map[string]int{}
	for _, letter := range readLetters(t, openReader(t, h.url)) {
		count[letter.Team.Team+letter.Team.ID]++
	}
	told := 0
	for _, u := range relays {
		told += len(u.letters())
	}
	if len(count) != 2*events || told != 2*events || h.state(t, "TOGETHER_DLQ").Msgs != 2*events {
		t.Errorf("%d letters, told of %d, want %d", len(count), told, 2*events)
	}
}

// The same message may end badly twice by the server's word, and is one letter; a team that was
// made again is another matter, also if the first letter was dropped.
func TestDeadLetterOfATeamMadeAgain(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	keeper := h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.append(t, "batch.done", "evt_1")
	h.terminate(t, "TOGETHER", "ml", "no")
	advisories, err := h.js.Stream(t.Context(), "TOGETHER_ADVISORIES")
	if err != nil {
		t.Fatal(err)
	}
	var said *jetstream.RawStreamMsg
	eventually(t, "the server has said so", func() bool { said, err = advisories.GetMsg(t.Context(), 1); return err == nil })
	if _, err := h.js.Publish(t.Context(), said.Subject, said.Data); err != nil {
		t.Fatal(err)
	}
	u := newUndertaker(h.log)
	u.start(t)
	h.settled(t)
	r := openReader(t, h.url)
	if letters := readLetters(t, r); len(letters) != 1 {
		t.Fatalf("letters %+v", letters)
	}
	if err := errors.Join(r.Drop(t.Context(), 1), r.RemoveTeam(t.Context(), "ml"), keeper.look(t.Context())); err != nil {
		t.Fatal(err)
	}
	h.terminate(t, "TOGETHER", "ml", "still no")
	eventually(t, "there is another letter", func() bool { return h.state(t, "TOGETHER_DLQ").Msgs == 1 })
}

// What NATS said of a consumer that was deleted since is known under another name than what it says of the
// one that has its place, also if it is handled only then.
func TestDeadLetterOfTheTeamBefore(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	keeper := h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.append(t, "batch.done", "evt_1")
	h.terminate(t, "TOGETHER", "ml", "no")
	eventually(t, "the server has said so", func() bool { return h.waiting(t) == 1 })
	r := openReader(t, h.url)
	if err := errors.Join(r.RemoveTeam(t.Context(), "ml"), keeper.look(t.Context())); err != nil {
		t.Fatal(err)
	}
	u := newUndertaker(h.log)
	u.start(t)
	h.settled(t)
	if err := r.Drop(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	h.terminate(t, "TOGETHER", "ml", "still no")
	eventually(t, "there is another letter", func() bool { return h.state(t, "TOGETHER_DLQ").Msgs == 1 })
}

// What the envelope says beside its known members is not escaped, and need not be.
func TestDeadLetterOfAnEnvelopeWithAPercentSign(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	ev := relaytest.NewEvent("together", "sale", `{}`)
	ev.Members = []byte(`{"note":"50% off, 10%25"}`)
	if _, err := h.log.Append(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	h.terminate(t, "TOGETHER", "ml", "no")
	newUndertaker(h.log).start(t)
	h.settled(t)
	letters := readLetters(t, openReader(t, h.url))
	if len(letters) != 1 || letters[0].Broken != nil {
		t.Fatalf("letters %+v", letters)
	}
	original, err := letters[0].Original()
	if err != nil || !slices.Equal(original.Header[envelopeHeader], []string{string(ev.Members)}) {
		t.Errorf("Original = %+v, %v", original, err)
	}
}

// Headers that no client can read are not in the letter, and it is made all the same.
func TestDeadLetterWithoutHeaders(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	publishRaw(t, h.url, "together.batch.done.b1", "NATS/1.0\r\nno header\r\n\r\n", "{}")
	eventually(t, "it is stored", func() bool { return h.state(t, "TOGETHER").Msgs == 1 })
	about := fmt.Sprintf(`{"stream":"TOGETHER","consumer":"ml","stream_seq":1,"deliveries":3,"timestamp":%q}`, time.Now().UTC().Format(time.RFC3339Nano))
	if _, err := h.js.Publish(t.Context(), usedUp+"TOGETHER.ml", []byte(about)); err != nil {
		t.Fatal(err)
	}
	u := newUndertaker(h.log)
	u.start(t)
	h.settled(t)
	letters := readLetters(t, openReader(t, h.url))
	if len(letters) != 1 || letters[0].Broken != nil || string(letters[0].Body) != "{}" || letters[0].Omitted != "headers" || letters[0].Team.Sequence != 1 {
		t.Errorf("letters %+v", letters)
	}
}

// publishRaw sends a message whose headers are whatever is written.
func publishRaw(t *testing.T, url, subject, headers, data string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"headers\":true}\r\nHPUB %s %d %d\r\n%s%s\r\nPING\r\n", subject, len(headers), len(headers)+len(data), headers, data)
	if err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	for line := ""; line != "PONG\r\n"; {
		if line, err = answers.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
}

// A stream of letters that was deleted and made anew counts from one again. Its letters are not those
// that were sent to their team before, also if number and event are the same.
func TestLetterOfANewStreamIsSentAgain(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.append(t, "batch.done", "evt_1")
	r := openReader(t, h.url)
	for _, want := range []uint64{1, 2} {
		original := h.original(t, 1)
		about := died{stream: "TOGETHER", consumer: "ml", sequence: 1, attempts: 2}
		if _, err := h.log.buryTeam(about.letter(&original, time.Now(), nil), about, &original, "x"); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second one as after a crash
			letter, err := r.Letter(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			event, err := letter.Original()
			if err != nil {
				t.Fatal(err)
			}
			err = h.log.SendTo(t.Context(), "ml", event, "dlq-1")
			if got := h.state(t, "TOGETHER_REPLAY").LastSeq; err != nil || got != want {
				t.Errorf("SendTo = %v, and there are %d copies, want %d", err, got, want)
			}
		}
		if err := h.js.DeleteStream(t.Context(), "TOGETHER_DLQ"); err != nil {
			t.Fatal(err)
		}
		ready(t, h.log)
	}
}

// No event is too large for a letter that could be stored.
func TestDeadLetterHasRoom(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	limit := int(h.log.maxPayload.Load())
	big := func(id string, data, members, head int) {
		t.Helper()
		ev := relaytest.NewEvent("together", id, `"`+strings.Repeat("d", data)+`"`)
		ev.Members = []byte(`{"m":"` + strings.Repeat("m", members) + `"}`)
		if head > 0 {
			ev.Head, ev.Tail = []byte(strings.Repeat("h", head)), []byte("}")
		}
		if _, err := h.log.Append(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
	}
	big("headers", 10, 10, 64<<10-1100)
	big("payload", limit-21500, 10, 20<<10)
	big("members", 10, 64<<10-1000, 0)
	h.terminate(t, "TOGETHER", "ml", strings.Repeat("ü", 400))
	h.terminate(t, "TOGETHER", "ml", strings.Repeat("r", 4000))
	h.terminate(t, "TOGETHER", "ml", strings.Repeat("r", 4000))
	newUndertaker(h.log).start(t)
	h.settled(t)
	letters := readLetters(t, openReader(t, h.url))
	for i, want := range []struct {
		id, omitted string
		size        int
	}{{"headers", "Relay-Head Relay-Tail", 12}, {"payload", "Relay-Head Relay-Tail", limit - 21498}, {"members", "Relay-Envelope", 12}} {
		if got := letters[i]; got.Team.ID != want.id || got.Omitted != want.omitted || got.Size != want.size {
			t.Errorf("letter %d is of %s with %d bytes, without %q, want %+v", i+1, got.Team.ID, got.Size, got.Omitted, want)
		}
	}

	// A limit of another hand leaves room for the note alone.
	h.append(t, "batch.done", "small")
	dead, err := h.js.Stream(t.Context(), "TOGETHER_DLQ")
	if err != nil {
		t.Fatal(err)
	}
	limited := dead.CachedInfo().Config
	limited.MaxMsgSize = 2000
	if _, err := h.js.UpdateStream(t.Context(), limited); err != nil {
		t.Fatal(err)
	}
	ev := relaytest.NewEvent("together", "large", `"`+strings.Repeat("d", 2000)+`"`)
	if _, err := h.log.Append(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	h.terminate(t, "TOGETHER", "ml", "")
	h.terminate(t, "TOGETHER", "ml", "")
	h.settled(t)
	letters = readLetters(t, openReader(t, h.url))
	if got := letters[len(letters)-1]; got.Team.ID != "large" || got.Omitted != "data" || got.Size != 0 {
		t.Errorf("the letter is %+v of %+v", got, got.Team)
	} else if _, err := got.Original(); err == nil || !strings.Contains(err.Error(), "number 5 of the stream") {
		t.Errorf("Original = %v", err)
	}
}

// While there is no room, or no server, nothing is lost, and nobody spins.
func TestDeadLettersWaitForRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ns := startServer(t, dir, -1)
	url := ns.ClientURL()
	wire := newCable(t, strings.TrimPrefix(url, "nats://"))
	l := openLog(t, wire.URL(), testConfig())
	ready(t, l)
	h := &teamHouse{log: l, js: admin(t, url), url: url}
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.append(t, "batch.done", "evt_1", "evt_2", "evt_3")
	dead, err := h.js.Stream(t.Context(), "TOGETHER_DLQ")
	if err != nil {
		t.Fatal(err)
	}
	full := dead.CachedInfo().Config
	full.MaxMsgs = 1
	if _, err := h.js.UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	u := newUndertaker(l)
	u.start(t)
	h.terminate(t, "TOGETHER", "ml", "one")
	h.settled(t)
	h.terminate(t, "TOGETHER", "ml", "two")
	eventually(t, "it is said", func() bool { return u.lines.count("cannot be made now") == 1 })
	wire.Cut()
	h.terminate(t, "TOGETHER", "ml", "three")
	full.MaxMsgs = -1
	if _, err := h.js.UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	wire.Mend()
	h.settled(t)
	if letters := readLetters(t, openReader(t, url)); len(letters) != 3 || letters[2].Team.ID == letters[1].Team.ID {
		t.Errorf("letters %+v", letters)
	}
	if n := u.lines.count("cannot be made now"); n > 5 {
		t.Errorf("said %d times that there is no room", n)
	}
}

// When the server notices that deliveries are used up: while the team asks for events, or at
// once if there was to be one delivery alone.
func TestDeadLetterIsNoticedWhileTheTeamPulls(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	once, twice := newTeam("once", ">"), newTeam("twice", ">")
	once.MaxDeliver, once.BackOff = 1, []time.Duration{300 * time.Millisecond}
	twice.MaxDeliver, twice.BackOff = 2, []time.Duration{20 * time.Millisecond}
	h.relay(t, ProvisionCreate, once, twice)
	newUndertaker(h.log).start(t)
	h.append(t, "batch.done", "evt_1")
	h.pull(t, "TOGETHER", "twice")
	h.pull(t, "TOGETHER", "twice")
	h.pull(t, "TOGETHER", "once")
	count := func(team string) uint64 {
		counts, err := openReader(t, h.url).LetterCounts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return counts.Teams[team]["max_deliver"]
	}
	eventually(t, "the one delivery is used up", func() bool { return count("once") == 1 })
	if n := count("twice"); n != 0 {
		t.Errorf("%d letters of a team that does not pull", n)
	}
	h.glance(t, "TOGETHER", "twice")
	eventually(t, "the two deliveries are used up", func() bool { return count("twice") == 1 })
}

// The server that leads the stream says the same as any replica.
func TestLeaderIsAsked(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.append(t, "batch.done", "evt_1")
	stream, err := h.js.Stream(t.Context(), "TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	want, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := fromLeader(t.Context(), h.log.nc, "TOGETHER", 1, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"} { // of how it was asked
		want.Header.Del(name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the message (-replica +leader):\n%s", diff)
	}
	if _, err := fromLeader(t.Context(), h.log.nc, "TOGETHER", 2, ""); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
	if _, err := fromLeader(t.Context(), h.log.nc, "NONE", 1, ""); err == nil || errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("a stream that is not there: %v", err)
	}
}

// What the server says while there is no stream for it, each relay has heard all the same.
func TestDeadLettersThatTheStreamMissed(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.append(t, "batch.done", "evt_1", "evt_2", "evt_3")
	other := openLog(t, h.url, testConfig())
	ready(t, other)
	us := []*undertaker{newUndertaker(h.log), newUndertaker(other)}
	for _, u := range us {
		u.start(t)
	}
	told := func() (n int) {
		for _, u := range us {
			n += len(u.letters())
		}
		return n
	}
	h.terminate(t, "TOGETHER", "ml", "kept")
	eventually(t, "the first letter", func() bool { return told() == 1 })
	eventually(t, "both have seen the leader", func() bool { return us[0].led.Load() && us[1].led.Load() })
	if err := h.js.DeleteStream(t.Context(), "TOGETHER_ADVISORIES"); err != nil {
		t.Fatal(err)
	}
	for _, why := range []string{"missed", "missed as well"} {
		if err := h.pull(t, "TOGETHER", "ml").TermWithReason(why); err != nil {
			t.Fatal(err)
		}
	}
	h.log.Kick()
	other.Kick()
	eventually(t, "the other letters", func() bool { return told() == 3 })
	h.settled(t)
	var details []string
	err := openReader(t, h.url).Letters(t.Context(), LetterQuery{Team: "ml"}, func(l Letter) error { details = append(details, l.Team.ID+" "+l.Team.Detail); return l.Broken })
	slices.Sort(details)
	if diff := cmp.Diff([]string{"evt_1 kept", "evt_2 missed", "evt_3 missed as well"}, details); diff != "" || err != nil {
		t.Errorf("letters (-want +got): %v\n%s", err, diff)
	}
}

// A team that floods the stream of advisories finds an end, and those of others are kept.
func TestAdvisoriesHaveABound(t *testing.T) {
	t.Parallel()
	url := startServer(t, t.TempDir(), -1).ClientURL()
	l := openLog(t, url, testConfig())
	js := admin(t, url)
	eventually(t, "the stream is there", l.besides.Load)
	said := func(team string, n int) {
		for range n {
			if err := js.Conn().Publish(terminated+"TOGETHER."+team, []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
		if err := js.Conn().Flush(); err != nil {
			t.Fatal(err)
		}
	}
	kept := func(team string) uint64 {
		stream, err := js.Stream(t.Context(), "TOGETHER_ADVISORIES")
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(terminated+">"))
		if err != nil {
			t.Fatal(err)
		}
		return info.State.Subjects[terminated+"TOGETHER."+team]
	}
	for sent := 0; kept("noisy") < maxAdvisories && sent < 3*maxAdvisories; sent += 10_000 { // a server that is behind drops some
		said("noisy", 10_000)
	}
	said("noisy", 1000)
	said("quiet", 1)
	eventually(t, "that of the other is kept", func() bool { return kept("quiet") == 1 })
	if n := kept("noisy"); n != maxAdvisories {
		t.Errorf("%d are kept, want %d", n, maxAdvisories)
	}
}
