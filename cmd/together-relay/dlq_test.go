package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// give takes the team's next event, on a stream, and hands it to do.
func give(t *testing.T, js jetstream.JetStream, stream, team string, do func(jetstream.Msg) error) {
	t.Helper()
	c, err := js.Consumer(t.Context(), stream, team)
	if err != nil {
		t.Fatal(err)
	}
	var msg jetstream.Msg
	for err = nats.ErrNoResponders; errors.Is(err, nats.ErrNoResponders); { // the server tells of a consumer a moment before it serves it
		msg, err = c.Next(jetstream.FetchMaxWait(patience))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := do(msg); err != nil {
		t.Fatal(err)
	}
}

func terminate(why string) func(jetstream.Msg) error {
	return func(msg jetstream.Msg) error { return msg.TermWithReason(why) }
}

// letterLines are those of dlq ls -o json.
func (p *process) letterLines(t *testing.T, args ...string) []letterLine {
	t.Helper()
	r := p.verb(t, append([]string{"dlq", "ls", "-o", "json"}, args...)...)
	if r.code != 0 {
		t.Fatalf("dlq ls: %+v", r)
	}
	var lines []letterLine
	for text := range strings.Lines(r.stdout) {
		var line letterLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return lines
}

// letterNumbers is which letters there are, by their event and team.
func (p *process) letterNumbers(t *testing.T, args ...string) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, line := range p.letterLines(t, args...) {
		count[line.EventID+" "+line.Team+" "+line.Reason]++
	}
	return count
}

func TestDeadLettersOfTeams(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"),
		"teams: {ml: {backoff: [30s], max_deliver: 2, events: ['>']}, billing: {backoff: [30s], events: [batch.done]}}")
	p := launch{env: withSecret, args: []string{"--config=" + file}}.start(t).waitReady(t)
	for _, id := range []string{"b1", "b2", "b3"} {
		p.mustSend(t, newBody(id), http.StatusOK)
	}
	p.mustSend(t, []byte(`{`), http.StatusAccepted)
	js := connect(t, p.login(t))
	p.teamConsumer(t, js, "ml", "is there", there)
	p.teamConsumer(t, js, "billing", "is there", there)

	// The first event is terminated; the second comes as often as it may, and the server says so
	// when the team pulls again.
	give(t, js, "TOGETHER", "ml", terminate("no such batch"))
	for seen := map[string]int{}; seen["b2"] < 2 || seen["b3"] < 1; { // in any order
		give(t, js, "TOGETHER", "ml", func(msg jetstream.Msg) error {
			id := msg.Headers().Get("ce-id")
			if seen[id]++; id == "b2" {
				return msg.Nak()
			}
			return msg.Ack()
		})
	}
	give(t, js, "TOGETHER", "billing", terminate(""))
	ml, err := js.Consumer(t.Context(), "TOGETHER", "ml")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"b1 ml terminated": 1, "b2 ml max_deliver": 1, "b1 billing terminated": 1, "  json": 1}
	eventually(t, "all letters are there", func() bool {
		batch, err := ml.FetchNoWait(1)
		if err == nil {
			for range batch.Messages() {
				t.Error("an event came again")
			}
		}
		return len(p.letterLines(t)) >= 4
	})
	if diff := cmp.Diff(want, p.letterNumbers(t)); diff != "" {
		t.Fatalf("letters (-want +got):\n%s", diff)
	}
	for _, line := range []string{`relay_team_dead_letters_total{reason="terminated",team="billing"} 1`, `relay_team_dead_letters_total{reason="max_deliver",team="ml"} 1`} {
		eventually(t, "the metrics hold "+line, func() bool { // a letter is counted once it is stored
			_, metrics := p.get(t, p.admin+"/metrics")
			return strings.Contains(metrics, line)
		})
	}
	p.waitLine(t, "a line of the letter", func(line map[string]any) bool {
		return line["message"] == "a team could not handle an event; it is a dead letter" && line["team"] == "ml" && line["event_id"] == "b1" && line["detail"] == "no such batch"
	})

	// Chosen by team, by reason and by time; shown whole.
	if diff := cmp.Diff(map[string]int{"b1 ml terminated": 1}, p.letterNumbers(t, "--team=ml", "--reason=terminated")); diff != "" {
		t.Errorf("chosen (-want +got):\n%s", diff)
	}
	if n := len(p.letterLines(t, "--reason=json")) + len(p.letterLines(t, "--since=1h")) + len(p.letterLines(t, "--since=0s")); n != 5 {
		t.Errorf("%d letters of a reason or a time, want 5", n)
	}
	line := p.letterLines(t, "--team=ml", "--reason=max_deliver")[0]
	if line.Attempts != 2 || line.EventSequence != 2 || line.EventSubject != "together.batch.done.b-1" || line.EventType != "ai.together.batch.done" ||
		line.Stream != "TOGETHER" || line.Source != "together" || line.Subject != "relay.dlq.team.ml.max_deliver" || line.Bytes == 0 || line.Received == nil {
		t.Errorf("the letter is %+v", line)
	}
	r := p.verb(t, "dlq", "ls", "--team=ml")
	if !regexp.MustCompile(`(?m)^\d+\t20[^\t]+Z\tteam ml\tterminated\tno such batch\tb1\t1$`).MatchString(r.stdout) {
		t.Errorf("dlq ls: %+v", r)
	}
	r = p.verb(t, "dlq", "show", fmt.Sprint(line.Sequence))
	for _, want := range []string{"team      ml\n", "delivered 2\n", "event     b2\n", "type      ai.together.batch.done\n", "sequence  2\n", "reason    max_deliver\n", `{"batch_id":"b-1"`} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("dlq show lacks %q: %+v", want, r)
		}
	}

	// What was probably not meant is refused.
	for _, args := range [][]string{
		{"retry"}, {"drop"}, {"drop", "--all"}, {"drop", "--team=ml"}, {"retry", "1", "--all"}, {"retry", "--all", "--team=ml"}, {"retry", "--team=M L"}, {"ls", "--since=never"},
	} {
		if r := p.verb(t, append([]string{"dlq"}, args...)...); r.code != exitUsage {
			t.Errorf("dlq %v: %+v", args, r)
		}
	}
	for _, args := range [][]string{{"retry", "--all"}, {"drop", "--reason=terminated"}, {"drop", "1"}} {
		if r := p.verb(t, append(append([]string{"dlq"}, args...), "--dry-run")...); r.code == exitUsage || !strings.Contains(r.stdout, "\twould be ") {
			t.Errorf("dlq %v --dry-run: %+v", args, r)
		}
	}
	if diff := cmp.Diff(want, p.letterNumbers(t)); diff != "" {
		t.Fatalf("letters after all that (-want +got):\n%s", diff)
	}

	// Tried again: to that team alone, and once.
	r = p.verb(t, "dlq", "retry", "--team=ml")
	if r.code != 0 || strings.Count(r.stdout, "\tsent\tteam ml\tb") != 2 {
		t.Fatalf("dlq retry: %+v", r)
	}
	if r := p.verb(t, "dlq", "retry", "--team=ml"); r.code != 0 || r.stdout != "" || !strings.Contains(r.stderr, "no dead letter is like that") {
		t.Errorf("once more: %+v", r)
	}
	give(t, js, "TOGETHER_REPLAY", "ml", func(msg jetstream.Msg) error {
		if msg.Headers().Get("ce-id") != "b1" || !strings.HasPrefix(msg.Headers().Get("ce-replay"), "dlq-") || msg.Headers().Get("Relay-Replayed") != "1" {
			t.Errorf("the copy is %v", msg.Headers())
		}
		return msg.Ack()
	})
	give(t, js, "TOGETHER_REPLAY", "ml", terminate("still no"))
	if n := len(messages(t, p.login(t), "TOGETHER_REPLAY")); n != 2 {
		t.Errorf("%d copies, want 2", n)
	}
	if n := len(messages(t, p.login(t), "TOGETHER")); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
	eventually(t, "the copy is a letter", func() bool { return len(p.letterLines(t, "--team=ml")) == 1 })
	if line := p.letterLines(t, "--team=ml")[0]; line.Stream != "TOGETHER_REPLAY" || line.EventSequence != 2 || line.EventID != "b2" || !strings.HasPrefix(line.Replay, "dlq-") {
		t.Errorf("the letter is %+v", line)
	}

	// Numbers of both kinds, and one that is none: what can be done is done.
	var numbers []string
	for _, line := range p.letterLines(t) {
		numbers = append(numbers, fmt.Sprint(line.Sequence))
	}
	r = p.verb(t, append([]string{"dlq", "retry", "999"}, numbers...)...)
	if r.code != exitFailed || strings.Count(r.stdout, "\tsent\t") != 2 || strings.Count(r.stdout, "\tstays\t") != 2 || !strings.Contains(r.stderr, "2 of 4 dead letters stay") {
		t.Errorf("dlq retry %v: %+v", numbers, r)
	}
	if diff := cmp.Diff(map[string]int{"  json": 1}, p.letterNumbers(t)); diff != "" {
		t.Errorf("letters (-want +got):\n%s", diff)
	}
	eventually(t, "the gauge follows", func() bool {
		_, metrics := p.get(t, p.admin+"/metrics")
		return strings.Contains(metrics, `relay_dead_letters_stored{kind="delivery",reason="",team=""} 1`) && !strings.Contains(metrics, `relay_dead_letters_stored{kind="team"`)
	})
	if r := p.verb(t, "dlq", "drop", "--all", "--yes"); r.code != 0 || strings.Count(r.stdout, "\tdropped\n") != 1 {
		t.Errorf("dlq drop: %+v", r)
	}
}

// A trap carries a relay's connections to NATS, until the relay wants to send a text.
type trap struct {
	net.Listener
	target, text string
	sprung       chan struct{}
	once         sync.Once
	conns        sync.WaitGroup
}

func newTrap(t *testing.T, target, text string) *trap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &trap{Listener: l, target: target, text: text, sprung: make(chan struct{})}
	p.conns.Go(p.serve)
	t.Cleanup(func() { closeQuietly(l); p.conns.Wait() })
	return p
}

func (p *trap) serve() {
	for {
		near, err := p.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			closeQuietly(near)
			continue
		}
		p.conns.Go(func() { defer closeQuietly(near); _, _ = io.Copy(near, far) })
		p.conns.Go(func() { defer closeQuietly(far); p.forth(far, near) })
	}
}

// forth holds the text back, and all that comes after it, until the relay is dead.
func (p *trap) forth(far, near net.Conn) {
	buf := make([]byte, 64<<10)
	for held := false; ; {
		n, err := near.Read(buf)
		if bytes.Contains(buf[:n], []byte(p.text)) {
			held = true
			p.once.Do(func() { close(p.sprung) })
		}
		if !held {
			if _, err := far.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// The relay is killed after the letter is stored, and before NATS knows that the advisory is
// done with; and what happens while no relay runs waits.
func TestDeadLettersOnceWhenTheRelayIsKilled(t *testing.T) {
	t.Parallel()
	ns := runNATS(t, server.Options{})
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "teams: {ml: {backoff: [30s], events: ['>']}}")
	relayAt := func(url string) *process {
		return launch{env: append([]string{"NATS_URL=" + url}, withSecret...), args: []string{"--config=" + file}}.start(t).waitReady(t)
	}
	wire := newTrap(t, ns.Addr().String(), "$JS.ACK.TOGETHER_ADVISORIES.relay.")
	first := relayAt("nats://" + wire.Addr().String())
	for _, id := range []string{"b1", "b2", "b3"} {
		first.mustSend(t, newBody(id), http.StatusOK)
	}
	js := connect(t, ns.ClientURL())
	first.teamConsumer(t, js, "ml", "is there", there)
	var shared jetstream.Consumer
	eventually(t, "the relays' consumer is there", func() (ok bool) {
		c, err := js.Consumer(t.Context(), "TOGETHER_ADVISORIES", "relay")
		shared = c
		return err == nil
	})
	quick := shared.CachedInfo().Config
	quick.AckWait = time.Second // what died is noticed sooner
	if _, err := js.UpdateConsumer(t.Context(), "TOGETHER_ADVISORIES", quick); err != nil {
		t.Fatal(err)
	}

	give(t, js, "TOGETHER", "ml", terminate("one"))
	<-wire.sprung
	first.kill(t)
	if letters := messages(t, ns.ClientURL(), "TOGETHER_DLQ"); len(letters) != 1 {
		t.Fatalf("%d letters when the relay is killed, want 1", len(letters))
	}
	give(t, js, "TOGETHER", "ml", terminate("two"))
	if letters := messages(t, ns.ClientURL(), "TOGETHER_DLQ"); len(letters) != 1 {
		t.Fatalf("%d letters while no relay runs, want 1", len(letters))
	}

	second, third := relayAt(ns.ClientURL()), relayAt(ns.ClientURL())
	give(t, js, "TOGETHER", "ml", terminate("three"))
	eventually(t, "nothing waits", func() bool {
		s, err := js.Stream(t.Context(), "TOGETHER_ADVISORIES")
		return err == nil && s.CachedInfo().State.Msgs == 0 && s.CachedInfo().State.LastSeq == 3
	})
	if diff := cmp.Diff(map[string]int{"b1": 1, "b2": 1, "b3": 1}, ids(t, ns.ClientURL(), "TOGETHER_DLQ")); diff != "" {
		t.Errorf("letters (-want +got):\n%s", diff)
	}
	told := 0
	for _, p := range []*process{first, second, third} {
		told += strings.Count(p.log.String(), "it is a dead letter")
	}
	if told < 2 || told > 3 { // the first one may not have come to say so
		t.Errorf("told of %d letters", told)
	}
}
