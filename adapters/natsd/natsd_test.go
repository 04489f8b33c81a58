package natsd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startServer runs a server until the test ends, or until it is closed before that.
func startServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := Start(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.ns.Running() {
			closeServer(t, s)
		}
	})
	return s
}

func closeServer(t testing.TB, s *Server) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// local is a configuration that disturbs nobody.
func local(t testing.TB) Config {
	t.Helper()
	return Config{Listen: "127.0.0.1:0", Dir: t.TempDir()}
}

// connect connects a client until the test ends.
func connect(t testing.TB, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(url, append(options, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

// newStream is a stream that keeps what is published to "a".
func newStream(t testing.TB, nc *nats.Conn) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateOrUpdateStream(context.Background(), jetstream.StreamConfig{Name: "S", Subjects: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	return js, stream
}

func publish(t testing.TB, js jetstream.JetStream, text string) {
	t.Helper()
	if _, err := js.Publish(context.Background(), "a", []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestClients(t *testing.T) {
	t.Parallel()
	cfg := local(t)
	cfg.Websocket = "127.0.0.1:0"
	s := startServer(t, cfg)
	for name, nc := range map[string]*nats.Conn{
		"TCP":        connect(t, s.URL()),
		"WebSocket":  connect(t, s.ns.WebsocketURL()),
		"in process": connect(t, s.URL(), s.InProcess()),
		"nowhere":    connect(t, "nats://127.0.0.1:1", s.InProcess()), // it is not dialled
	} {
		js, _ := newStream(t, nc)
		publish(t, js, name)
	}
}

func TestURLIsTheLoopback(t *testing.T) {
	t.Parallel()
	s := startServer(t, local(t))
	if url := s.URL(); url != "nats://"+s.ns.Addr().String() || !strings.HasPrefix(url, "nats://127.0.0.1:") {
		t.Errorf("URL = %s, the server listens on %s", url, s.ns.Addr())
	}
	varz, err := s.ns.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	if varz.Websocket.Port != 0 || varz.HTTPPort != 0 || varz.Cluster.Port != 0 || varz.LeafNode.Port != 0 {
		t.Errorf("there are ports that nobody asked for: %+v", varz)
	}
}

func TestStoreSurvives(t *testing.T) {
	t.Parallel()
	cfg := local(t)
	for i := range 3 {
		s := startServer(t, cfg)
		js, stream := newStream(t, connect(t, s.URL(), s.InProcess()))
		publish(t, js, fmt.Sprint("message ", i))
		for seq := range i + 1 {
			msg, err := stream.GetMsg(context.Background(), uint64(seq+1))
			if err != nil || string(msg.Data) != fmt.Sprint("message ", seq) {
				t.Errorf("start %d: message %d is %+v, %v", i, seq+1, msg, err)
			}
		}
		closeServer(t, s)
	}
}

func TestDataDirectory(t *testing.T) {
	t.Parallel()
	cfg := local(t)
	cfg.Dir = filepath.Join(cfg.Dir, "new", "data")
	s := startServer(t, cfg)
	newStream(t, connect(t, s.URL()))
	for _, path := range []string{".", "lock"} {
		info, err := os.Stat(filepath.Join(cfg.Dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&0o007 != 0 {
			t.Errorf("%s is open to everybody: %v", path, info.Mode())
		}
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, "jetstream", "$G", "streams", "S")); err != nil {
		t.Error(err)
	}
}

func TestDataDirectoryIsHeldByOne(t *testing.T) {
	t.Parallel()
	cfg := local(t)
	first := startServer(t, cfg)
	for range 2 { // the refusal itself takes nothing away
		_, err := Start(cfg, zerolog.Nop())
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), cfg.Dir) || !strings.Contains(err.Error(), "RELAY_DATA_DIR") {
			t.Errorf("a second Start = %v", err)
		}
	}
	if err := first.Healthy(context.Background()); err != nil {
		t.Error(err)
	}
	closeServer(t, first)
	startServer(t, cfg)
}

func TestDataDirectoryThatIsNone(t *testing.T) {
	t.Parallel()
	cfg := local(t)
	file := filepath.Join(cfg.Dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		cfg.Dir = dir
		if _, err := Start(cfg, zerolog.Nop()); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), file) {
			t.Errorf("Start in %s = %v", dir, err)
		}
	}
}

// A failed Start says which setting to change, and leaves the directory free.
func TestTakenPorts(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for setting, take := range map[string]func(*Config){
		"RELAY_NATS_LISTEN":    func(c *Config) { c.Listen = taken },
		"RELAY_NATS_WS_LISTEN": func(c *Config) { c.Websocket = taken },
	} {
		cfg := local(t)
		free := cfg
		take(&cfg)
		_, err := Start(cfg, zerolog.Nop())
		if !errors.Is(err, ErrConfig) || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), setting) || !strings.Contains(err.Error(), taken) {
			t.Errorf("Start = %v", err)
		}
		closeServer(t, startServer(t, free))
	}
}

// What is only noticed while the server starts is an error all the same.
func TestOnePortForTwo(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := local(t)
	free := cfg
	cfg.Listen, cfg.Websocket = l.Addr().String(), l.Addr().String()
	_ = l.Close()
	if _, err := Start(cfg, zerolog.Nop()); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), cfg.Listen) {
		t.Errorf("Start = %v", err)
	}
	closeServer(t, startServer(t, free))
}

func TestAddressesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:no-such-service", "192.0.2.1:0", "nats://127.0.0.1:0"} {
		cfg := local(t)
		cfg.Listen = address
		s, err := Start(cfg, zerolog.Nop())
		if err == nil {
			closeServer(t, s)
		}
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "RELAY_NATS_LISTEN") {
			t.Errorf("Start on %q = %v", address, err)
		}
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sync          string
		always, flush bool
	}{
		{"", !canFlush, canFlush},
		{SyncGroup, !canFlush, canFlush},
		{SyncAlways, true, false},
		{SyncNever, false, false},
	} {
		t.Run(c.sync, func(t *testing.T) {
			t.Parallel()
			cfg := local(t)
			cfg.Sync = c.sync
			s := startServer(t, cfg)
			js, _ := newStream(t, connect(t, s.URL()))
			publish(t, js, "x")
			jsz, err := s.ns.Jsz(&server.JSzOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if jsz.Config.SyncAlways != c.always {
				t.Errorf("sync always = %v, want %v", jsz.Config.SyncAlways, c.always)
			}
			flush := s.Flush()
			if (flush != nil) != c.flush {
				t.Fatalf("there is a Flush: %v, want %v", flush != nil, c.flush)
			}
			if flush != nil && flush() != nil {
				t.Errorf("Flush = %v", flush())
			}
		})
	}
}

func TestHealthy(t *testing.T) {
	t.Parallel()
	cfg := local(t)
	s := startServer(t, cfg)
	newStream(t, connect(t, s.URL()))
	if err := s.Healthy(context.Background()); err != nil {
		t.Errorf("a sound server: %v", err)
	}

	// A stream on disk that the server does not know.
	lost := filepath.Join(cfg.Dir, "jetstream", "$G", "streams", "LOST")
	if err := os.Mkdir(lost, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(context.Background()); err == nil || !strings.Contains(err.Error(), "LOST") {
		t.Errorf("with a stream that was not recovered: %v", err)
	}
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(context.Background()); err != nil {
		t.Errorf("sound again: %v", err)
	}
	closeServer(t, s)
	if err := s.Healthy(context.Background()); err == nil {
		t.Error("a closed server is healthy")
	}
}

func TestUnhealthyAfterAFailedFlush(t *testing.T) {
	t.Parallel()
	s := startServer(t, local(t))
	s.flusher = newFlusher(func() error { return syscall.EIO })
	if err := s.Healthy(context.Background()); err != nil {
		t.Error(err)
	}
	if err := s.Flush()(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Flush = %v", err)
	}
	if err := s.Healthy(context.Background()); !errors.Is(err, syscall.EIO) {
		t.Errorf("Healthy = %v", err)
	}
}

// A page is a log that many write to.
type page struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *page) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

func TestOpenAddressesAreWorthAWarning(t *testing.T) {
	t.Parallel()
	const warning = "others than this machine can reach it"
	for _, c := range []struct {
		listen, websocket string
		warnings          int
	}{
		{"127.0.0.1:0", "", 0},
		{"localhost:0", "127.0.0.1:0", 0},
		{":0", "", 1},
		{"0.0.0.0:0", "", 1},
		{"127.0.0.1:0", ":0", 1},
		{":0", ":0", 2},
	} {
		var log page
		s, err := Start(Config{Listen: c.listen, Websocket: c.websocket, Dir: t.TempDir()}, zerolog.New(&log))
		if err != nil {
			t.Fatal(err)
		}
		closeServer(t, s)
		if n := strings.Count(log.String(), warning); n != c.warnings {
			t.Errorf("%q, %q: %d warnings, want %d", c.listen, c.websocket, n, c.warnings)
		}
	}
}

// Who starts the relay reads the relay's own words, not the server's.
func TestQuietStart(t *testing.T) {
	t.Parallel()
	var log page
	s, err := Start(local(t), zerolog.New(&log).Level(zerolog.InfoLevel))
	if err != nil {
		t.Fatal(err)
	}
	closeServer(t, s)
	if text := log.String(); text != "" {
		t.Errorf("the log says:\n%s", text)
	}
}

func TestCloseEndsTheClients(t *testing.T) {
	t.Parallel()
	s := startServer(t, local(t))
	gone := make(chan struct{})
	connect(t, s.URL(), nats.DisconnectErrHandler(func(*nats.Conn, error) { close(gone) }), nats.ReconnectWait(time.Hour))
	closeServer(t, s)
	<-gone
}
