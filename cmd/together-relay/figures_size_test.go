package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var figuresEvents = flag.Int("measure.events", 1_000_000, "events that TestMeasureSize stores")

// TestMeasureSize says what stored events cost an outside server, all of whose ids are in the
// window: throughput, memory, start and disk. The server does not flush, so that nothing hides
// its own work. An event is one that the relay stored, under another id.
func TestMeasureSize(t *testing.T) {
	if !*figures {
		t.Skip("-measure is not set")
	}
	b := node{store: t.TempDir(), sync: "2m", room: "100GB"}.startBroker(t)
	load := func() float64 { return measureRelay(t, 64, "--nats-url="+b.url).Throughput }
	load() // makes the stream, and an event to copy
	stored := onlyOneEvent(t, b.url)
	started := restart(t, b)
	memory, disk := residentSize(t, b.cmd.Process.Pid), streamBytes(t, b.url)
	var empty, full []float64
	for range 3 {
		empty = append(empty, load())
	}
	onlyOneEvent(t, b.url)

	began := time.Now()
	fillStream(t, b.url, stored, *figuresEvents)
	t.Logf("filled in %s", time.Since(began).Round(time.Second))
	disk = streamBytes(t, b.url) - disk
	started = restart(t, b) - started
	memory = residentSize(t, b.cmd.Process.Pid) - memory
	for range 3 {
		full = append(full, load())
	}
	n := float64(*figuresEvents)
	t.Logf("%d events: %.0f%% of the throughput of an empty stream (%.0f/s, then %.0f/s), %.0f bytes of memory each, %s longer to start, %.0f MB of disk for a million",
		*figuresEvents, 100*best(full)/best(empty), empty, full, memory/n, started.Round(10*time.Millisecond), disk/n)
}

func best(runs []float64) (most float64) {
	for _, r := range runs {
		most = max(most, r)
	}
	return most
}

// onlyOneEvent takes all events from the stream but the last, and returns that. Their ids are
// forgotten when the server starts again.
func onlyOneEvent(t *testing.T, url string) *jetstream.RawStreamMsg {
	t.Helper()
	s, err := connect(t, url).Stream(t.Context(), "TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeKeep(1)); err != nil {
		t.Fatal(err)
	}
	msg, err := s.GetMsg(t.Context(), s.CachedInfo().State.LastSeq)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func fillStream(t *testing.T, url string, stored *jetstream.RawStreamMsg, n int) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { t.Error(err) }))
	if err != nil {
		t.Fatal(err)
	}
	id := stored.Header.Get(nats.MsgIdHdr)
	for i := range n {
		msg := &nats.Msg{Subject: stored.Subject, Data: stored.Data, Header: maps.Clone(stored.Header)}
		number := fmt.Sprintf("-%08d", i)
		msg.Header[nats.MsgIdHdr] = []string{id[:max(0, len(id)-len(number))] + number}
		if _, err := js.PublishMsgAsync(msg, jetstream.WithStallWait(10*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		t.Fatal("the stream did not acknowledge all")
	}
	if t.Failed() {
		t.FailNow()
	}
}

// restart ends the broker in good order and says how long it takes to be healthy again.
func restart(t *testing.T, b *broker) time.Duration {
	t.Helper()
	b.end(t, syscall.SIGTERM)
	began := time.Now()
	b.start(t)
	b.waitHealthy(t)
	return time.Since(began)
}

func streamBytes(t *testing.T, url string) float64 {
	t.Helper()
	s, err := connect(t, url).Stream(t.Context(), "TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	return float64(s.CachedInfo().State.Bytes)
}

// residentSize is the memory that a process holds, in bytes; Linux only.
func residentSize(t *testing.T, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Skip("this machine does not tell a process's memory: ", err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return float64(pages * os.Getpagesize())
}
