package jetstream

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"together-relay/relay"
)

func TestDrift(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		setting string
		change  func(*jetstream.StreamConfig)
		breaks  bool
		fixed   bool // --provision=apply can mend it
	}{
		{"storage", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, true, false},
		{"retention", func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }, true, true},
		{"subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{"together.>"} }, true, true},
		{"subjects", func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "more.>") }, false, true},
		{"discard", func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, false, true},
		{"discard", func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgs = jetstream.DiscardOld, 100 }, true, true},
		{"max_msgs_per_subject", func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgsPerSubject = jetstream.DiscardOld, 1 }, true, true},
		{"max_msgs_per_subject", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }, true, true},
		{"max_msgs_per_subject", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject, c.DiscardNewPerSubject = 1, true }, false, true},
		{"duplicate_window", func(c *jetstream.StreamConfig) { c.Duplicates = time.Second }, true, true},
		{"duplicate_window", func(c *jetstream.StreamConfig) { c.Duplicates = time.Minute * 2 }, false, true},
		{"max_age", func(c *jetstream.StreamConfig) { c.MaxAge = 2 * time.Hour }, false, true},
		{"max_bytes", func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 }, false, true},
		{"allow_direct", func(c *jetstream.StreamConfig) { c.AllowDirect = false }, false, true},
		{"no_ack", func(c *jetstream.StreamConfig) { c.NoAck = true }, true, true},
	} {
		t.Run(c.setting, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			ns := startServer(t, t.TempDir(), -1)
			js := admin(t, ns.ClientURL())
			l := newIdleLog(t, ns.ClientURL(), testConfig()) // one that runs would make the stream again
			eventually(t, "the streams are made", func() bool { return l.Look(ctx) == nil })
			have := l.wanted()[0]
			c.change(&have)
			if err := js.DeleteStream(ctx, "TOGETHER"); err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateStream(ctx, have); err != nil {
				t.Fatal(err)
			}

			var said bytes.Buffer
			found := newLog(testConfig(), zerolog.New(&said))
			if err := found.use(l.nc); err != nil {
				t.Fatal(err)
			}
			err := found.Look(ctx)
			if (err != nil) != c.breaks {
				t.Errorf("Look = %v, breaks a promise: %v", err, c.breaks)
			}
			if c.breaks {
				said.WriteString(err.Error())
			}
			if !strings.Contains(said.String(), c.setting) {
				t.Errorf("nobody said a word of %s: %s", c.setting, said.String())
			}
			if s, err := js.Stream(ctx, "TOGETHER"); err != nil || len(compare(have, s.CachedInfo().Config)) > 0 {
				t.Errorf("the stream was changed: %v", err)
			}

			found.cfg.Provision = ProvisionApply
			if err := found.Look(ctx); (err == nil) != c.fixed {
				t.Fatalf("apply: %v, can mend it: %v", err, c.fixed)
			}
			if s, err := js.Stream(ctx, "TOGETHER"); c.fixed && (err != nil || len(compare(l.wanted()[0], s.CachedInfo().Config)) > 0) {
				t.Errorf("the stream still differs: %v", err)
			}
		})
	}
}

func TestDriftIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	ready(t, openLog(t, ns.ClientURL(), testConfig()))
	var said bytes.Buffer
	cfg := testConfig()
	cfg.MaxAge = 2 * time.Hour
	l := newLog(cfg, zerolog.New(&said))
	if err := l.use(openLog(t, ns.ClientURL(), testConfig()).nc); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := l.Look(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(said.String(), `"stream":"TOGETHER"`); n != 1 || !strings.Contains(said.String(), "2h0m0s") || !strings.Contains(said.String(), "1h0m0s") {
		t.Errorf("%d warnings, want one with both values: %s", n, said.String())
	}
}

// There is room for more consumers than a server allows by itself, unless the account has a limit.
func TestRoomForConsumers(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	js := admin(t, ns.ClientURL())
	ready(t, openLog(t, ns.ClientURL(), testConfig()))
	for _, name := range TeamStreams("TOGETHER") {
		if s, err := js.Stream(t.Context(), name); err != nil || s.CachedInfo().Config.MaxConsumers != maxConsumers {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}

	limited := startServer(t, t.TempDir(), -1)
	if err := limited.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
		MaxMemory: -1, MaxStore: -1, MaxStreams: -1, MaxConsumers: 1,
	}}); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, limited.ClientURL(), testConfig())
	ready(t, l)
	keeper := l.Teams(zerolog.Nop())
	keeper.Set([]relay.Team{newTeam("a", ">"), newTeam("b", ">")})
	if err := keeper.look(t.Context()); err == nil || !strings.Contains(err.Error(), "team b: ") || !strings.Contains(err.Error(), "--max-consumers") {
		t.Errorf("look = %v", err)
	}
	if seen, err := openReader(t, limited.ClientURL()).Teams(t.Context(), nil); err != nil || len(seen) != 1 {
		t.Errorf("seen %+v, %v", seen, err)
	}
}
