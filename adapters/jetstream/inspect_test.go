package jetstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"together-relay/relay/relaytest"
)

func TestInspect(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	ready(t, openLog(t, ns.ClientURL(), testConfig()))
	cfg := testConfig()
	cfg.MaxAge = 2 * time.Hour
	seen, err := openReader(t, ns.ClientURL()).Inspect(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !seen.Events.Exists || !seen.Dead.Exists || seen.Events.Window != time.Minute || seen.Events.Replicas != 1 || seen.Events.Memory || seen.Marks.Exists {
		t.Errorf("the streams are seen as %+v", seen)
	}
	if len(seen.Beside) == 0 || !seen.Beside[0].Exists || seen.Beside[0].Name != "TOGETHER_REPLAY" {
		t.Errorf("the streams beside are seen as %+v", seen.Beside)
	}
	if len(seen.Beside) != 2 || len(seen.Drifts) != 3 || seen.Drifts[0].Setting != "max_age" {
		t.Errorf("drifts %v, want max_age of all but the advisories", seen.Drifts)
	}
	if !seen.Hears || !seen.Speaks || seen.Auth || seen.Disabled != "" || seen.Version != server.VERSION {
		t.Errorf("an open server is seen as %+v", seen)
	}
	if !seen.SkewKnown || seen.Skew.Abs() > seen.SkewError+50*time.Millisecond {
		t.Errorf("the clock is seen as %s off, within %s", seen.Skew, seen.SkewError)
	}
	greedy := jetstream.StreamConfig{Name: "GREEDY", Subjects: []string{"together-relay-doctor.>"}}
	if _, err := admin(t, ns.ClientURL()).CreateStream(context.Background(), greedy); err != nil {
		t.Fatal(err)
	}
	if seen, err := openReader(t, ns.ClientURL()).Inspect(context.Background(), cfg); err != nil || !seen.Speaks {
		t.Errorf("beside a stream that takes the probe: %+v, %v", seen, err)
	}
	for name := range admin(t, ns.ClientURL()).StreamNames(context.Background()).Name() {
		if s, err := admin(t, ns.ClientURL()).Stream(context.Background(), name); err != nil || s.CachedInfo().State.Msgs != 0 {
			t.Errorf("stream %s holds something: %v", name, err)
		}
	}
}

func TestARefusedSetUpStoresNothing(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cfg := testConfig()
	no := errors.New("no")
	cfg.Accept = func(_ context.Context, seen Inspection) error {
		if !seen.Events.Exists || !seen.Dead.Exists {
			t.Errorf("asked before the streams were there: %+v", seen)
		}
		return no
	}
	l, err := Open(ns.ClientURL(), Auth{}, cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Run(t.Context()); !errors.Is(err, ErrRefused) || !errors.Is(err, no) {
		t.Errorf("Run = %v, want the refusal", err)
	}
	if _, err := l.Append(t.Context(), relaytest.NewEvent("together", "evt_1", `{}`)); err == nil {
		t.Error("an event was stored all the same")
	}
}

func TestASetUpIsAcceptedOnce(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	cfg := testConfig()
	asked := 0
	cfg.Accept = func(context.Context, Inspection) error { asked++; return nil }
	l := newLog(cfg, zerolog.Nop())
	nc, err := nats.Connect(ns.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := l.use(nc); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := l.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times, want once", asked)
	}
	appendEvent(t, l, "evt_1")
}

func TestInspectWithoutJetStream(t *testing.T) {
	t.Parallel()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { stopServer(ns) })
	if !ns.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server did not start")
	}
	seen, err := openReader(t, ns.ClientURL()).Inspect(context.Background(), testConfig())
	if err != nil || seen.Disabled == "" || seen.Events.Exists {
		t.Errorf("Inspect = %+v, %v, want that JetStream is off", seen, err)
	}
}

func TestInspectSeesWhatAUserMay(t *testing.T) {
	t.Parallel()
	conf, err := server.ProcessConfigFile("testdata/users.conf")
	if err != nil {
		t.Fatal(err)
	}
	conf.Port, conf.StoreDir, conf.NoSigs, conf.NoLog = -1, t.TempDir(), true, true
	ns, err := server.NewServer(conf)
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { stopServer(ns) })
	if !ns.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server did not start")
	}
	for _, test := range []struct {
		user          string
		hears, speaks bool
		account       string
	}{
		{"wide", true, true, "EVENTS"}, {"narrow", false, false, ""}, {"deaf", false, true, "EVENTS"},
	} {
		r, err := OpenReader(ns.ClientURL(), Auth{User: test.user, Password: "x"}, "TOGETHER")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		seen, err := r.Inspect(context.Background(), testConfig())
		if err != nil {
			t.Fatal(err)
		}
		if !seen.Auth || seen.Hears != test.hears || seen.Speaks != test.speaks || seen.Account != test.account {
			t.Errorf("%s: hears %v, speaks %v, account %q, want %+v", test.user, seen.Hears, seen.Speaks, seen.Account, test)
		}
	}
}

func TestMonitor(t *testing.T) {
	t.Parallel()
	ns, err := server.NewServer(&server.Options{ServerName: "n1", Host: "127.0.0.1", Port: -1, HTTPHost: "127.0.0.1", HTTPPort: -1,
		JetStream: true, StoreDir: t.TempDir(), SyncAlways: true, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { stopServer(ns) })
	if !ns.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server did not start")
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	all := Monitor(context.Background(), "http://"+ns.MonitorAddr().String()+"/, "+other.URL+",http://u:hunter2@"+closed.Addr().String())
	if len(all) != 3 {
		t.Fatalf("%d answers, want 3: %+v", len(all), all)
	}
	if m := all[0]; m.Err != nil || m.Server != "n1" || !m.SyncAlways {
		t.Errorf("the server is seen as %+v", m)
	}
	if err := all[1].Err; err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("no NATS server: %v, want the status", err)
	}
	if err := all[2].Err; err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("nobody there: %v, want an error without the password", err)
	}
}
