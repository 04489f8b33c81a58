package jetstream

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"together-relay/relay"
)

func TestLedgerKeepsMarks(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	ctx, g := t.Context(), l.Ledger()
	when := time.Date(2026, 7, 1, 9, 0, 0, 1, time.UTC)
	want := map[string]relay.Entry{}
	// Ids that a key cannot hold, and ids that look the same once they are escaped.
	for i, id := range []string{"", "_", "ft-1", "meta-llama/Llama-3.3-70B", "a:b", "a_b", "a=3Ab", "é *>", fmt.Sprintf("%0300d", 1)} {
		mark := relay.Mark{Change: id, Over: i%2 == 0, Told: []string{"fine_tune.created"}, First: when, Waits: i}
		revision, err := g.Save(ctx, "fine_tunes", id, mark, 0)
		if id == "_" {
			if err == nil {
				t.Error("the baseline's key was given to a job")
			}
			continue
		}
		if err != nil {
			t.Fatalf("Save(%q): %v", id, err)
		}
		want[id] = relay.Entry{Mark: mark, Revision: revision}
	}
	mark := want["ft-1"]
	mark.Told = append(mark.Told, "fine_tune.running")
	var err error
	if mark.Revision, err = g.Save(ctx, "fine_tunes", "ft-1", mark.Mark, mark.Revision); err != nil {
		t.Fatal(err)
	}
	want["ft-1"] = mark
	if _, err := g.Save(ctx, "batches", "ft-1", relay.Mark{}, 0); err != nil {
		t.Fatal(err)
	}
	got, err := l.Ledger().Load(ctx, "fine_tunes")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("marks (-want +got):\n%s", diff)
	}
}

func TestLedgerHeedsRevisions(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	a, b := openLog(t, ns.ClientURL(), testConfig()), openLog(t, ns.ClientURL(), testConfig())
	ready(t, a)
	ready(t, b)
	ctx := t.Context()
	first, err := a.Ledger().Save(ctx, "batches", "b1", relay.Mark{Change: "a"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, revision := range []uint64{0, first + 1} {
		if _, err := b.Ledger().Save(ctx, "batches", "b1", relay.Mark{Change: "b"}, revision); err == nil || errors.As(err, new(*relay.NotStored)) {
			t.Errorf("Save over revision %d = %v, want a lost race", revision, err)
		}
	}
	if _, err := b.Ledger().Save(ctx, "batches", "b1", relay.Mark{Change: "b"}, first); err != nil {
		t.Error(err)
	}
}

// The watcher looks at its resources side by side, with one ledger. What this looks for is
// seen by the race detector.
func TestLedgerOfSeveralAtOnce(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	g := l.Ledger()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				if _, err := g.bucket(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestLedgerOutage(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cable := newCable(t, ns.Addr().String())
	l := openLog(t, cable.URL(), testConfig())
	ready(t, l)
	ctx, g := t.Context(), l.Ledger()
	revision, err := g.Save(ctx, "files", "f1", relay.Mark{Change: "a"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	cable.Cut()
	eventually(t, "the connection is lost", func() bool { return !l.Connected() })
	if _, err := g.Save(ctx, "files", "f1", relay.Mark{Change: "b"}, revision); !errors.As(err, new(*relay.NotStored)) {
		t.Errorf("Save while away = %v, want a NotStored", err)
	}
	cable.Mend()
	ready(t, l)
	if _, err := g.Save(ctx, "files", "f1", relay.Mark{Change: "b"}, revision); err != nil {
		t.Error(err)
	}
}

// Whoever removes the bucket wants the watcher to begin anew.
func TestLedgerGoneIsMadeAnew(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	ctx, g := t.Context(), l.Ledger()
	if _, err := g.Save(ctx, "files", "f1", relay.Mark{}, 0); err != nil {
		t.Fatal(err)
	}
	if err := l.js.DeleteKeyValue(ctx, watchBucket(testConfig().Stream)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Load(ctx, "files"); !errors.As(err, new(*relay.NotStored)) {
		t.Errorf("Load from what is gone = %v, want a NotStored", err)
	}
	if marks, err := g.Load(ctx, "files"); err != nil || len(marks) > 0 {
		t.Errorf("Load anew = %v, %v", marks, err)
	}
}

// A relay that may not make streams says what is missing, and does not watch.
func TestLedgerIsNotMadeInCheckMode(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	ready(t, openLog(t, ns.ClientURL(), testConfig()))
	cfg := testConfig()
	cfg.Provision = ProvisionCheck
	l := openLog(t, ns.ClientURL(), cfg)
	ready(t, l)
	if _, err := l.Ledger().Load(t.Context(), "files"); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Errorf("Load = %v, want a missing bucket", err)
	}
}

func TestLedgerRegisters(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cfg := testConfig()
	flushes := 0
	cfg.Flush = func() error { flushes++; return nil }
	l := openLog(t, ns.ClientURL(), cfg)
	ready(t, l)
	ctx, g := t.Context(), l.Ledger()
	if marks, err := g.Peek(ctx, "queue_jobs"); err != nil || len(marks) > 0 {
		t.Error(marks, err)
	}
	if _, err := l.js.KeyValue(ctx, watchBucket(cfg.Stream)); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Errorf("looking made a bucket: %v", err)
	}
	register := func(want bool) relay.Entry {
		t.Helper()
		before := flushes
		if added, err := g.Register(ctx, "queue_jobs", "acme/pipeline#req-1"); err != nil || added != want || flushes == before {
			t.Fatalf("added %t, want %t, %d flushes, %v", added, want, flushes-before, err)
		}
		marks, err := g.Load(ctx, "queue_jobs")
		if err != nil || len(marks) != 1 {
			t.Fatal(marks, err)
		}
		return marks["acme/pipeline#req-1"]
	}
	e := register(true)
	if marks, err := g.Peek(ctx, "queue_jobs"); err != nil || len(marks) != 1 {
		t.Error(marks, err)
	}
	if e.Over || e.First.IsZero() {
		t.Errorf("%+v", e)
	}
	register(false)
	e.Over, e.Gone = true, time.Now()
	if _, err := g.Save(ctx, "queue_jobs", "acme/pipeline#req-1", e.Mark, e.Revision); err != nil {
		t.Fatal(err)
	}
	if e = register(true); e.Over || !e.Gone.IsZero() {
		t.Errorf("registered anew: %+v", e)
	}

	// Whoever looks at it meanwhile does not bring it back.
	if err := g.Forget(ctx, "queue_jobs", "acme/pipeline#req-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Save(ctx, "queue_jobs", "acme/pipeline#req-1", e.Mark, e.Revision); err == nil {
		t.Error("a mark that was removed is back")
	}
	if marks, err := g.Load(ctx, "queue_jobs"); err != nil || len(marks) > 0 {
		t.Error(marks, err)
	}
	register(true)
	if _, err := g.Register(ctx, "queue_jobs", ""); err == nil {
		t.Error("the baseline was registered")
	}
}
