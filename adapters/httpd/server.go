package httpd

import (
	"context"
	"errors"
	"io/fs"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"together-relay/relay"
)

// A Receiver turns deliveries into receipts. It blocks until the event is stored; its
// errors are those of [relay.Intake.Receive].
type Receiver interface {
	Receive(context.Context, relay.Delivery) (relay.Receipt, error)
}

// Config is what the public address serves.
type Config struct {
	Sources  map[string]Source // by name, as in the path
	Receiver Receiver
	Done     func(relay.Outcome)         // told once of each request to a source
	Ready    func(context.Context) error // why no event could be stored now
	Detail   func() string               // more about the relay's state, in lines; may be nil
	Schemas  fs.FS                       // <type>.json and asyncapi.yaml

	MaxBody     func() int64  // bytes; asked for each request
	MaxInFlight int           // deliveries at one time
	ReadTimeout time.Duration // for the whole request; a slower sender is cut off

	ErrorLog *log.Logger // for what goes wrong below HTTP
}

// A Source is what the HTTP side knows of a source.
type Source struct {
	Header         []string // the request headers that it needs, under the names that it knows them by
	Rate           float64  // deliveries a second, with bursts of one second; 0 is no limit
	AllowedOrigins []string // who may be told, in the handshake, that it may send; "*" is all
}

// A Server serves the public address.
type Server struct {
	cfg      Config
	echo     *echo.Echo
	http     *http.Server
	sources  map[string]*gate
	slots    chan struct{}
	draining atomic.Bool
}

// Times and sizes of a connection that are not worth a setting.
const (
	headerTimeout = 5 * time.Second
	idleTimeout   = 60 * time.Second
	answerTimeout = 60 * time.Second // on top of the time for reading
	maxHeader     = 32 << 10
)

// New returns a server that does not listen yet.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, echo: echo.New(), slots: make(chan struct{}, cfg.MaxInFlight)}
	s.sources = make(map[string]*gate, len(cfg.Sources))
	for name, source := range cfg.Sources {
		s.sources[name] = newGate(source)
	}
	s.echo.IPExtractor = echo.ExtractIPDirect()
	s.echo.HTTPErrorHandler = writeError
	s.routes()
	s.http = &http.Server{
		Handler:           s.echo,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       cfg.ReadTimeout,
		WriteTimeout:      cfg.ReadTimeout + answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          cfg.ErrorLog,
	}
	return s
}

func (s *Server) routes() {
	e := s.echo
	// By whatever method: Any knows only the usual ones.
	e.RouteNotFound("/webhooks/:source", s.webhook)

	get := func(path string, h echo.HandlerFunc) { e.Match([]string{http.MethodGet, http.MethodHead}, path, h) }
	get("/healthz", s.healthz)
	get("/readyz", s.readyz)
	get("/schemas", s.schemaList)
	get("/schemas/", s.schemaList)
	get("/schemas/:file", s.schema)
	get("/asyncapi.yaml", s.asyncapi)
}

// Handler serves the routes without a listener of its own.
func (s *Server) Handler() http.Handler { return s.echo }

// Wrap puts middleware before all routes. Call it before Serve.
func (s *Server) Wrap(middleware func(http.Handler) http.Handler) {
	s.http.Handler = middleware(s.http.Handler)
}

// Serve answers requests on the listener until Shutdown. It blocks.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Drain makes the server not ready, and leaves all else as it is.
func (s *Server) Drain() { s.draining.Store(true) }

// Shutdown stops accepting and blocks until each request in flight has its answer, or
// ctx is done.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Drain()
	return s.http.Shutdown(ctx)
}

func (s *Server) healthz(c echo.Context) error { return c.String(http.StatusOK, "ok\n") }

func (s *Server) readyz(c echo.Context) error {
	if s.draining.Load() {
		return &problem{status: http.StatusServiceUnavailable, code: "Not ready", detail: "the relay is stopping"}
	}
	more := ""
	if s.cfg.Detail != nil {
		more = s.cfg.Detail()
	}
	if err := s.cfg.Ready(c.Request().Context()); err != nil {
		detail := strings.TrimSpace(err.Error() + "\n" + more)
		return &problem{status: http.StatusServiceUnavailable, code: "Not ready", detail: detail, retry: time.Second}
	}
	return c.String(http.StatusOK, "ready\n"+more)
}
