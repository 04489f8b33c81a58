package natsd

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// An act is something that no team may do. It works for the operator, or else it would prove
// nothing that it does not work for a team.
type act struct {
	name   string
	do     func(testing.TB, *player)
	own    bool // what it does to the team's own consumers is allowed
	nobody bool // it does not work for the operator either
}

// acts are tried with the names of the stage.
func (s *stage) acts() []act {
	own, other := s.events+"."+s.team.name, s.events+"."+s.other.name
	ask := func(name, subject, data string, header ...string) act {
		return act{name: name, do: func(t testing.TB, p *player) { p.send(t, subject, p.inbox, data, header...) }}
	}
	hear := func(subject string) act {
		return act{name: "hear " + subject, do: func(t testing.TB, p *player) {
			p.hear(t, subject)
			p.life(t)
		}}
	}
	const api = "$JS.API."
	durable := func(name string) string {
		return fmt.Sprintf(`{"stream_name":%q,"config":{"durable_name":%q,"ack_policy":"explicit","filter_subject":"together.>","max_deliver":7}}`, s.events, name)
	}
	acts := []act{
		// What others' consumers are, and what they get.
		ask("state of another team", api+"CONSUMER.INFO."+other, ""),
		ask("state of another team's copies", api+"CONSUMER.INFO."+s.copies+"."+s.other.name, ""),
		ask("next of another team", api+"CONSUMER.MSG.NEXT."+other, "1"),
		ask("next of another team's copies", api+"CONSUMER.MSG.NEXT."+s.copies+"."+s.other.name, "1"),
		{name: "next of another team, by the imported name", nobody: true, do: ask("", imported(api+"CONSUMER.MSG.NEXT."+other), "1").do},
		ask("names of consumers", api+"CONSUMER.NAMES."+s.events, ""),
		ask("list of consumers", api+"CONSUMER.LIST."+s.events, ""),

		// To change consumers, its own too.
		ask("make a consumer", api+"CONSUMER.CREATE."+s.events+".thief", durable("thief")),
		ask("make a consumer that is gone soon", api+"CONSUMER.CREATE."+s.events, fmt.Sprintf(`{"stream_name":%q,"config":{"ack_policy":"none"}}`, s.events)),
		ask("make a durable consumer", api+"CONSUMER.DURABLE.CREATE."+s.events+".thief", durable("thief")),
		ask("make a consumer of another team's copies", api+"CONSUMER.CREATE."+s.copies+".thief", strings.ReplaceAll(strings.ReplaceAll(durable("thief"), s.events, s.copies), "together.>", "relay.replay.>")),
		ask("widen its own consumer", api+"CONSUMER.CREATE."+own, durable(s.team.name)),
		ask("widen its own consumer, by its filter", api+"CONSUMER.CREATE."+own+".together.>", durable(s.team.name)),
		ask("widen its own consumer, the old way", api+"CONSUMER.DURABLE.CREATE."+own, durable(s.team.name)),
		ask("delete its own consumer", api+"CONSUMER.DELETE."+own, ""),
		ask("delete another consumer", api+"CONSUMER.DELETE."+other, ""),
		ask("pause its own consumer", api+"CONSUMER.PAUSE."+own, `{"pause_until":"2200-01-01T00:00:00Z"}`),
		ask("pause another consumer", api+"CONSUMER.PAUSE."+other, `{"pause_until":"2200-01-01T00:00:00Z"}`),
		ask("reset its own consumer", api+"CONSUMER.RESET."+own, ""),
		ask("reset another consumer", api+"CONSUMER.RESET."+other, ""),
		ask("unpin its own consumer", api+"CONSUMER.UNPIN."+own, `{"group":"g"}`),
		{name: "step down the leader of its own consumer", nobody: true, do: ask("", api+"CONSUMER.LEADER.STEPDOWN."+own, "").do}, // there are none on a single server

		// Streams.
		ask("account", api+"INFO", ""),
		ask("names of streams", api+"STREAM.NAMES", ""),
		ask("list of streams", api+"STREAM.LIST", ""),
		ask("state of the stream", api+"STREAM.INFO."+s.events, ""),
		ask("make a stream", api+"STREAM.CREATE.THIEF", `{"name":"THIEF","subjects":["thief"],"storage":"memory"}`),
		ask("make a stream that copies", api+"STREAM.CREATE.THIEF", fmt.Sprintf(`{"name":"THIEF","storage":"memory","sources":[{"name":%q}]}`, s.events)),
		ask("change the stream", api+"STREAM.UPDATE."+s.events, fmt.Sprintf(`{"name":%q,"subjects":["together.>"],"storage":"memory","allow_direct":true,"max_msgs":1}`, s.events)),
		ask("purge the stream", api+"STREAM.PURGE."+s.events, ""),
		ask("purge its own copies", api+"STREAM.PURGE."+s.copies, `{"filter":"relay.replay.`+s.team.name+`.>"}`),
		ask("delete the stream", api+"STREAM.DELETE."+s.events, ""),
		ask("back up the stream", api+"STREAM.SNAPSHOT."+s.events, `{"deliver_subject":"_INBOX.backup"}`),
		ask("restore a stream", api+"STREAM.RESTORE.THIEF", `{"config":{"name":"THIEF","subjects":["thief"]},"state":{}}`),
		ask("delete a message", api+"STREAM.MSG.DELETE."+s.events, `{"seq":1}`),
		ask("read a message", api+"STREAM.MSG.GET."+s.events, `{"seq":1}`),
		ask("read a message directly", api+"DIRECT.GET."+s.events, `{"seq":1}`),
		ask("read the last message directly", api+"DIRECT.GET."+s.events+".together.batch.done.b1", ""),
		ask("read a dead letter", api+"STREAM.MSG.GET."+s.letters, `{"seq":1}`),
		ask("read a dead letter directly", api+"DIRECT.GET."+s.letters, `{"seq":1}`),
		ask("read another team's copy", api+"DIRECT.GET."+s.copies+".relay.replay."+s.other.name+".together.batch.done.b1", ""),
		ask("read what NATS says of deliveries", api+"STREAM.INFO."+s.reports, ""),
		ask("read the marks", api+"STREAM.INFO.KV_"+bucket, ""),

		// To publish.
		ask("forge an event", "together.batch.done.forged", "forged"),
		ask("forge an event that is known", "together.batch.done.forged", "forged", "Nats-Msg-Id", "together:forged"),
		ask("forge a copy for itself", "relay.replay."+s.team.name+".together.batch.done.forged", "forged"),
		ask("forge a copy for another team", "relay.replay."+s.other.name+".together.batch.done.forged", "forged"),
		ask("forge a dead letter", "relay.dlq.team."+s.team.name+".terminated", "forged"),
		ask("forge what NATS says of deliveries", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED."+s.events+"."+s.other.name, "{}"),
		ask("forge a mark", "$KV."+bucket+".mark", "forged"),
		ask("ask who it is", "$SYS.REQ.USER.INFO", ""),
		ask("ask for the account's connections", "$SYS.REQ.ACCOUNT.PING.CONNZ", "{}"),
		{name: "ask for the server", nobody: true, do: ask("", "$SYS.REQ.SERVER.PING", "").do},
		{name: "kick a connection", nobody: true, do: ask("", "$SYS.REQ.SERVER.PING.KICK", `{"cid":1}`).do},

		// To acknowledge what another team has to.
		s.ackOfAnother("+ACK"), s.ackOfAnother("-NAK"), s.ackOfAnother("+TERM"), s.ackOfAnother("+NXT"),
		// A short form of the second kind of acknowledgement is one of the first kind, too.
		ask("next of another team, by an acknowledgement of its own", "$JS.ACK."+other+"."+own+".1.1.1", "+NXT"),
		{name: "next of another team, by a longer one", nobody: true, do: ask("", "$JS.ACK."+other+"."+own+".1.1.1.1", "+NXT").do},

		// To hear what is not for it.
		hear("together.>"), hear(">"), hear("relay.>"), hear("*.>"), hear("$JS.>"), hear("$JS.API.>"), hear("$JS.ACK.>"), hear("$JS.EVENT.>"),
		hear("_INBOX.>"), hear("_INBOX.*"),
		{name: "hear $SYS", nobody: true, do: hear("$SYS.>").do},
		{name: "hear the ways back", nobody: true, do: hear("_R_.>").do},
		{name: "hear the relay's inbox", do: func(t testing.TB, p *player) {
			p.hear(t, "_INBOX_relay.>")
			nc := connect(t, p.url, append(p.operator.options(), nats.CustomInboxPrefix("_INBOX_relay"))...)
			if _, err := nc.Request(api+"STREAM.INFO."+p.events, nil, waitFor); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "talk into another team's inbox", do: func(t testing.TB, p *player) {
			victim := p.enter(t, p.other, p.js)
			if p.nc.Opts.User != p.team.name {
				victim = p.enter(t, p.operator, p.js) // accounts part the operator from teams as well
			}
			p.send(t, victim.inbox, "", "forged")
			p.overhear(victim)
		}},
	}

	// Requests that are allowed, with an answer that goes where the team may not publish.
	nowhere := []string{
		"together.batch.done.forged", "relay.dlq.team." + s.team.name + ".x", "relay.replay." + s.other.name + ".x", api + "STREAM.PURGE." + s.events,
		api + "CONSUMER.DELETE." + other, "$KV." + bucket + ".mark", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED." + s.events + "." + s.other.name,
	}
	for _, reply := range nowhere {
		for request, data := range map[string]string{
			api + "CONSUMER.INFO." + own: "", api + "CONSUMER.MSG.NEXT." + own: "1", imported(api + "CONSUMER.INFO." + own): "",
		} {
			acts = append(acts, act{name: "answer of " + request + " to " + reply, own: true, nobody: strings.HasPrefix(request, "TEAM") || strings.HasPrefix(reply, api),
				do: func(t testing.TB, p *player) { p.send(t, request, reply, data) }})
		}
		acts = append(acts, act{name: "answer of +NXT to " + reply, own: true, nobody: strings.HasPrefix(reply, api), do: func(t testing.TB, p *player) {
			p.send(t, p.ackSubject(t, p.team), reply, "+NXT")
		}})
	}
	for request, data := range map[string]string{api + "CONSUMER.INFO." + own: "", api + "CONSUMER.MSG.NEXT." + own: `{"batch":1,"no_wait":true}`} {
		acts = append(acts,
			act{name: "answer of " + request + " as another team's acknowledgement", own: true, nobody: true, do: func(t testing.TB, p *player) {
				p.send(t, request, p.ackSubject(t, p.other), data)
			}},
			act{name: "answer of " + request + " on a way back", own: true, nobody: true, do: func(t testing.TB, p *player) {
				p.send(t, request, "_R_.ABCDEF.ABCDEF", data)
			}})
	}
	trace := []string{"Nats-Trace-Dest", "together.batch.done.trace"}
	acts = append(acts,
		act{name: "trace a request", own: true, do: func(t testing.TB, p *player) { p.send(t, api+"CONSUMER.INFO."+own, p.nc.NewInbox(), "", trace...) }},
		act{name: "trace a request only", own: true, do: func(t testing.TB, p *player) {
			p.send(t, api+"CONSUMER.INFO."+own, p.nc.NewInbox(), "", append(trace, "Nats-Trace-Only", "true")...)
		}},
		act{name: "trace an acknowledgement", own: true, do: func(t testing.TB, p *player) { p.send(t, p.ackSubject(t, p.team), "", "+WPI", trace...) }},
		act{name: "pose as another account", own: true, nobody: true, do: func(t testing.TB, p *player) {
			p.send(t, api+"CONSUMER.INFO."+own, p.nc.NewInbox(), "", "Nats-Request-Info", `{"acc":"$G","svc":"$G","user":"`+s.operator.name+`"}`)
		}},
	)
	return acts
}

// ackOfAnother acknowledges a message that another team has taken.
func (s *stage) ackOfAnother(with string) act {
	return act{name: with + " of another team", do: func(t testing.TB, p *player) { p.send(t, p.ackSubject(t, p.other), p.inbox, with) }}
}

// ackSubject is that of a message that the user has taken.
func (p *player) ackSubject(t testing.TB, u user) string {
	t.Helper()
	c, err := p.js.Consumer(t.Context(), p.events, u.name)
	if err != nil {
		t.Fatal(err)
	}
	at := c.CachedInfo().Delivered
	return fmt.Sprintf("$JS.ACK.%s.%s.1.%d.%d.1790000000000000000.0", p.events, u.name, at.Stream, at.Consumer)
}

// life goes on: an event is stored, and the other team and the operator take one and acknowledge it.
func (p *player) life(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitFor)
	defer cancel()
	for _, subject := range []string{"together.batch.done.b2", "relay.dlq.ingest.together.json"} {
		if _, err := p.js.Publish(ctx, subject, []byte("life")); err != nil {
			t.Fatal(err)
		}
	}
	takeOne(t, p.stage, p.other, p.other.name)
	takeOne(t, p.stage, p.operator, p.other.name)
	p.settle(t)
}

func takeOne(t testing.TB, s *stage, u user, consumer string) {
	t.Helper()
	js, err := jetstream.New(connect(t, s.url, u.options()...))
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(t.Context(), s.events, consumer)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := c.Next(jetstream.FetchMaxWait(waitFor))
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// overhear counts what the other hears as heard by the player.
func (p *player) overhear(other *player) {
	other.waitNews(100 * time.Millisecond)
	other.mu.Lock()
	defer other.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = append(p.heard, other.heard...)
}

// tryForbidden tries each act as the team: nothing is heard, nothing changes.
func (s *stage) tryForbidden(t *testing.T) { s.try(t, s.acts()) }

func (s *stage) try(t *testing.T, acts []act) {
	js := s.js(t)
	s.build(t, js)
	for _, a := range acts {
		t.Run(a.name, func(t *testing.T) {
			s.build(t, js)
			p := s.enter(t, s.team, js)
			before := s.look(t, js)
			a.do(t, p)
			if !strings.HasPrefix(a.name, "hear ") {
				p.sentinel(t, a.own)
			}
			if words := p.words(); len(words) > 0 {
				t.Errorf("the team hears\n%s", strings.Join(words, "\n"))
			}
			if diff := s.changes(before, s.look(t, js), a); diff != "" {
				t.Errorf("the team changed\n%s", diff)
			}
		})
	}
}

// changes are those that the act may not bring about: others than that life goes on, if it does.
func (s *stage) changes(before, after string, a act) string {
	var all []string
	for line := range strings.Lines(difference(before, after)) {
		name := strings.Fields(line)[1]
		if a.own && (name == s.events+"/"+s.team.name || name == s.copies+"/"+s.team.name) || strings.HasPrefix(a.name, "hear ") {
			continue
		}
		all = append(all, line)
	}
	return strings.Join(all, "")
}

// sentinel asks for what the team may have, and takes an event if it may. Its requests are answered
// after all that came before.
func (p *player) sentinel(t testing.TB, take bool) {
	t.Helper()
	subjects := []string{"$JS.API.CONSUMER.INFO."}
	if take {
		subjects = append(subjects, "$JS.API.CONSUMER.MSG.NEXT.")
	}
	for _, subject := range subjects {
		if _, err := p.nc.Request(subject+p.events+"."+p.team.name, []byte(`{"batch":1,"no_wait":true}`), waitFor); err != nil {
			t.Fatalf("the team may not even take its own: %v", err)
		}
	}
}

// tryAsOperator does each act as the operator, for whom it works.
func (s *stage) tryAsOperator(t *testing.T) {
	js := s.js(t)
	for _, a := range s.acts() {
		if a.nobody {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			s.clear(t, js)
			s.build(t, js)
			p := s.enter(t, s.operator, js)
			before := s.look(t, js)
			a.do(t, p)
			for end := time.Now().Add(waitFor); len(p.words()) == 0; p.waitNews(10 * time.Millisecond) {
				if s.changes(before, s.look(t, js), a) != "" {
					return
				}
				if time.Now().After(end) {
					t.Fatal("it does nothing: that it does not work for a team proves nothing")
				}
			}
		})
	}
}

// clear deletes all streams.
func (s *stage) clear(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	names := js.StreamNames(t.Context())
	for name := range names.Name() {
		if err := js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := names.Err(); err != nil {
		t.Fatal(err)
	}
}
