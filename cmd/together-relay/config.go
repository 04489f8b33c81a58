package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/natsd"
	"together-relay/adapters/together"
)

// Settings are what is in force: flag, else environment, else file, else default.
type settings struct {
	config   string
	dev      bool
	strict   bool
	monitor  string
	http     httpSettings
	embedded natsd.Config
	nats     natsSettings
	stream   jetstream.Config
	log      logSettings
	secrets  secretSettings
	watch    watchSettings
	sources  map[string]*sourceSettings // from the file
	active   map[string][][]byte        // the secrets that the sources were opened with
	teams    map[string]*teamSettings   // from the file
	text     []byte                     // the file as it was read; nil if there is none

	knobs  *knobs
	origin map[string]string // by flag: where its value comes from
}

type httpSettings struct {
	listen, admin, publicURL string
	maxBody                  byteSize
	maxInFlight              int
	readTimeout, drain       time.Duration
	pprof                    bool
}

type natsSettings struct {
	url  string
	auth jetstream.Auth
}

type logSettings struct{ level, format string }

type secretSettings struct{ webhook, webhookFile, apiKey, apiKeyFile string }

// watchSettings say how the Together API is watched. An interval of 0 switches a resource off.
type watchSettings struct {
	base                                           string
	fineTunes, batches, evaluations, files, models time.Duration
	videos, queue                                  time.Duration // of what is registered
	back                                           days
	budget                                         int
	tokens                                         byteSize
	simulate                                       bool
	deprecations                                   []together.Deprecation // from the file
}

// Which verbs know a knob.
const (
	forAll   = 1 << iota // every verb that has to do with a relay
	forNATS              // the verbs that read the stream
	forServe             // serve, config and doctor
	forAPI               // the verbs that ask the Together API
	forStart             // serve and config alone
)

// declare names every setting that is no list, once.
func (s *settings) declare() *knobs {
	k := &knobs{FlagSet: pflag.NewFlagSet("settings", pflag.ContinueOnError)}

	k.group = forAll
	k.text(&s.config, "config", "RELAY_CONFIG", "relay.yaml", "configuration `file`; it may be missing if it is not named")
	k.text(&s.embedded.Dir, "data-dir", "RELAY_DATA_DIR", "./data", "`directory` of the embedded server's store and the --dev secret")
	k.text(&s.http.listen, "listen", "RELAY_LISTEN", ":8080", "public HTTP `address`; 127.0.0.1:8080 with --dev")
	k.secret(&s.secrets.webhook, "webhook-secret", "TOGETHER_WEBHOOK_SECRET", "shared secret of the source together; several are separated by commas")
	k.text(&s.secrets.webhookFile, "webhook-secret-file", "TOGETHER_WEBHOOK_SECRET_FILE", "", "`file` with the webhook secret, or several, one on each line; read again when it changes")

	k.group = forNATS
	k.text(&s.nats.url, "nats-url", "NATS_URL", "", "NATS `servers`, separated by commas; empty is the embedded server")
	k.text(&s.nats.auth.Creds, "nats-creds", "NATS_CREDS", "", "credentials `file` for NATS")
	k.text(&s.nats.auth.NKey, "nats-nkey", "NATS_NKEY", "", "`file` with the nkey seed for NATS")
	k.text(&s.nats.auth.User, "nats-user", "NATS_USER", "", "`user` for NATS")
	k.secret(&s.nats.auth.Password, "nats-password", "NATS_PASSWORD", "password for NATS")
	k.text(&s.nats.auth.PasswordFile, "nats-password-file", "NATS_PASSWORD_FILE", "", "`file` with the password for NATS; read again for each connection")
	k.secret(&s.nats.auth.Token, "nats-token", "NATS_TOKEN", "token for NATS")
	k.text(&s.nats.auth.CA, "nats-ca", "NATS_CA", "", "`file` with the root certificates of NATS")
	k.text(&s.nats.auth.Cert, "nats-cert", "NATS_CERT", "", "`file` with the client certificate for NATS")
	k.text(&s.nats.auth.Key, "nats-key", "NATS_KEY", "", "`file` with the key of the client certificate")
	k.text(&s.embedded.Listen, "nats-listen", "RELAY_NATS_LISTEN", "127.0.0.1:4222", "client `address` of the embedded server")
	k.text(&s.stream.Stream, "stream", "RELAY_STREAM", "TOGETHER", "JetStream `stream`; dead letters go to <stream>_DLQ")

	k.group = forServe
	k.flag(&s.dev, "dev", "RELAY_DEV", "everything on this machine: loopback addresses, a secret made and kept in the data directory, readable logs")
	k.text(&s.http.admin, "admin-listen", "RELAY_ADMIN_LISTEN", "127.0.0.1:9090", "`address` of metrics and profiles; empty is none")
	k.text(&s.http.publicURL, "public-url", "RELAY_PUBLIC_URL", "http://localhost:8080", "`URL` at which the outside reaches the relay; base of dataschema")
	s.http.maxBody = 1<<20 - jetstream.HeaderRoom
	k.value(&s.http.maxBody, "max-body", "RELAY_MAX_BODY", "largest body, as in 500KiB; never more than NATS has room for")
	k.number(&s.http.maxInFlight, "max-in-flight", "RELAY_MAX_IN_FLIGHT", 1024, "`number` of deliveries at one time; beyond them the answer is 429")
	k.span(&s.http.readTimeout, "read-timeout", "RELAY_READ_TIMEOUT", 10*time.Second, "longest `duration` of a request while it is sent")
	k.span(&s.http.drain, "drain-timeout", "RELAY_DRAIN_TIMEOUT", 30*time.Second, "longest `duration` that requests in flight are waited for at the end")
	k.flag(&s.http.pprof, "pprof", "RELAY_PPROF", "serve profiles on the admin address")
	k.text(&s.embedded.Websocket, "nats-ws-listen", "RELAY_NATS_WS_LISTEN", "", "WebSocket `address` of the embedded server; empty is none")
	k.text(&s.embedded.Sync, "nats-sync", "RELAY_NATS_SYNC", natsd.SyncGroup, "when the embedded server's store is flushed to disk: group is once for all who wait, always once for each message, never leaves it to the system and breaks the promise")
	k.number(&s.stream.Replicas, "replicas", "RELAY_REPLICAS", 1, "`number` of replicas of the streams")
	k.span(&s.stream.MaxAge, "max-age", "RELAY_MAX_AGE", 720*time.Hour, "`duration` for which events are kept")
	k.span(&s.stream.Window, "dedup-window", "RELAY_DEDUP_WINDOW", 72*time.Hour, "`duration` for which an event id is remembered; at most --max-age")
	k.value((*byteSize)(&s.stream.MaxBytes), "max-bytes", "RELAY_MAX_BYTES", "largest size of the event stream, as in 20GiB; when it is full the answer is 503; 0 is no limit")
	k.span(&s.stream.Timeout, "publish-timeout", "RELAY_PUBLISH_TIMEOUT", 8*time.Second, "longest `duration` of waiting for the stream's acknowledgement")
	k.text(&s.stream.Provision, "provision", "RELAY_PROVISION", jetstream.ProvisionCreate, "create makes missing streams, apply also changes those that differ, check only reports")
	k.text(&s.monitor, "monitor", "RELAY_MONITOR", "", "monitoring `URLs` of the NATS servers, separated by commas, as in http://nats:8222: they say whether an outside server flushes each message")
	k.text(&s.log.level, "log-level", "RELAY_LOG_LEVEL", "info", "trace, debug, info, warn or error")
	k.text(&s.log.format, "log-format", "RELAY_LOG_FORMAT", "json", "json or console; console with --dev")

	k.group = forStart
	k.flag(&s.strict, "strict", "RELAY_STRICT", "refuse to start when the set-up breaks a promise, as doctor finds it")

	k.group = forServe | forAPI
	k.secret(&s.secrets.apiKey, "api-key", "TOGETHER_API_KEY", "key of the Together API; with it the relay watches the API")
	k.text(&s.secrets.apiKeyFile, "api-key-file", "TOGETHER_API_KEY_FILE", "", "`file` with the key of the Together API")
	k.text(&s.watch.base, "api-url", "TOGETHER_BASE_URL", together.DefaultBase, "`URL` of the Together API, with or without /v1")
	k.number(&s.watch.budget, "watch-budget", "RELAY_WATCH_BUDGET", together.DefaultPerMinute, "largest `number` of requests to the API in a minute")

	k.group = forServe
	k.span(&s.watch.fineTunes, "watch-fine-tunes", "RELAY_WATCH_FINE_TUNES", time.Minute, "`duration` between two looks at the fine-tunes; 0 is never")
	k.span(&s.watch.batches, "watch-batches", "RELAY_WATCH_BATCHES", 30*time.Second, "`duration` between two looks at the batches; 0 is never")
	k.span(&s.watch.evaluations, "watch-evaluations", "RELAY_WATCH_EVALUATIONS", 30*time.Second, "`duration` between two looks at the evaluations; 0 is never")
	k.span(&s.watch.files, "watch-files", "RELAY_WATCH_FILES", 30*time.Second, "`duration` between two looks at the files; 0 is never")
	k.span(&s.watch.models, "watch-models", "RELAY_WATCH_MODELS", 6*time.Hour, "`duration` between two looks at the models; 0 is never")
	k.span(&s.watch.videos, "watch-videos", "RELAY_WATCH_VIDEOS", 10*time.Second, "`duration` between two looks at the registered videos; 0 is never")
	k.span(&s.watch.queue, "watch-queue", "RELAY_WATCH_QUEUE", 5*time.Second, "`duration` between two looks at the registered queue jobs; 0 is never")
	k.value(&s.watch.back, "since", "RELAY_SINCE", "at the first look at the API, publish what happened within that `duration` too, as in 12h or 7d")
	k.value(&s.watch.tokens, "watch-tokens", "RELAY_WATCH_TOKENS", "largest output file that is read to count the tokens of a batch, as in 100MiB; 0 is none")
	k.flag(&s.watch.simulate, "simulate", "RELAY_SIMULATE", "with --dev, watch a made-up Together in this process: living events without an account")
	return k
}

// newSettings declares the settings and gives the command the flags of its groups.
func newSettings(flags *pflag.FlagSet, groups int) *settings {
	s := &settings{}
	s.knobs = s.declare()
	s.knobs.VisitAll(func(f *pflag.Flag) {
		if k := s.knobs.known[f.Name]; k.group&groups != 0 && !k.secret {
			flags.AddFlag(f)
		}
	})
	return s
}

// load reads the file and the environment, and checks the whole.
func (s *settings) load() error {
	s.origin = map[string]string{}
	for name := range s.knobs.known {
		s.origin[name] = "default"
		if s.knobs.Changed(name) {
			s.origin[name] = "flag"
		}
	}
	for name, k := range s.knobs.known {
		text, ok := os.LookupEnv(k.env)
		if !ok || text == "" || s.origin[name] == "flag" {
			continue
		}
		if err := s.knobs.Lookup(name).Value.Set(text); err != nil {
			return usagef("%s: %w", k.env, err)
		}
		s.origin[name] = k.env
	}
	if err := s.loadFile(); err != nil {
		return err
	}
	if s.dev {
		s.devDefault("listen", "127.0.0.1:8080")
		s.devDefault("log-format", "console")
		if _, port, err := net.SplitHostPort(s.http.listen); err == nil && port != "0" {
			s.devDefault("public-url", "http://localhost:"+port)
		}
	}
	if err := s.check(); err != nil {
		return err
	}
	return s.checkTeams()
}

func (s *settings) devDefault(name, value string) {
	if s.origin[name] == "default" {
		_ = s.knobs.Lookup(name).Value.Set(value) // which is one of ours, and which it takes
	}
}

func (s *settings) loadFile() error {
	text, err := os.ReadFile(s.config)
	if errors.Is(err, fs.ErrNotExist) && s.origin["config"] == "default" {
		return nil
	}
	if err != nil {
		return usagef("read configuration: %w", err)
	}
	f, err := parseFile(filepath.Base(s.config), text, os.LookupEnv)
	if err != nil {
		return usagef("%w", err)
	}
	s.text = append([]byte{}, text...) // of an empty file too
	s.sources, s.watch.deprecations, s.teams = f.sources, f.deprecations, f.teams
	for name, v := range f.values {
		if s.origin[name] != "default" {
			continue
		}
		if err := s.knobs.Lookup(name).Value.Set(v.text); err != nil {
			return usagef("%s: %s: %w", v.at, yamlKey(name), err)
		}
		s.origin[name] = v.at
	}
	return nil
}

// check finds settings that cannot hold together.
func (s *settings) check() error {
	for _, name := range []string{"data-dir", "listen", "nats-listen"} {
		if s.knobs.Lookup(name).Value.String() == "" {
			return usagef("%s is empty", name)
		}
	}
	switch {
	case s.stream.Window > s.stream.MaxAge && s.stream.MaxAge > 0:
		return usagef("dedup-window is %s, longer than max-age, which is %s; set both", s.stream.Window, s.stream.MaxAge)
	case s.stream.Window < 100*time.Millisecond:
		return usagef("dedup-window is %s, at least 100ms is needed", s.stream.Window)
	case s.stream.MaxAge < 0:
		return usagef("max-age is %s, it must not be negative", s.stream.MaxAge)
	case s.stream.Timeout <= 0:
		return usagef("publish-timeout is %s, it must be positive", s.stream.Timeout)
	case s.http.readTimeout <= 0:
		return usagef("read-timeout is %s, it must be positive", s.http.readTimeout)
	case s.http.maxBody < 1:
		return usagef("max-body is %d bytes, it must be positive", s.http.maxBody)
	case s.http.maxInFlight < 1:
		return usagef("max-in-flight is %d, it must be positive", s.http.maxInFlight)
	case s.stream.Replicas < 1 || s.stream.Replicas > 5:
		return usagef("replicas is %d, NATS knows 1 to 5", s.stream.Replicas)
	case s.watch.back < 0:
		return usagef("since is %s, it must not be negative", &s.watch.back)
	case min(s.watch.fineTunes, s.watch.batches, s.watch.evaluations, s.watch.files, s.watch.models, s.watch.videos, s.watch.queue) < 0:
		return usagef("an interval of watching is negative; 0 switches it off")
	case s.watch.budget < 1:
		return usagef("watch-budget is %d requests a minute, it must be positive", s.watch.budget)
	case s.nats.auth.PasswordFile != "" && s.nats.auth.Password != "":
		return usagef("nats-password (from %s) and nats-password-file (from %s) are both set; leave one out", s.origin["nats-password"], s.origin["nats-password-file"])
	case s.nats.auth.PasswordFile != "" && s.nats.auth.User == "":
		return usagef("nats-password-file goes with nats-user, which is empty")
	case s.watch.simulate && !s.dev:
		return usagef("simulate goes with dev alone")
	case !strings.HasPrefix(s.http.publicURL, "http://") && !strings.HasPrefix(s.http.publicURL, "https://"):
		return usagef("public-url is %q, it must begin with http:// or https://", s.http.publicURL)
	case strings.ContainsAny(s.stream.Stream, ". *>/\\\t\r\n") || s.stream.Stream == "":
		return usagef("stream %q is no name for a stream", s.stream.Stream)
	}
	if err := oneOf("provision", s.stream.Provision, jetstream.ProvisionCreate, jetstream.ProvisionApply, jetstream.ProvisionCheck); err != nil {
		return err
	}
	if err := oneOf("nats-sync", s.embedded.Sync, natsd.SyncGroup, natsd.SyncAlways, natsd.SyncNever); err != nil {
		return err
	}
	if err := oneOf("log-format", s.log.format, "json", "console"); err != nil {
		return err
	}
	return oneOf("log-level", s.log.level, "trace", "debug", "info", "warn", "error")
}

func oneOf(name, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return usagef("%s is %q, it must be one of %s", name, value, strings.Join(allowed, ", "))
}

// knobs is a flag set that also knows the environment.
type knobs struct {
	*pflag.FlagSet
	group int
	known map[string]knob
}

type knob struct {
	env    string
	group  int
	secret bool // never a flag, always masked
}

func (k *knobs) add(name, env string, secret bool) {
	if k.known == nil {
		k.known = map[string]knob{}
	}
	k.known[name] = knob{env: env, group: k.group, secret: secret}
	f := k.Lookup(name)
	f.Usage += fmt.Sprintf(" [$%s]", env)
}

func (k *knobs) text(p *string, name, env, value, usage string) {
	k.StringVar(p, name, value, usage)
	k.add(name, env, false)
}

func (k *knobs) secret(p *string, name, env, usage string) {
	k.StringVar(p, name, "", usage)
	k.add(name, env, true)
}

func (k *knobs) flag(p *bool, name, env, usage string) {
	k.BoolVar(p, name, false, usage)
	k.add(name, env, false)
}

func (k *knobs) number(p *int, name, env string, value int, usage string) {
	k.IntVar(p, name, value, usage)
	k.add(name, env, false)
}

func (k *knobs) span(p *time.Duration, name, env string, value time.Duration, usage string) {
	*p = value
	k.value((*days)(p), name, env, usage)
}

func (k *knobs) value(p pflag.Value, name, env, usage string) {
	k.Var(p, name, usage)
	k.add(name, env, false)
}

// byteSize is a number of bytes, written with or without a unit.
type byteSize int64

var units = []struct {
	name string
	size int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1}}

func (b *byteSize) Set(text string) error {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		var n int64
		if _, err := fmt.Sscanf(strings.TrimSpace(digits), "%d", &n); err != nil || n < 0 || n > (1<<62)/u.size ||
			fmt.Sprint(n) != strings.TrimSpace(digits) {
			break
		}
		*b = byteSize(n * u.size)
		return nil
	}
	return fmt.Errorf("%q is no size; write it as 1048576, 500KiB or 1MiB", text)
}

func (b *byteSize) String() string {
	n := int64(*b)
	for _, u := range []int{3, 2, 1, 0} {
		if size := units[u].size; n != 0 && n%size == 0 {
			return fmt.Sprintf("%d%s", n/size, units[u].name)
		}
	}
	return fmt.Sprint(n)
}

func (*byteSize) Type() string { return "size" }

// days is a length of time that may be written in days.
type days time.Duration

func (d *days) Set(text string) error {
	n, err := parseDays(text)
	*d = days(n)
	return err
}

func (d *days) String() string { return time.Duration(*d).String() }

func (*days) Type() string { return "duration" }

// parseDays reads a length of time such as 2h or 7d. The settings say what may be negative.
func parseDays(text string) (time.Duration, error) {
	if number, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseFloat(number, 64); err == nil && n >= 0 && n < 36500 {
			return time.Duration(n * 24 * float64(time.Hour)), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil {
		return d, nil
	}
	return 0, fmt.Errorf("%q is no length of time; write 30s, 2h or 7d", text)
}
