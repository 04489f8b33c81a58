package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/natsd"
)

// running is what a relay with a data directory leaves there for the other verbs: where
// it can be reached. It is no state: a relay never reads it.
type running struct {
	URL     string `json:"url"`
	NATSURL string `json:"nats_url"`

	// What doctor wants to know of it.
	Sync       string `json:"nats_sync"`
	Listen     string `json:"listen"`
	PublicURL  string `json:"public_url"`
	NATSListen string `json:"nats_listen"`
	Websocket  string `json:"nats_ws_listen"`
}

func runningPath(dir string) string { return filepath.Join(dir, "running.json") }

func (r running) write(dir string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(runningPath(dir), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("note where the relay runs: %w", err)
	}
	return nil
}

func readRunning(dir string) (running, error) {
	var r running
	text, err := os.ReadFile(runningPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		// With a store and no note, the relay of this directory has ended: whatever answers on
		// the default ports is another one.
		if _, err := os.Stat(filepath.Join(dir, "jetstream")); err == nil {
			return r, fmt.Errorf("no relay is running on %s; start it, or name another directory with --data-dir", dir)
		}
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read where the relay runs: %w", err)
	}
	return r, nil
}

// url is where the running relay listens: what is configured, else what it noted in its
// data directory, else the default.
func (s *settings) url() (string, error) {
	if s.origin["listen"] == "default" {
		r, err := readRunning(s.embedded.Dir)
		if err != nil || r.URL != "" {
			return r.URL, err
		}
	}
	return localURL(s.http.listen), nil
}

// localURL is how this machine reaches an address that is listened on.
func localURL(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "http://" + address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// natsURL is where NATS listens: what is configured, else what the running relay noted in its
// data directory, else the default.
func (s *settings) natsURL() (string, error) {
	if s.nats.url != "" {
		return s.nats.url, nil
	}
	if s.origin["nats-listen"] == "default" {
		r, err := readRunning(s.embedded.Dir)
		if err != nil || r.NATSURL != "" {
			return r.NATSURL, err
		}
	}
	return "nats://" + s.embedded.Listen, nil
}

// reader reads the streams of the running relay.
func (s *settings) reader(more ...jetstream.Option) (*jetstream.Reader, error) {
	url, err := s.natsURL()
	if err != nil {
		return nil, err
	}
	auth, err := s.auth()
	if err != nil {
		return nil, err
	}
	if keyed, _ := s.keys().Teams(); slices.Contains(keyed, auth.User) {
		return nil, fmt.Errorf("NATS_USER is %s, a team here, which may take its own events and nothing else; unset NATS_USER and NATS_PASSWORD, or set them to what together-relay teams creds %s prints",
			auth.User, natsd.OperatorUser)
	}
	if auth.User == natsd.OperatorUser {
		auth.Inbox = "_INBOX_" + natsd.OperatorUser // which the relay's user may not hear
	}
	more = append(more, jetstream.Reports(sayOnce(os.Stderr)))
	r, err := jetstream.OpenReader(url, auth, s.stream.Stream, more...)
	if given := s.nats.auth; jetstream.Refused(err) && given.User != "" && given.Password+given.PasswordFile != "" {
		how := "prints it"
		if given.User != natsd.OperatorUser {
			how = "--new makes another"
		}
		return nil, fmt.Errorf("%w; the password that is set is not that of user %s; together-relay teams creds %[2]s %s", err, given.User, how)
	}
	if jetstream.Refused(err) {
		return nil, fmt.Errorf("%w; set NATS_USER, such as %s, and NATS_PASSWORD or NATS_PASSWORD_FILE", err, natsd.OperatorUser)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; is the relay running? Start one with together-relay serve --dev, or set NATS_URL", err)
	}
	return r, nil
}

// logOf is the log of the streams that the reader reads, for a verb that stores something
// while a relay may run.
func (s *settings) logOf(reader *jetstream.Reader) (*jetstream.Log, error) {
	return reader.Log(s.clientStream())
}

// clientStream is the streams' configuration for a verb: what it stores in the embedded server is
// on disk then, too.
func (s *settings) clientStream() jetstream.Config {
	if s.nats.url == "" {
		s.stream.Flush = func() error { return natsd.FlushDir(s.embedded.Dir) }
	}
	return s.stream
}

// asClient completes the settings of a verb that talks to a running relay: without a
// secret for the default source it takes that of --dev, if there is one.
func (s *settings) asClient() error {
	if err := s.load(); err != nil {
		return err
	}
	own := s.allSources()[defaultSource]
	if s.secrets.webhook == "" && s.secrets.webhookFile == "" && len(own.Secrets) == 0 && own.SecretFile == "" {
		if _, err := os.Stat(devSecretPath(s.embedded.Dir)); err == nil {
			s.dev = true
		}
	}
	return nil
}

// sayOnce writes what NATS reports beside its answers, and of all that it refuses the first: the
// verb itself sees only that no answer comes.
func sayOnce(w io.Writer) func(err error, denied bool) {
	var once sync.Once
	return func(err error, denied bool) {
		if !denied {
			fmt.Fprintf(w, "together-relay: NATS reports an error: %v\n", err)
			return
		}
		once.Do(func() {
			fmt.Fprintf(w, "together-relay: NATS lets this user do less than is needed here: %v; people log in as %s\n", err, natsd.OperatorUser)
		})
	}
}
