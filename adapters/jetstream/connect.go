package jetstream

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// Auth is how the relay proves itself to a NATS server. The fields are those of the nats
// CLI; empty ones are not used.
type Auth struct {
	Creds, NKey    string // files: credentials, seed
	User, Password string
	PasswordFile   string // in place of Password; it is read for each connection
	Token          string
	CA, Cert, Key  string // files: root certificates, client certificate, its key
	// Inbox is below what answers to a Reader come; empty is where those to a relay do.
	Inbox string
}

func (a Auth) options() ([]nats.Option, error) {
	for _, path := range []string{a.Creds, a.NKey, a.CA, a.Cert, a.Key} {
		if path == "" {
			continue
		}
		// A connection that never gives up would try for ever with a file that is not there.
		if _, err := os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read NATS credentials: %w", err)
		}
	}
	var options []nats.Option
	add := func(set bool, option nats.Option) {
		if set {
			options = append(options, option)
		}
	}
	add(a.Creds != "", nats.UserCredentials(a.Creds))
	add(a.User != "" && a.PasswordFile == "", nats.UserInfo(a.User, a.Password))
	add(a.Token != "", nats.Token(a.Token))
	add(a.CA != "", nats.RootCAs(a.CA))
	add(a.Cert != "", nats.ClientCert(a.Cert, a.Key))
	if a.PasswordFile != "" {
		if _, err := readPassword(a.PasswordFile); err != nil {
			return nil, err
		}
		options = append(options, nats.UserInfoHandler(func() (user, password string) {
			password, _ = readPassword(a.PasswordFile) // without one the server refuses, and it is read again
			return a.User, password
		}))
	}
	if a.NKey != "" {
		nkey, err := nats.NkeyOptionFromSeed(a.NKey)
		if err != nil {
			return nil, fmt.Errorf("read nkey %s: %w", a.NKey, err)
		}
		options = append(options, nkey)
	}
	return options, nil
}

func readPassword(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read NATS password: %w", err)
	}
	word := strings.TrimSpace(string(text))
	if word == "" {
		return "", fmt.Errorf("read NATS password: %s is empty", path)
	}
	return word, nil
}

// relayInbox is below what answers to the relay come.
const relayInbox = "_INBOX_relay"

// An Option is one of the NATS client.
type Option = nats.Option

// connect returns a connection that never gives up: it may begin without a server, and
// comes back whenever one is there. It does not block. While there is no server a
// publish fails at once, and nothing that failed is sent later. The function changed is
// called after each connection.
func connect(urls string, auth Auth, log zerolog.Logger, changed func(*nats.Conn), more ...Option) (*nats.Conn, error) {
	options, err := auth.options()
	if err != nil {
		return nil, err
	}
	up := func(nc *nats.Conn) {
		log.Info().Str("server", Redact(nc.ConnectedUrl())).Str("version", nc.ConnectedServerVersion()).Msg("connected to NATS")
		changed(nc)
	}
	options = append(options,
		nats.Name("together-relay"),
		nats.CustomInboxPrefix(relayInbox),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1),
		nats.ReconnectWait(250*time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond),
		nats.Timeout(2*time.Second),
		nats.FlusherTimeout(2*time.Second), // a server that takes nothing any more is a lost connection
		nats.PingInterval(5*time.Second),
		nats.MaxPingsOutstanding(2),
		nats.IgnoreAuthErrorAbort(),
		nats.ConnectHandler(up),
		nats.ReconnectHandler(up),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { log.Debug().Err(err).Msg("NATS is not there yet") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn().Err(err).Msg("NATS reports an error") }),
	)
	nc, err := nats.Connect(urls, append(options, more...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", Redact(urls), discreet(err))
	}
	return nc, nil
}

// Patient makes a connection that was once there come back whenever its server does, for work
// that takes long.
func Patient() Option {
	return func(o *nats.Options) error {
		o.MaxReconnect, o.ReconnectWait = -1, 500*time.Millisecond
		o.PingInterval, o.MaxPingsOut = 5*time.Second, 2
		o.IgnoreAuthErrorAbort = true
		return nil
	}
}

// Reports calls said with what NATS reports beside its answers, and whether that is a refusal, after
// which no answer comes.
func Reports(said func(err error, denied bool)) Option {
	return nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		said(err, errors.Is(err, nats.ErrPermissionViolation))
	})
}

// dial connects once, or says why not. It blocks for two seconds at most.
func dial(urls string, auth Auth, more ...Option) (*nats.Conn, error) {
	options, err := auth.options()
	if err != nil {
		return nil, err
	}
	options = append(options, nats.Name("together-relay command line"), nats.CustomInboxPrefix(cmp.Or(auth.Inbox, relayInbox)),
		nats.ReconnectBufSize(-1), nats.Timeout(2*time.Second))
	nc, err := nats.Connect(urls, append(options, more...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", Redact(urls), discreet(err))
	}
	return nc, nil
}

// Refused says whether NATS was there, and did not take the user or the password.
func Refused(err error) bool { return errors.Is(err, nats.ErrAuthorization) }

// discreet leaves the URL out of an error about it: it may hold a password.
func discreet(err error) error {
	if bad, ok := errors.AsType[*url.Error](err); ok {
		return bad.Err
	}
	return err
}

// Redact masks what is secret in a list of server URLs.
func Redact(urls string) string {
	list := strings.Split(urls, ",")
	for i, text := range list {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil && strings.Contains(text, "@") {
			list[i] = "********"
		}
		if err != nil || u.User == nil {
			continue
		}
		// Without a password, what stands in the place of the user is a token.
		masked := url.User("********")
		if _, ok := u.User.Password(); ok {
			masked = url.UserPassword(u.User.Username(), "********")
		}
		u.User = masked
		list[i] = strings.ReplaceAll(u.String(), "%2A", "*")
	}
	return strings.Join(list, ",")
}
