package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"together-relay/relay/relaytest"
)

// where says what became of events with a team, in short.
func (h *teamHouse) where(t *testing.T, team string, events ...uint64) []string {
	t.Helper()
	r := openReader(t, h.url)
	about, err := r.Whereabouts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, seq := range events {
		m, ok, err := r.BySequence(t.Context(), seq)
		if err != nil || !ok {
			t.Fatalf("event %d: %v, %v", seq, ok, err)
		}
		teams, err := about.Of(t.Context(), m.Place)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range teams {
			if one.Team != team {
				continue
			}
			text := one.short()
			for _, c := range one.Copies {
				text += fmt.Sprintf("; %s copy %d %s", c.Replay, c.Sequence, c.short())
			}
			all = append(all, text)
		}
	}
	return all
}

func (s Standing) short() string {
	text := s.State
	if s.Unsure != "" {
		text += ", " + s.Unsure
	}
	if s.State == WhereDead {
		text += fmt.Sprintf(" %d %s", s.Letter, s.Reason)
	}
	return text
}

// fetch takes messages without acknowledging them.
func (h *teamHouse) fetch(t *testing.T, stream, team string, n int) []jetstream.Msg {
	t.Helper()
	c, err := h.js.Consumer(t.Context(), stream, team)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var all []jetstream.Msg
	for msg := range batch.Messages() {
		all = append(all, msg)
	}
	if len(all) != n {
		t.Fatalf("%d messages, want %d", len(all), n)
	}
	return all
}

func acknowledge(t *testing.T, msgs ...jetstream.Msg) {
	t.Helper()
	for _, msg := range msgs {
		if err := msg.DoubleAck(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestWhere(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	ml := newTeam("ml", "batch.done")
	ml.MaxDeliver, ml.MaxAckPending, ml.BackOff = 5, 100, []time.Duration{time.Minute}
	h.relay(t, ProvisionCreate, ml, newTeam("billing", "model.*"))
	h.append(t, "batch.done", "1", "2")
	h.append(t, "model.deprecated", "3")
	h.append(t, "batch.done", "4", "5", "6")
	expect := func(what string, want []string, events ...uint64) {
		t.Helper()
		if diff := cmp.Diff(want, h.where(t, "ml", events...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	expect("at the beginning", []string{"pending", "pending", "not_subscribed", "pending"}, 1, 2, 3, 4)

	got := h.fetch(t, "TOGETHER", "ml", 3) // 1, 2 and 4
	expect("after the delivery of three", []string{"waiting", "waiting", "not_subscribed", "waiting", "pending"}, 1, 2, 3, 4, 5)
	acknowledge(t, got[1])
	expect("after one of them was acknowledged", []string{
		"waiting", "delivered, acknowledged or waiting: 2 of 3 there are waiting", "delivered, acknowledged or waiting: 2 of 3 there are waiting", "pending",
	}, 1, 2, 4, 5)
	acknowledge(t, got[0])
	expect("after the next", []string{"acknowledged", "acknowledged", "waiting", "pending"}, 1, 2, 4, 5)

	if err := got[2].Nak(); err != nil {
		t.Fatal(err)
	}
	got = h.fetch(t, "TOGETHER", "ml", 1)
	expect("after another delivery", []string{"acknowledged", "retrying", "pending"}, 2, 4, 5)
	more := h.fetch(t, "TOGETHER", "ml", 2)
	expect("beside others", []string{"waiting", "waiting", "waiting"}, 4, 5, 6) // it may be any of them that is tried again
	acknowledge(t, more[1])
	acknowledge(t, got[0])
	expect("at the end", []string{"acknowledged", "waiting", "acknowledged"}, 1, 5, 2)
	acknowledge(t, more[0])
	expect("after the end", []string{"acknowledged", "acknowledged", "acknowledged"}, 4, 5, 6)

	// Copies have a place of their own.
	for _, replay := range []string{"r1", "r2"} {
		if err := h.log.SendTo(t.Context(), "ml", h.original(t, 4), replay); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.log.SendTo(t.Context(), "ml", h.original(t, 3), "r3"); err != nil {
		t.Fatal(err)
	}
	expect("with copies", []string{"acknowledged; r1 copy 1 pending; r2 copy 2 pending", "acknowledged", "not_subscribed; r3 copy 3 pending"}, 4, 5, 3)
	copies := h.fetch(t, "TOGETHER_REPLAY", "ml", 2)
	acknowledge(t, copies[0])
	expect("when one is taken", []string{"acknowledged; r1 copy 1 acknowledged; r2 copy 2 waiting", "not_subscribed; r3 copy 3 pending"}, 4, 3)

	// A copy that no consumer takes.
	if err := h.log.SendTo(t.Context(), "nobody", h.original(t, 1), "r4"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"not_subscribed; r4 copy 4 pending"}, h.where(t, "nobody", 1)); diff != "" {
		t.Errorf("nobody (-want +got):\n%s", diff)
	}
}

// What a team cannot handle is dead from the moment that the server says so, and has a number once
// the letter is made.
func TestWhereIsWhatDied(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	ml := newTeam("ml", ">")
	ml.MaxDeliver, ml.MaxAckPending, ml.BackOff = 2, 100, []time.Duration{time.Minute}
	h.relay(t, ProvisionCreate, ml)
	h.append(t, "batch.done", "1", "2", "3", "4")
	got := h.fetch(t, "TOGETHER", "ml", 4)
	if err := got[1].TermWithReason("no use"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server has said so", func() bool { return h.state(t, "TOGETHER_ADVISORIES").Msgs == 1 })
	if diff := cmp.Diff([]string{"waiting", "dead 0 ", "waiting", "waiting"}, h.where(t, "ml", 1, 2, 3, 4)); diff != "" {
		t.Errorf("before the letter (-want +got):\n%s", diff)
	}
	acknowledge(t, got[3])
	if diff := cmp.Diff([]string{"waiting", "dead 0 ", "delivered, acknowledged or waiting: 2 of 3 there are waiting"}, h.where(t, "ml", 1, 2, 3)); diff != "" {
		t.Errorf("with an acknowledgement behind it (-want +got):\n%s", diff)
	}

	h.bury(t, "ml", "TOGETHER", 2, 0, "terminated")
	if err := h.log.SendTo(t.Context(), "ml", h.original(t, 2), "dlq-1"); err != nil {
		t.Fatal(err)
	}
	h.bury(t, "ml", "TOGETHER_REPLAY", 2, 1, "max_deliver")
	if diff := cmp.Diff([]string{"waiting", "dead 1 terminated; dlq-1 copy 1 dead 2 max_deliver"}, h.where(t, "ml", 1, 2)); diff != "" {
		t.Errorf("with letters (-want +got):\n%s", diff)
	}
}

// What a consumer could not handle that was deleted since says nothing of the team that was made
// again, and begins with all that is stored.
func TestWhereIsNotWhatDiedBefore(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	keeper := h.relay(t, ProvisionCreate, newTeam("ml", ">"))
	h.append(t, "batch.done", "1", "2")
	got := h.fetch(t, "TOGETHER", "ml", 2)
	for _, msg := range got {
		if err := msg.TermWithReason("no use"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the server has said so", func() bool { return h.state(t, "TOGETHER_ADVISORIES").Msgs == 2 })
	h.bury(t, "ml", "TOGETHER", 1, 0, "terminated")
	if diff := cmp.Diff([]string{"dead 1 terminated", "dead 0 "}, h.where(t, "ml", 1, 2)); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	if err := errors.Join(openReader(t, h.url).RemoveTeam(t.Context(), "ml"), keeper.look(t.Context())); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"pending", "pending"}, h.where(t, "ml", 1, 2)); diff != "" {
		t.Errorf("made again (-want +got):\n%s", diff)
	}
	acknowledge(t, h.fetch(t, "TOGETHER", "ml", 1)...)
	if diff := cmp.Diff([]string{"acknowledged", "pending"}, h.where(t, "ml", 1, 2)); diff != "" {
		t.Errorf("after an acknowledgement (-want +got):\n%s", diff)
	}
	h.bury(t, "ml", "TOGETHER", 2, 0, "terminated")
	if diff := cmp.Diff([]string{"acknowledged", "dead 2 terminated"}, h.where(t, "ml", 1, 2)); diff != "" {
		t.Errorf("with a new letter (-want +got):\n%s", diff)
	}
}

// bury stores a team's dead letter as a relay would.
func (h *teamHouse) bury(t *testing.T, team, stream string, event, copied uint64, reason string) {
	t.Helper()
	msg := nats.NewMsg(fmt.Sprintf("relay.dlq.team.%s.%s", team, reason))
	for name, value := range map[string]string{teamHeader: team, streamHeader: stream, sequenceHeader: fmt.Sprint(event), reasonHeader: reason, detailHeader: "so it is"} {
		msg.Header.Set(name, value)
	}
	if copied > 0 {
		msg.Header.Set(copyHeader, fmt.Sprint(copied))
	}
	if _, err := h.js.PublishMsg(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	h := newTeamHouse(t)
	long := strings.Repeat("ö", 300)
	for i, c := range []struct{ id, typ, resource string }{
		{"é 1%\"", "a", "x"}, {"2", "a.b", "x"}, {"3", "a.b.c.d.e.f.g.h", "x"}, {"4", "a.b", "y"}, {"5", "a.b", long}, {"2", "a.b", "meta/Llama-3.3"},
	} {
		ev := relaytest.NewEvent("together", c.id, `{}`)
		if i == 5 {
			ev.Source = "other"
		}
		ev.Type, ev.Resource = c.typ, c.resource
		if _, err := h.log.Append(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
	}
	// One of another hand, whose attributes are in its data.
	msg := nats.NewMsg("together.a.b.z")
	msg.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	msg.Data = []byte(`{"specversion":"1.0","id":"7","source":"x","type":"a.b"}`)
	if _, err := h.js.PublishMsg(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
	if _, err := h.js.Publish(t.Context(), "together.a.b.nothing", nil); err != nil {
		t.Fatal(err)
	}
	r := openReader(t, h.url)
	type search func(context.Context, string, Search, func(Message) error) error
	found := func(by search, text string, s Search) []uint64 {
		t.Helper()
		var all []uint64
		if err := by(t.Context(), text, s, func(m Message) error { all = append(all, m.Sequence); return nil }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	for _, c := range []struct {
		by   search
		text string
		want []uint64
	}{
		{r.ByResource, "x", []uint64{1, 2, 3}}, {r.ByResource, long, []uint64{5}}, {r.ByResource, "meta/Llama-3.3", []uint64{6}}, {r.ByResource, "2", nil}, {r.ByResource, "*", nil},
		{r.ByID, "é 1%\"", []uint64{1}}, {r.ByID, "2", []uint64{2, 6}}, {r.ByID, "7", []uint64{7}}, {r.ByID, "x", nil}, {r.ByID, "é", nil},
	} {
		if diff := cmp.Diff(c.want, found(c.by, c.text, Search{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.text, diff)
		}
	}
	if got := found(r.ByID, "2", Search{Since: time.Now().Add(time.Hour)}); got != nil {
		t.Errorf("of the future: %v", got)
	}
	calls := 0
	found(r.ByID, "2", Search{Read: func(read, all uint64) {
		if calls++; all != 8 {
			t.Errorf("%d of %d", read, all)
		}
	}})
	if calls == 0 {
		t.Error("nobody was told how far it is")
	}
	if _, ok, err := r.BySequence(t.Context(), 99); ok || err != nil {
		t.Errorf("sequence 99: %v, %v", ok, err)
	}
	if events, first, last, err := r.Held(t.Context()); err != nil || events != 8 || first != 1 || last != 8 {
		t.Errorf("Held = %d, %d, %d, %v", events, first, last, err)
	}
}
