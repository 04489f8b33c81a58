package jetstream

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"together-relay/relay"
	"together-relay/relay/relaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startServer runs a real server with an empty store, or with the one in dir.
func startServer(t testing.TB, dir string, port int) *server.Server {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	if !ns.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server did not start")
	}
	t.Cleanup(func() { stopServer(ns) })
	return ns
}

func stopServer(ns *server.Server) {
	ns.Shutdown()
	ns.WaitForShutdown()
}

func testConfig() Config {
	return Config{Stream: "TOGETHER", Prefixes: map[string]string{"together": "together", "other": "other"}, Replicas: 1,
		MaxAge: time.Hour, Window: time.Minute, Timeout: 2 * time.Second, Provision: ProvisionCreate, Batches: true}
}

// openLog opens a log and runs it until the test ends. It does not wait for the streams.
func openLog(t testing.TB, url string, cfg Config) *Log {
	t.Helper()
	l := newIdleLog(t, url, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l
}

// newIdleLog opens a log that does not run.
func newIdleLog(t testing.TB, url string, cfg Config) *Log {
	t.Helper()
	l, err := Open(url, Auth{}, cfg, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closed := make(chan struct{})
		l.nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
		l.Close()
		<-closed
	})
	return l
}

// ready waits until the log can store, and has looked at the streams beside.
func ready(t testing.TB, l *Log) {
	t.Helper()
	eventually(t, "the log is ready", func() bool { return l.Ready(context.Background()) == nil && l.besides.Load() })
}

// eventually waits for the condition, which something else brings about.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// client opens a connection for the test, and closes it with it.
func client(t testing.TB, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// admin is a JetStream client of the test's own.
func admin(t testing.TB, url string) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(client(t, url))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func openReader(t testing.TB, url string) *Reader {
	t.Helper()
	r, err := OpenReader(url, Auth{}, "TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func readEvents(t testing.TB, r *Reader, q Query) []Message {
	t.Helper()
	var all []Message
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := r.Events(ctx, q, func(m Message) error {
		if m.Broken != nil {
			t.Error(m.Broken)
		}
		all = append(all, m)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func readLetters(t testing.TB, r *Reader) []Letter {
	t.Helper()
	var all []Letter
	err := r.Letters(context.Background(), LetterQuery{}, func(l Letter) error {
		whole, err := r.Letter(context.Background(), l.Sequence)
		if whole.Size != l.Size {
			t.Errorf("letter %d is said to have %d bytes, and has %d", l.Sequence, l.Size, whole.Size)
		}
		all = append(all, whole)
		return errors.Join(err, l.Broken, whole.Broken)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func appendEvent(t testing.TB, l *Log, id string) relay.Stored {
	t.Helper()
	stored, err := l.Append(context.Background(), relaytest.NewEvent("together", id, `{}`))
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// A cable is a TCP connection to a server that can be cut, or stopped so that bytes wait in it.
type cable struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	cut      bool
	mute     chan struct{} // closed while bytes flow towards the client
	conns    []net.Conn
	wg       sync.WaitGroup
	trap     string        // what cuts the connection, unsent, when the client wants to send it
	trapped  chan struct{} // closed when that has happened
}

func newCable(t testing.TB, target string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{listener: l, target: target, mute: make(chan struct{})}
	close(c.mute)
	c.wg.Go(c.accept)
	t.Cleanup(func() {
		_ = l.Close()
		c.Cut()
		c.Listen()
		c.wg.Wait()
	})
	return c
}

func (c *cable) URL() string { return "nats://" + c.listener.Addr().String() }

func (c *cable) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.target)
		c.mu.Lock()
		if err != nil || c.cut {
			_ = near.Close()
			if err == nil {
				_ = far.Close()
			}
			c.mu.Unlock()
			continue
		}
		c.conns = append(c.conns, near, far)
		c.mu.Unlock()
		c.wg.Go(func() { defer far.Close(); c.forth(far, near) })
		c.wg.Go(func() { defer near.Close(); c.back(near, far) })
	}
}

// forth carries what the client sends, up to what is trapped.
func (c *cable) forth(far, near net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := near.Read(buf)
		c.mu.Lock()
		hit := c.trap != "" && bytes.Contains(buf[:n], []byte(c.trap))
		if hit {
			c.trap = ""
			close(c.trapped)
		}
		c.mu.Unlock()
		if hit {
			c.Cut()
			return
		}
		if _, werr := far.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// Trap cuts the cable at the moment when the client sends the text, and closes the channel.
func (c *cable) Trap(text string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trap, c.trapped = text, make(chan struct{})
	return c.trapped
}

// back carries the server's answers, unless they are muted.
func (c *cable) back(near, far net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := far.Read(buf)
		c.mu.Lock()
		mute := c.mute
		c.mu.Unlock()
		<-mute
		if _, werr := near.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// Cut breaks every connection and refuses new ones until Mend.
func (c *cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

// Mend takes connections again.
func (c *cable) Mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}

// Mute holds the server's answers back; Listen lets them through.
func (c *cable) Mute() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mute = make(chan struct{})
}

// Listen ends Mute.
func (c *cable) Listen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.mute:
	default:
		close(c.mute)
	}
}

// encode is an event as a message of its own.
func encode(subject string, ev relay.Event) (*nats.Msg, error) {
	m := messages.New().(*message)
	return &m.Msg, m.encode(subject, ev)
}
