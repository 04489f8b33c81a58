package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"together-relay/adapters/httpd"
	"together-relay/adapters/jetstream"
	"together-relay/adapters/natsd"
	"together-relay/adapters/telemetry"
	"together-relay/adapters/together"
	"together-relay/relay"
	"together-relay/schemas"
)

func newServe() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the relay",
		Long: `Runs the relay until SIGTERM. Every request in flight gets its answer then; a second signal
ends it at once. SIGHUP reads the secrets and the teams again. The embedded NATS server asks for
passwords as soon as there is a team.

Every setting is a flag, a variable of the environment or a line of relay.yaml; the first of
them wins. Secrets are never flags.`,
		Example: `  together-relay serve --dev
  TOGETHER_WEBHOOK_SECRET=… together-relay serve
  TOGETHER_WEBHOOK_SECRET_FILE=/run/secrets/together NATS_URL=nats://nats:4222 together-relay serve`,
		Args: cobra.NoArgs,
	}
	s := newSettings(cmd.Flags(), forAll|forNATS|forServe|forStart)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(); err != nil {
			return err
		}
		return serve(cmd.Context(), s, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// serve is the one straight line: open, defer close, next.
func serve(ctx context.Context, s *settings, stdout, stderr io.Writer) (err error) {
	log := newLogger(s.log, stderr)
	hangup := make(chan os.Signal, 1) // from the start: unheard, it would end the process
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	set, err := schemas.Load()
	if err != nil {
		return err
	}
	var made net.Listener
	if s.watch.simulate {
		if made, err = s.simulate(); err != nil {
			return err
		}
		defer closeQuietly(made)
	}
	sources, err := s.openSources()
	if err != nil {
		return err
	}
	if len(sources) == 0 {
		if !s.watches() {
			return usagef("no secret and no API key: set TOGETHER_WEBHOOK_SECRET or TOGETHER_WEBHOOK_SECRET_FILE to take webhooks, TOGETHER_API_KEY to watch the API, or try serve --dev, which makes a secret")
		}
		log.Info().Msg("no webhook secret is set; the relay only watches the API")
	}
	if s.stream.Prefixes, err = s.prefixes(); err != nil {
		return err
	}

	public, err := listen("RELAY_LISTEN", "--listen", s.http.listen)
	if err != nil {
		return err
	}
	defer closeQuietly(public)
	admin, err := listenAdmin(s.http.admin)
	if err != nil {
		return err
	}
	defer closeQuietly(admin)

	var options []jetstream.Option
	var server *natsd.Server            // nil if it is an outside one
	s.stream.Batches = s.nats.url != "" // what lies in our own hands is flushed by us
	url := s.nats.url
	if url == "" {
		s.embedded.Keys, s.embedded.Streams = s.keys(), jetstream.TeamStreams(s.stream.Stream)
		if server, err = natsd.Start(s.embedded, log.With().Str("part", "nats-server").Logger()); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Close()) }()
		if err := s.letIn(server); err != nil {
			return err
		}
		url, s.stream.Healthy, s.stream.Flush = server.URL(), server.Healthy, server.Flush()
		options = append(options, server.InProcess())
		note := running{URL: localURL(public.Addr().String()), NATSURL: url, Sync: s.embedded.Sync, Listen: s.http.listen, PublicURL: s.http.publicURL,
			NATSListen: s.embedded.Listen, Websocket: s.embedded.Websocket}
		if err := note.write(s.embedded.Dir); err != nil {
			return err
		}
		defer func() { _ = os.Remove(runningPath(s.embedded.Dir)) }()
	}

	if s.strict {
		s.stream.Accept = func(ctx context.Context, found jetstream.Inspection) error { return s.accept(ctx, found, log) }
	}
	events, err := jetstream.Open(url, s.nats.auth, s.stream, log, options...)
	if err != nil {
		return usagef("%w", err)
	}
	defer events.Close()

	metrics := telemetry.NewMetrics(version(), events.Connected)
	store := metrics.Log(events)
	var traces *telemetry.Traces
	if tracing() {
		if traces, err = telemetry.NewTraces(ctx, version(), func(err error) { log.Warn().Err(err).Msg("traces were not sent") }); err != nil {
			return usagef("%w", err)
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := traces.Close(ctx); err != nil {
				log.Warn().Err(err).Msg("the last traces were not sent")
			}
		}()
		store = traces.Log(store)
	}

	watch, watching, err := s.openWatcher(events, store, set, metrics, log.With().Str("part", "watch").Logger())
	if err != nil {
		return err
	}

	teams := &teamWatch{keeper: events.Teams(log.With().Str("part", "teams").Logger()), server: server, log: log}
	teams.set(s)
	dead := metrics.NewLetters()
	advisories := events.Advisories(log.With().Str("part", "dead letters").Logger(), jetstream.Told{
		Letter: dead.Made, Unreadable: dead.Unreadable,
		Counted: func(c jetstream.LetterCounts) { dead.Stored(c.Deliveries, c.Teams, c.Waiting) },
	})

	web := httpd.New(httpd.Config{
		Sources:     s.httpSources(),
		Receiver:    openIntake(sources, set, store),
		Done:        func(o relay.Outcome) { metrics.Done(o); logOutcome(log, o) },
		Ready:       events.Ready,
		Detail:      watching.detail,
		Schemas:     schemas.Files,
		MaxBody:     func() int64 { return min(int64(s.http.maxBody), events.Room()) },
		MaxInFlight: s.http.maxInFlight,
		ReadTimeout: s.http.readTimeout,
		ErrorLog:    stdlog.New(log.With().Str("part", "http").Logger(), "", 0),
	})
	web.Wrap(metrics.InFlight)
	if traces != nil {
		web.Wrap(traces.Requests)
	}

	log.Info().Str("version", version()).Str("listen", public.Addr().String()).Str("admin", address(admin)).
		Str("nats", jetstream.Redact(url)).Strs("sources", sortedNames(sources)).Msg("relay starts")
	if s.dev {
		printBanner(stdout, s, localURL(public.Addr().String()), url, admin)
	}

	// The garbage collector waits until the heap has doubled, and the relay's own is small: it
	// would run all the time. The ballast is never touched, so it takes addresses, not memory.
	ballast := make([]byte, 32<<20)
	defer runtime.KeepAlive(ballast)

	loops, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoops()
	group, failed := errgroup.WithContext(loops)
	group.Go(func() error { return events.Run(failed) })
	group.Go(func() error { return watchFiles(failed, hangup, s, sources, teams, log) })
	group.Go(func() error { return teams.keeper.Run(failed) })
	group.Go(func() error { return advisories.Run(failed) })
	if made != nil {
		group.Go(func() error { return serveSim(failed, made, 0, simSpeed) })
	}
	if watch != nil {
		group.Go(func() error { return watch(failed) })
	}
	group.Go(func() error { return web.Serve(public) })
	if admin != nil {
		side := &http.Server{Handler: adminRoutes(metrics.Handler(), s.http.pprof), ReadHeaderTimeout: 5 * time.Second}
		group.Go(func() error { return ignoreClosed(side.Serve(admin)) })
		defer closeQuietly(side)
	}
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-failed.Done():
		}
		log.Info().Msg("relay stops; requests in flight get their answers")
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.http.drain)
		defer cancel()
		err := web.Shutdown(patience)
		if err != nil {
			err = fmt.Errorf("requests in flight were cut off after %s: %w", s.http.drain, err)
		}
		stopLoops()
		if admin != nil {
			closeQuietly(admin)
		}
		return err
	})
	err = group.Wait()
	log.Info().Err(err).Msg("relay stopped")
	return err
}

// httpSources is what the HTTP side has to know of the sources.
func (s *settings) httpSources() map[string]httpd.Source {
	sources := map[string]httpd.Source{}
	for name, source := range s.allSources() {
		header := append([]string{together.SignatureHeader}, together.TraceHeaders...)
		if source.Timestamp == "required" {
			header = append(header, together.TimestampHeader)
		}
		sources[name] = httpd.Source{Header: header, Rate: source.Rate, AllowedOrigins: source.AllowedOrigins}
	}
	return sources
}

// listen says by the name of the setting, or by its flag, what is wrong with the address.
func listen(setting, flag, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, usagef("%s: %w; choose another address, such as 127.0.0.1:0 for any free port, with %s", setting, err, flag)
	}
	if err != nil {
		return nil, usagef("%s: %w", setting, err)
	}
	return l, nil
}

func listenAdmin(address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	return listen("RELAY_ADMIN_LISTEN", "--admin-listen", address)
}

func address(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

func adminRoutes(metrics http.Handler, profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	if profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// closeQuietly closes what may be closed already, or may not be there.
func closeQuietly(c io.Closer) {
	if c != nil {
		_ = c.Close()
	}
}

// tracing says whether somebody wants traces, by the OpenTelemetry names.
func tracing() bool {
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}
