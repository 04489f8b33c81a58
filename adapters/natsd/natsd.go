// Package natsd is the NATS server inside the relay: JetStream on the local disk, for
// those who do not run a server of their own.
//
// It acknowledges a message that is written, and Flush makes it durable, with one flush for
// all messages that wait at the same moment; where the machine has no such call, each
// message is flushed before it is acknowledged. The server listens on the loopback
// interface unless told otherwise, and holds a lock on its data directory so that no two
// processes ever write to one store.
package natsd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// Config says where the server listens and where it keeps its store.
type Config struct {
	Listen    string // client port, host:port; port 0 picks a free one
	Websocket string // WebSocket port, host:port; empty is none
	Dir       string // data directory; the store lies in its folder jetstream
	Sync      string // one of the Sync constants; empty is SyncGroup

	// With keys all but InProcess wait until SetTeams, which says who may come in; without them
	// everybody may, and do everything.
	Keys    *Keys
	Streams []string // on each of which a team has a consumer of its name
}

// When a message is on disk.
const (
	SyncGroup  = "group"  // when Flush says so: one flush for all who wait; SyncAlways where there is no such call
	SyncAlways = "always" // when it is acknowledged: one flush for each message
	SyncNever  = "never"  // some time after it is acknowledged: to see what flushing costs
)

// ErrConfig marks errors that a different configuration would mend: an address that is
// taken, a data directory that another process holds.
var ErrConfig = errors.New("cannot start the embedded NATS server")

// A Server is a running server. Close ends it.
type Server struct {
	ns       *server.Server
	gate     *gate // nil if everybody is let in
	lock     *flock.Flock
	flusher  *flusher // nil if an acknowledged message needs no flush
	closeDir func() error
	thin     sync.WaitGroup     // keeps teams from having too many subscriptions
	stop     context.CancelFunc // ends that
}

// Start runs a server and blocks until it takes connections. Its streams are recovered
// by then.
func Start(cfg Config, log zerolog.Logger) (*Server, error) {
	lock, err := hold(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock, closeDir: func() error { return nil }}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	if cfg.Keys != nil {
		if s.gate, err = newGate(cfg.Keys, cfg.Streams, log); err != nil {
			return nil, errors.Join(err, lock.Unlock())
		}
	}
	if s.ns, err = start(cfg, s.gate, log); err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	if s.gate != nil {
		s.thin.Go(func() { s.gate.thin(ctx) })
	}
	if cfg.Sync != SyncNever && !syncAlways(cfg.Sync) {
		sync, closeDir, err := flushDir(cfg.Dir)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.flusher, s.closeDir = newFlusher(sync), closeDir
	}
	return s, nil
}

func syncAlways(sync string) bool { return sync == SyncAlways || sync != SyncNever && !canFlush }

// hold makes the directory and locks it for this process.
func hold(dir string) (*flock.Flock, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("%w: data directory: %w", ErrConfig, err)
	}
	lock := flock.New(filepath.Join(dir, "lock"), flock.SetPermissions(0o600))
	switch ok, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("%w: lock data directory %s: %w", ErrConfig, dir, err)
	case !ok:
		return nil, fmt.Errorf("%w: another process holds the data directory %s; stop it, or choose another with --data-dir or RELAY_DATA_DIR", ErrConfig, dir)
	}
	return lock, nil
}

func start(cfg Config, gate *gate, log zerolog.Logger) (*server.Server, error) {
	exposed := func(address string) {
		if gate != nil {
			gate.exposed = append(gate.exposed, address)
			return
		}
		warnExposed(address, log)
	}
	host, port, err := claim("RELAY_NATS_LISTEN", cfg.Listen, exposed)
	if err != nil {
		return nil, err
	}
	o := &server.Options{
		ServerName: "together-relay",
		Host:       host,
		Port:       port,
		JetStream:  true,
		StoreDir:   cfg.Dir,
		SyncAlways: syncAlways(cfg.Sync),
		NoSigs:     true,
		MaxConn:    connectionsFor(mostFiles()),
		// The relay logs its own readiness; a banner would be one more thing to read.
		DisableJetStreamBanner: true,
		// Each team has a consumer, and by default a stream has room for a thousand.
		JetStreamLimits: server.JSLimitOpts{DefaultMaxConsumers: -1},
	}
	if cfg.Websocket != "" {
		o.Websocket.Host, o.Websocket.Port, err = claim("RELAY_NATS_WS_LISTEN", cfg.Websocket, exposed)
		if err != nil {
			return nil, err
		}
		o.Websocket.NoTLS = true
	}
	if gate != nil {
		o.CustomClientAuthentication = gate
	}
	ns, err := server.NewServer(o)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if gate != nil {
		gate.ns = ns
	}
	fatal := make(chan string, 1)
	few := log.Sample(&zerolog.BurstSampler{Burst: 10, Period: time.Second})
	ns.SetLoggerV2(logger{log, few, fatal}, false, false, false)
	ns.Start()
	for range 600 {
		select {
		case text := <-fatal:
			ns.Shutdown()
			ns.WaitForShutdown()
			return nil, fmt.Errorf("%w: %s", ErrConfig, text)
		default:
		}
		if ns.ReadyForConnections(100 * time.Millisecond) {
			return ns, nil
		}
	}
	ns.Shutdown()
	ns.WaitForShutdown()
	return nil, errors.New("the embedded NATS server did not become ready within a minute")
}

// claim parses the address and makes sure that it is free, so that a taken port is a clear
// error and not a line in a log. Port 0 is left to the server: one that was picked here might
// be taken by the time it is used. It tells of an address that others can reach.
func claim(setting, address string, exposed func(string)) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%w: %s: %w", ErrConfig, setting, err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", 0, fmt.Errorf("%w: %s: %w", ErrConfig, setting, err)
	}
	bound, err := netip.ParseAddrPort(l.Addr().String())
	if err := errors.Join(err, l.Close()); err != nil {
		return "", 0, err
	}
	if !bound.Addr().IsLoopback() {
		exposed(address)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	if text == "0" {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(bound.Port()), nil
}

// URL is where clients on this machine reach the server.
func (s *Server) URL() string { return s.ns.ClientURL() }

func warnExposed(address string, log zerolog.Logger) {
	log.Warn().Str("listen", address).Msg("the embedded NATS server asks for no password, and others than this machine can reach it")
}

// InProcess is the connection option for a client in this process. It may do everything.
func (s *Server) InProcess() nats.Option {
	return func(o *nats.Options) error {
		if s.gate != nil {
			o.User, o.Password, o.UserInfo = RelayUser, s.gate.password, nil
		}
		return nats.InProcessServer(s.ns)(o)
	}
}

// SetTeams says who the teams are from now on; nil is whoever has the key of one. It may be called
// at any time. A team that has no key gets one, and so does the operator. Connections of teams that are
// gone are closed, and so are those that were let in without a password once there is a team; nobody
// else notices anything. After an error all is as it was. With no team, and the key of none, everybody
// is let in.
func (s *Server) SetTeams(teams []string) error { return s.gate.set(teams) }

// Look reads the keys again if they have changed: a new password takes the place of the old one,
// and connections that were made with the old one are closed. It also closes those of a team whose requests
// fill the memory. It wants to be called each second, and costs next to nothing.
func (s *Server) Look() error { return s.gate.look() }

// Flush makes every message durable that was acknowledged before the call. It blocks until
// then; many callers share a flush. It is nil if an acknowledged message is durable as it
// is, or is not meant to be.
func (s *Server) Flush() func() error {
	if s.flusher == nil {
		return nil
	}
	return s.flusher.Flush
}

// Healthy says whether the store works; after a failed write or flush it does not, until
// the server is started again.
func (s *Server) Healthy(context.Context) error {
	if s.flusher != nil {
		if err := s.flusher.Failed(); err != nil {
			return err
		}
	}
	var trouble string
	for range 3 { // each look has a millisecond, which may pass unused on a busy machine
		if trouble = s.ns.Healthz(&server.HealthzOptions{}).Error; trouble == "" {
			return nil
		}
	}
	return fmt.Errorf("embedded NATS server: %s", trouble)
}

// Close ends the server and gives the data directory free. It blocks until both are done.
func (s *Server) Close() error {
	s.stop()
	s.thin.Wait()
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
	return errors.Join(s.closeDir(), s.lock.Unlock())
}

// logger hands the server's words on: trouble as it is, the rest at debug level.
type logger struct {
	zerolog.Logger
	few   zerolog.Logger
	fatal chan string
}

func (l logger) Noticef(format string, v ...any) { l.Debug().Msgf(format, v...) }
func (l logger) Warnf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if ofClient(text) {
		l.few.Warn().Msg(cut(text))
		return
	}
	l.Warn().Msg(text)
}

// Errorf hands on what goes wrong. What clients do that they may not is no trouble of the relay's, and
// a client can do it without end: of that it writes some lines a second.
func (l logger) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if ofClient(text) {
		l.few.Warn().Msg(cut(text))
		return
	}
	l.Error().Msg(text)
}

// ofClient says whether a line is about what a client has sent.
func ofClient(text string) bool {
	for _, part := range []string{" - cid:", "Violation", server.ErrAuthentication.Error(), "websocket handshake error", "past last stream sequence"} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// cut leaves as much of a line as is worth reading: a client may have its own words in it.
func cut(text string) string {
	const most = 1000
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
func (l logger) Debugf(format string, v ...any) { l.Trace().Msgf(format, v...) }
func (l logger) Tracef(format string, v ...any) { l.Trace().Msgf(format, v...) }
func (l logger) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}
