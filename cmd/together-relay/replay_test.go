package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	adapter "together-relay/adapters/jetstream"
)

// replayRelay is a relay with two teams and n events, all taken by the first of them.
func replayRelay(t *testing.T, n int) (p *process, file string) {
	t.Helper()
	file = writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "teams: {ml: {backoff: [30s], events: [batch.done]}, billing: {backoff: [30s], events: ['>']}}")
	p = launch{env: withSecret, args: []string{"--config=" + file, fmt.Sprintf("--nats-listen=127.0.0.1:%d", fixedPort(t))}}.start(t).waitReady(t)
	js := connect(t, p.login(t))
	ml := p.teamConsumer(t, js, "ml", "is there", there)
	eventually(t, "the consumers of copies are there", func() bool {
		_, err := js.Consumer(t.Context(), "TOGETHER_REPLAY", "ml")
		return err == nil
	})
	for i := range n {
		if a := p.mustSend(t, newBody(fmt.Sprint("evt_", i+1)), 200); a.Sequence != uint64(i+1) {
			t.Fatalf("event %d: %+v", i+1, a)
		}
	}
	if got := drain(t, ml); len(got) != n {
		t.Fatalf("the team has %d events", len(got))
	}
	return p, file
}

// copied lists the originals of the copies for a team.
func (p *process) copied(t *testing.T, team string) (originals []string, all []*jetstream.RawStreamMsg) {
	t.Helper()
	for _, msg := range messages(t, p.login(t), "TOGETHER_REPLAY") {
		if strings.HasPrefix(msg.Subject, "relay.replay."+team+".") {
			originals, all = append(originals, msg.Header.Get("Relay-Replayed")), append(all, msg)
		}
	}
	return originals, all
}

func numbers(from, to int) []string {
	var all []string
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

// theReplay is the one that replay ls shows.
func (p *process) theReplay(t *testing.T) replayLine {
	t.Helper()
	r := p.verb(t, "replay", "ls", "-o", "json")
	var line replayLine
	if err := json.Unmarshal([]byte(r.stdout), &line); err != nil || r.code != 0 {
		t.Fatalf("replay ls: %+v, %v", r, err)
	}
	return line
}

// A replay that is killed anywhere, and taken up again, brings each event once.
func TestReplayIsKilled(t *testing.T) {
	t.Parallel()
	const n = 120
	p, _ := replayRelay(t, n)
	js := connect(t, p.login(t))
	before, err := js.Stream(t.Context(), "TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	last := before.CachedInfo().State.LastSeq

	args := []string{"replay", "--team=ml", "--all", "--rate=60"}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGKILL, syscall.SIGINT} {
		cmd, stdout, stderr := p.newVerb(t, args...)
		goal := 0
		if s, err := js.Stream(t.Context(), "TOGETHER_REPLAY"); err == nil {
			goal = int(s.CachedInfo().State.Msgs) + 20
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "some are copied", func() bool {
			s, err := js.Stream(t.Context(), "TOGETHER_REPLAY")
			return err == nil && int(s.CachedInfo().State.Msgs) >= goal
		})
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		line := p.theReplay(t)
		if signal == syscall.SIGINT && (cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(stderr.String(), "interrupted with ") ||
			!strings.Contains(stderr.String(), "replay --resume "+line.ID+" goes on") || !strings.Contains(stdout.String(), line.ID+"\tinterrupted\t")) {
			t.Errorf("Ctrl-C: %s\n%s%s", cmd.ProcessState, stdout, stderr)
		}
		if !strings.Contains(stderr.String(), "together-relay: replay "+line.ID+": ") {
			t.Errorf("it said %s", stderr)
		}
		args = []string{"replay", "--resume=" + line.ID, "--rate=60"}
	}
	if r := p.verb(t, "replay", "--team=ml", "--all"); r.code != exitFailed || !strings.Contains(r.stderr, "is not done; go on with replay --resume ") {
		t.Errorf("a second one beside it: %+v", r)
	}
	r := p.verb(t, append(args, "-o", "json")...)
	var line replayLine
	if err := json.Unmarshal([]byte(r.stdout), &line); err != nil || r.code != 0 || line.State != "done" || line.Copied != n || line.Total != n {
		t.Errorf("the last part: %+v, %v", r, err)
	}
	originals, copies := p.copied(t, "ml")
	if diff := cmp.Diff(numbers(1, n), originals); diff != "" {
		t.Errorf("copies (-want +got):\n%s", diff)
	}
	stored := messages(t, p.login(t), "TOGETHER")
	for i, msg := range copies[:min(len(copies), len(stored))] {
		if !bytes.Equal(msg.Data, stored[i].Data) || msg.Header.Get("ce-replay") != line.ID || msg.Header.Get("ce-id") != stored[i].Header.Get("ce-id") {
			t.Errorf("copy %d is %+v", i+1, msg)
		}
	}
	if r := p.verb(t, args...); r.code != 0 || !strings.Contains(r.stdout, "\tdone\t") {
		t.Errorf("once more: %+v", r)
	}

	if line := p.teamLines(t)["ml"]; line.Replay.Pending != n || line.Replay.InFlight != 0 || p.teamLines(t)["billing"].Replay.Pending != 0 {
		t.Errorf("the team is at %+v", line)
	}
	taking := time.Now()

	// The team gets them all, nobody else does, and its place among the events is where it was.
	c, err := js.Consumer(t.Context(), "TOGETHER_REPLAY", "ml")
	if err != nil {
		t.Fatal(err)
	}
	if got := drain(t, c); len(got) != n {
		t.Errorf("the team got %d copies", len(got))
	}
	if others, _ := p.copied(t, "billing"); len(others) > 0 {
		t.Errorf("another team has copies of %v", others)
	}
	if info, err := before.Info(t.Context()); err != nil || info.State.LastSeq != last {
		t.Errorf("the stream of events was written to: %+v, %v", info, err)
	}
	if line := p.teamLines(t)["ml"]; line.Pending != 0 || line.InFlight != 0 || line.Acknowledged.Sequence != n ||
		line.Replay.Pending != 0 || line.LastTaken == nil || line.LastTaken.Before(taking.Add(-time.Second)) {
		t.Errorf("the team is at %+v", line)
	}
	eventually(t, "the replay is taken", func() bool { line := p.theReplay(t); return line.Delivered == "all" && line.Acknowledged == "all" })
}

// The relay whose server holds it all is killed beneath a replay, which waits and goes on.
func TestReplayOutlastsTheServer(t *testing.T) {
	t.Parallel()
	const n = 100
	p, file := replayRelay(t, n)
	cmd, stdout, stderr := p.newVerb(t, "replay", "--team=ml", "--all", "--rate=50", "--config="+file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	js := connect(t, p.login(t))
	eventually(t, "some are copied", func() bool {
		s, err := js.Stream(t.Context(), "TOGETHER_REPLAY")
		return err == nil && s.CachedInfo().State.Msgs >= 20
	})
	p.kill(t)
	eventually(t, "it says that it waits", func() bool { return strings.Contains(stderr.String(), "and waiting: ") })
	listen := strings.TrimPrefix(p.nats, "nats://")
	p = launch{dir: p.dir, env: withSecret, args: []string{"--config=" + file, "--nats-listen=" + listen}}.start(t).waitReady(t)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s%s", err, stdout, stderr)
	}
	if !strings.Contains(stderr.String(), "it goes on") || !strings.Contains(stdout.String(), "\tdone\t100 of 100 events copied to ml") {
		t.Errorf("it said\n%s%s", stdout, stderr)
	}
	originals, _ := p.copied(t, "ml")
	if diff := cmp.Diff(numbers(1, n), originals); diff != "" {
		t.Errorf("copies (-want +got):\n%s", diff)
	}
}

// With a NATS server of its own, no relay need run.
func TestReplayNeedsNoRelay(t *testing.T) {
	t.Parallel()
	ns := runNATS(t, server.Options{})
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "teams: {ml: {backoff: [30s], events: [batch.done]}}")
	p := launch{env: append([]string{"NATS_URL=" + ns.ClientURL()}, withSecret...), args: []string{"--config=" + file}}.start(t).waitReady(t)
	js := connect(t, ns.ClientURL())
	for i := range 3 {
		p.mustSend(t, newBody(fmt.Sprint("evt_", i+1)), 200)
	}
	eventually(t, "the consumer of copies is there", func() bool {
		_, err := js.Consumer(t.Context(), "TOGETHER_REPLAY", "ml")
		return err == nil
	})
	p.stop(t)
	if r := p.verb(t, "replay", "--team=ml", "--from-seq=2", "--rate=0"); r.code != 0 || !strings.Contains(r.stdout, "\tdone\t2 of 2 events copied to ml") || !strings.Contains(r.stderr, "as fast as it goes") {
		t.Errorf("replay: %+v", r)
	}
	c, err := js.Consumer(t.Context(), "TOGETHER_REPLAY", "ml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"evt_2": 1, "evt_3": 1}, drain(t, c)); diff != "" {
		t.Errorf("the team got (-want +got):\n%s", diff)
	}
	if found := p.whereabouts(t, "evt_2"); len(found["evt_2"]) != 1 || found["evt_2"][0].Copies[0].State != "acknowledged" {
		t.Errorf("where: %+v", found)
	}
}

// However a replay ends in order, it counts as interrupted at once, and goes on from there.
func TestReplayIsInterrupted(t *testing.T) {
	t.Parallel()
	const n = 200
	ns := runNATS(t, server.Options{})
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "teams: {ml: {backoff: [30s], events: [batch.done]}}")
	start := launch{env: append([]string{"NATS_URL=" + ns.ClientURL()}, withSecret...), args: []string{"--config=" + file}}
	p := start.start(t).waitReady(t)
	js := connect(t, ns.ClientURL())
	var consumer jetstream.Consumer
	eventually(t, "the consumer of copies is there", func() (ok bool) {
		var err error
		consumer, err = js.Consumer(t.Context(), "TOGETHER_REPLAY", "ml")
		return err == nil
	})
	for i := range n {
		p.mustSend(t, newBody(fmt.Sprint("evt_", i+1)), 200)
	}
	p.stop(t)
	stream, err := js.Stream(t.Context(), "TOGETHER_REPLAY")
	if err != nil {
		t.Fatal(err)
	}
	room := func(messages int64) {
		t.Helper()
		cfg := stream.CachedInfo().Config
		cfg.MaxMsgs = messages
		if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"replay", "--team=ml", "--all", "--rate=100"}
	for _, c := range []struct {
		name string
		end  func(*exec.Cmd, *output)
		said string
	}{
		{"SIGINT", func(cmd *exec.Cmd, _ *output) { _ = cmd.Process.Signal(syscall.SIGINT) }, "interrupted with "},
		{"SIGTERM", func(cmd *exec.Cmd, _ *output) { _ = cmd.Process.Signal(syscall.SIGTERM) }, "interrupted with "},
		{"an error", func(_ *exec.Cmd, stderr *output) {
			room(1)
			eventually(t, "it waits", func() bool { return strings.Contains(stderr.String(), "and waiting: ") })
			if err := js.DeleteConsumer(t.Context(), "TOGETHER_REPLAY", "ml"); err != nil {
				t.Error(err)
			}
		}, "no consumer of a team"},
	} {
		cmd, _, stderr := p.newVerb(t, args...)
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		goal := info.State.Msgs + 5
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "some are copied", func() bool { info, err := stream.Info(t.Context()); return err == nil && info.State.Msgs >= goal })
		if line := p.theReplay(t); line.State != "running" {
			t.Errorf("%s: before it, it is %+v", c.name, line)
		}
		c.end(cmd, stderr)
		_ = cmd.Wait()
		line := p.theReplay(t)
		if line.State != "interrupted" || cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(stderr.String(), c.said) {
			t.Errorf("%s: it is %+v, %s\n%s", c.name, line, cmd.ProcessState, stderr)
		}
		args = []string{"replay", "--resume=" + line.ID, "--rate=100"}
	}
	room(-1)
	if _, err := js.CreateConsumer(t.Context(), "TOGETHER_REPLAY", consumer.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	if r := p.verb(t, args...); r.code != 0 {
		t.Errorf("replay --resume: %+v", r)
	}
	originals, _ := p.copied(t, "ml")
	if diff := cmp.Diff(numbers(1, n), originals); diff != "" {
		t.Errorf("copies (-want +got):\n%s", diff)
	}
}

func TestReplayIsStoppedFromOutside(t *testing.T) {
	t.Parallel()
	p, _ := replayRelay(t, 60)
	cmd, stdout, stderr := p.newVerb(t, "replay", "--team=billing", "--all", "--rate=5")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is running", func() bool { return strings.Contains(p.verb(t, "replay", "ls").stdout, "  running  ") })
	id := p.theReplay(t).ID
	stop := p.verb(t, "replay", "stop", id)
	_ = cmd.Wait()
	originals, _ := p.copied(t, "billing")
	want := fmt.Sprintf("%s\tstopped\t%d of 60 ", id, len(originals))
	if stop.code != 0 || stop.stderr != "" || !strings.HasPrefix(stop.stdout, want) || !strings.HasPrefix(stdout.String(), want) {
		t.Errorf("want %s, replay stop: %+v, replay: %s", want, stop, stdout)
	}
	if got := p.theReplay(t); got.State != adapter.ReplayStopped || got.Copied != uint64(len(originals)) {
		t.Errorf("of %d copies replay ls tells %+v", len(originals), got)
	}
	if cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(stderr.String(), "replay "+id+": it was stopped") {
		t.Errorf("%s\n%s%s", cmd.ProcessState, stdout, stderr)
	}
	if r := p.verb(t, "replay", "--resume", id); r.code != exitFailed || !strings.Contains(r.stderr, "was stopped for good") {
		t.Errorf("replay --resume: %+v", r)
	}
}

func sampleReplay(total, copied uint64) adapter.Replay {
	return adapter.Replay{ID: "x", Team: "ml", State: adapter.ReplayOpen, Rate: 100, Total: total, Copied: copied, From: 1, To: total, Last: copied}
}

func TestReplayProgress(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	open := sampleReplay(1000, 0)
	p := newReplayProgress(&said, open)
	for _, step := range []struct {
		copied  uint64
		ago     time.Duration
		trouble string
		skipped uint64
		want    string
	}{
		{100, time.Second, "", 0, ""},
		{200, 4 * time.Second, "", 0, "together-relay: 200 of 1000 copied, 50 a second, last sequence 200, 16s left\n"},
		{200, 0, "full", 0, "together-relay: 200 of 1000 copied, and waiting: full; trying again\n"},
		{200, 0, "full", 0, ""},
		{200, 0, "away", 0, "together-relay: 200 of 1000 copied, and waiting: away; trying again\n"},
		{201, 0, "", 0, "together-relay: it goes on\n"},
		{201, 0, "event 202 is passed over: too large", 1, "together-relay: event 202 is passed over: too large\n"},
		{202, 0, "", 1, ""},
	} {
		said.Reset()
		p.said = time.Now().Add(-step.ago)
		var trouble error
		if step.trouble != "" {
			trouble = fmt.Errorf("%s", step.trouble)
		}
		r := sampleReplay(1000, step.copied)
		r.Skipped = step.skipped
		p.told(r, trouble)
		if diff := cmp.Diff(step.want, said.String()); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", step, diff)
		}
	}
}
