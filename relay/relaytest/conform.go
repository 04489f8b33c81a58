package relaytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/google/go-cmp/cmp"

	"together-relay/relay"
)

// A Subject is a log under test, with a way to see what it holds.
type Subject struct {
	relay.Log
	Events  func() []relay.Event
	Letters func() []relay.DeadLetter
	// Away cuts the log off from where it stores; Back ends that and waits until it is.
	Away, Back func()
}

// Conform holds a log to the promises of [relay.Log]. The function open makes an empty
// one for each part; its sources are "together" and "other".
func Conform(t *testing.T, open func(t *testing.T) Subject) {
	ctx := context.Background()
	run := func(name string, part func(t *testing.T, log Subject)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			part(t, open(t))
		})
	}
	run("an event comes back as it was", func(t *testing.T, log Subject) {
		want := NewEvent("together", "evt_1", `{ "n":1.0e2, "n":"\ud800\u00e9", "z" : [ ] }`)
		want.Members = []byte(`{"account":"a"}`)
		want.Head, want.Tail = []byte(`{"data":`), []byte(` ,"id":"evt_1" }`)
		stored, err := log.Append(ctx, want)
		if err != nil || stored.Sequence == 0 || stored.Duplicate || stored.Subject == "" {
			t.Fatalf("Append = %+v, %v", stored, err)
		}
		events := log.Events()
		if len(events) != 1 {
			t.Fatalf("%d events are stored, want 1", len(events))
		}
		if diff := cmp.Diff(flat(want), flat(events[0])); diff != "" {
			t.Errorf("what was stored is not what was appended (-want +got):\n%s", diff)
		}
	})
	run("the same id is stored once", func(t *testing.T, log Subject) {
		first, err := log.Append(ctx, NewEvent("together", "evt_1", `{}`))
		if err != nil {
			t.Fatal(err)
		}
		again, err := log.Append(ctx, NewEvent("together", "evt_1", `{"changed":true}`))
		if err != nil || !again.Duplicate || again.Sequence != first.Sequence {
			t.Errorf("the second time = %+v, %v; want a duplicate of sequence %d", again, err, first.Sequence)
		}
		if n := len(log.Events()); n != 1 {
			t.Errorf("%d events are stored, want 1", n)
		}
	})
	run("ids belong to their source", func(t *testing.T, log Subject) {
		for _, source := range []string{"together", "other"} {
			if stored, err := log.Append(ctx, NewEvent(source, "evt_1", `{}`)); err != nil || stored.Duplicate {
				t.Errorf("Append for %s = %+v, %v", source, stored, err)
			}
		}
	})
	run("of many at once, one is first", func(t *testing.T, log Subject) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		fresh, sequences := 0, map[uint64]bool{}
		for range 32 {
			wg.Go(func() {
				stored, err := log.Append(ctx, NewEvent("together", "evt_1", `{}`))
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				if !stored.Duplicate {
					fresh++
				}
				sequences[stored.Sequence] = true
			})
		}
		wg.Wait()
		if fresh != 1 || len(sequences) != 1 || len(log.Events()) != 1 {
			t.Errorf("%d were first, %d sequences, %d stored; want one of each", fresh, len(sequences), len(log.Events()))
		}
	})
	run("a fact that comes both ways is one event, whichever comes first", func(t *testing.T, log Subject) {
		for i, first := range []string{"webhook", "api"} {
			second := map[string]string{"webhook": "api", "api": "webhook"}[first]
			resource := fmt.Sprint("ft-", i)
			stored, err := log.Append(ctx, Shared(first, "evt_"+first+resource, resource, ""))
			if err != nil || stored.Duplicate {
				t.Fatalf("the first, by %s = %+v, %v", first, stored, err)
			}
			for range 2 {
				again, err := log.Append(ctx, Shared(second, "evt_"+second+resource, resource, ""))
				if err != nil || !again.Duplicate || again.Sequence != stored.Sequence || again.Subject != stored.Subject {
					t.Errorf("the second, by %s = %+v, %v; want a duplicate of %+v", second, again, err, stored)
				}
			}
		}
		if n := len(log.Events()); n != 2 {
			t.Errorf("%d events are stored, want 2", n)
		}
	})
	run("two webhooks of one type for one resource are two events", func(t *testing.T, log Subject) {
		for i := range 3 {
			for range 2 {
				if _, err := log.Append(ctx, Shared("webhook", fmt.Sprint("evt_", i), "ft-1", "")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := len(log.Events()); n != 3 {
			t.Errorf("%d events are stored, want 3", n)
		}
	})
	run("what happens again and again is told apart", func(t *testing.T, log Subject) {
		for i := range 6 {
			ingress := []string{"webhook", "api"}[i%2]
			stored, err := log.Append(ctx, Shared(ingress, fmt.Sprint("evt_", i), "ft-1", fmt.Sprint("step=", i)))
			if err != nil || stored.Duplicate {
				t.Fatalf("Append %d = %+v, %v", i, stored, err)
			}
		}
		for i := range 6 {
			ingress := []string{"api", "webhook"}[i%2]
			stored, err := log.Append(ctx, Shared(ingress, fmt.Sprint("twin_", i), "ft-1", fmt.Sprint("step=", i)))
			if err != nil || !stored.Duplicate || stored.Sequence != uint64(i+1) {
				t.Errorf("the twin of %d = %+v, %v; want a duplicate", i, stored, err)
			}
		}
		if got := log.Events(); len(got) != 6 || got[3].Fact != "step=3" {
			t.Errorf("%d events are stored, want 6: %+v", len(got), got)
		}
	})
	run("a fact that says less is any that it may mean", func(t *testing.T, log Subject) {
		for _, c := range []struct {
			ingress, resource, fact string
			want                    uint64
		}{
			{"webhook", "m-1", "product=dedicated;sunset=none", 1},
			{"api", "m-1", "product=serverless;sunset=none", 2},
			{"api", "m-1", "product=dedicated;sunset=none", 1},
			{"webhook", "m-1", "sunset=none", 2},
			{"webhook", "m-1", "sunset=2026-06-22", 3},
			{"api", "m-1", "product=serverless;sunset=2026-06-22", 3},
			{"api", "m-1", "product=dedicated;sunset=2026-06-22", 3},
			{"api", "m-1", "product=dedicated;sunset=2026-06-30", 4},
		} {
			stored, err := log.Append(ctx, Shared(c.ingress, "evt_"+c.ingress+c.fact, c.resource, c.fact))
			if err != nil || stored.Sequence != c.want {
				t.Errorf("%+v: %+v, %v", c, stored, err)
			}
		}
	})
	run("of many that come both ways at once, one way is first", func(t *testing.T, log Subject) {
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				ingress := []string{"webhook", "api"}[i%2]
				if _, err := log.Append(ctx, Shared(ingress, fmt.Sprint("evt_", i), "ft-1", fmt.Sprint("step=", i/2%4))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		first := map[string]any{}
		for _, ev := range log.Events() {
			ingress := ev.CloudEvent.Extensions()["ingress"]
			if first[ev.Fact] == nil {
				first[ev.Fact] = ingress
			}
			if first[ev.Fact] != ingress {
				t.Errorf("%s is there by webhook and by API", ev.Fact)
			}
		}
		if len(first) != 4 {
			t.Errorf("%d facts are stored, want 4", len(first))
		}
	})
	run("order is kept", func(t *testing.T, log Subject) {
		var last uint64
		for i := range 20 {
			stored, err := log.Append(ctx, NewEvent("together", fmt.Sprint("evt_", i), `{}`))
			if err != nil || stored.Sequence <= last {
				t.Fatalf("Append %d = %+v, %v after sequence %d", i, stored, err, last)
			}
			last = stored.Sequence
		}
	})
	run("the body is on loan", func(t *testing.T, log Subject) {
		body := []byte(`{"data":{"a":1}}`)
		ev := NewEvent("together", "evt_1", "")
		ev.Head, ev.CloudEvent.DataEncoded, ev.Tail = body[:8], body[8:15], body[15:]
		if _, err := log.Append(ctx, ev); err != nil {
			t.Fatal(err)
		}
		letter := NewLetter(body)
		if err := log.Bury(ctx, letter); err != nil {
			t.Fatal(err)
		}
		for i := range body {
			body[i] = 'x'
		}
		if got := log.Events()[0]; string(got.CloudEvent.Data()) != `{"a":1}` || string(got.Head) != `{"data":` {
			t.Errorf("the event changed with the buffer: %s %s", got.Head, got.CloudEvent.Data())
		}
		if got := log.Letters()[0]; bytes.Equal(got.Body, body) {
			t.Error("the dead letter changed with the buffer")
		}
	})
	run("a dead letter comes back as it was, once", func(t *testing.T, log Subject) {
		want := NewLetter([]byte("no JSON \x00\xff\r\n"))
		for range 2 {
			if err := log.Bury(ctx, want); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]relay.DeadLetter{want}, log.Letters()); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
		if n := len(log.Events()); n != 0 {
			t.Errorf("%d events are stored, want none", n)
		}
	})
	run("away is not stored, and a repeat is safe", func(t *testing.T, log Subject) {
		if _, err := log.Append(ctx, NewEvent("together", "evt_0", `{}`)); err != nil {
			t.Fatal(err)
		}
		log.Away()
		_, err := log.Append(ctx, NewEvent("together", "evt_1", `{}`))
		if away, ok := errors.AsType[*relay.NotStored](err); !ok || away.RetryAfter <= 0 {
			t.Errorf("Append while away = %v, want a NotStored with a time to wait", err)
		}
		if err := log.Bury(ctx, NewLetter([]byte("x"))); !errors.As(err, new(*relay.NotStored)) {
			t.Errorf("Bury while away = %v, want a NotStored", err)
		}
		log.Back()
		if stored, err := log.Append(ctx, NewEvent("together", "evt_0", `{}`)); err != nil || !stored.Duplicate {
			t.Errorf("what was stored before = %+v, %v; want a duplicate", stored, err)
		}
		if _, err := log.Append(ctx, NewEvent("together", "evt_1", `{}`)); err != nil {
			t.Error(err)
		}
		if n := len(log.Events()); n != 2 {
			t.Errorf("%d events are stored, want 2", n)
		}
	})
	run("too large is unusable", func(t *testing.T, log Subject) {
		big := append(append([]byte(`{"x":"`), bytes.Repeat([]byte("x"), 2<<20)...), `"}`...)
		_, err := log.Append(ctx, NewEvent("together", "evt_1", string(big)))
		if bad, ok := errors.AsType[*relay.Unusable](err); !ok || bad.Reason != relay.ReasonSize {
			t.Errorf("Append = %v, want Unusable for its size", err)
		}
	})
}

// NewEvent is an event such as a source opens.
func NewEvent(source, id, data string) relay.Event {
	text := event.ApplicationJSON
	resource := "ft-1"
	arrived := types.Timestamp{Time: time.Date(2026, 7, 1, 9, 0, 0, 123456789, time.UTC)}
	return relay.Event{
		Source: source, Type: "fine_tune.completed", Resource: resource,
		CloudEvent: event.Event{DataEncoded: []byte(data), Context: &event.EventContextV1{
			ID: id, Source: *types.ParseURIRef("https://api.together.ai"), Type: "ai.together.fine_tune.completed",
			Subject: &resource, Time: &arrived, DataContentType: &text,
			Extensions: map[string]any{"ingress": "webhook", "recordedtime": arrived},
		}},
	}
}

// Shared is an event of a fact that may come by two ingresses.
func Shared(ingress, id, resource, fact string) relay.Event {
	ev := NewEvent("together", id, `{}`)
	ev.Resource, ev.Shared, ev.Fact = resource, true, fact
	ctx := ev.CloudEvent.Context.AsV1() // a copy
	ctx.Subject, ctx.Extensions["ingress"] = &resource, ingress
	ev.CloudEvent.Context = ctx
	return ev
}

// NewLetter is a dead letter such as the intake buries.
func NewLetter(body []byte) relay.DeadLetter {
	return relay.DeadLetter{Reason: relay.ReasonJSON, Detail: "body is not JSON, near byte 0 of “it”", Delivery: relay.Delivery{
		Source: "together", Body: bytes.Clone(body), Header: map[string]string{"X-Together-Signature": "00ff", "tracestate": `a="b c"`},
		Arrived: time.Date(2026, 7, 1, 9, 0, 0, 123456789, time.UTC),
	}}
}

// flat is what of an event must survive being stored.
func flat(ev relay.Event) map[string]string {
	ctx := ev.CloudEvent.Context.AsV1()
	m := map[string]string{
		"source name": ev.Source, "id": ctx.ID, "source": ctx.Source.String(), "type": ctx.Type, "subject": *ctx.Subject,
		"time": ctx.Time.String(), "datacontenttype": *ctx.DataContentType, "data": string(ev.CloudEvent.Data()),
		"members": string(ev.Members), "head": string(ev.Head), "tail": string(ev.Tail),
	}
	for name, value := range ctx.Extensions {
		m["extension "+name], _ = types.Format(value)
	}
	return m
}
