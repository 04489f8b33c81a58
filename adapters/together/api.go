package together

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"together-relay/relay"
)

// DefaultBase is where the API lies.
const DefaultBase = "https://api.together.ai"

// The limits that the client keeps unless it is told otherwise.
const (
	DefaultPerMinute = 120 // requests, for the key
	burst            = 10  // requests that may be made at once

	requestTimeout  = 30 * time.Second
	detailTimeout   = 10 * time.Second
	downloadTimeout = 10 * time.Minute
	keyPause        = 5 * time.Minute  // after the key was refused
	maxHint         = 15 * time.Minute // that the provider may ask for
	maxList         = 64 << 20         // bytes of an answer
	maxDetail       = 8 << 20
	maxRefusal      = 64 << 10 // bytes of an error's body that are read
	maxOdd          = 4096     // oddities that are remembered, so that each is reported once
)

// APIConfig says how the provider's API is to be called.
type APIConfig struct {
	Key       string
	Base      string // DefaultBase if empty; a version at its end is cut off
	UserAgent string
	PerMinute int               // requests for the key; DefaultPerMinute if zero
	Transport http.RoundTripper // a transport of its own if nil
	Origin    Origin            // of the events

	// Odd is told once of each thing that was not understood and passed over: a row that
	// cannot be read, a state that is not known. It may be called from any goroutine.
	Odd func(what string)
}

// An API is a client of the provider's API. It reads leniently: what it does not know it
// passes over. Its requests share one budget, and each blocks until the budget allows it.
// It is safe for concurrent use.
type API struct {
	base   string
	key    string
	agent  string
	client *http.Client
	budget *rate.Limiter
	origin origin

	mu     sync.Mutex
	pause  pause
	report func(string)
	seen   map[string]bool // what was odd already
}

// A pause is a time in which nothing is asked.
type pause struct {
	until time.Time
	cause error
}

// NewAPI returns a client. It asks nothing yet.
func NewAPI(cfg APIConfig) (*API, error) {
	if strings.TrimSpace(cfg.Key) == "" {
		return nil, errors.New("the API key is empty")
	}
	if strings.ContainsFunc(cfg.Key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errors.New("the API key holds a character that no key has")
	}
	base, err := apiBase(cmp.Or(cfg.Base, DefaultBase))
	if err != nil {
		return nil, err
	}
	from, err := newOrigin(cfg.Origin)
	if err != nil {
		return nil, err
	}
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: requestTimeout,
			IdleConnTimeout:       90 * time.Second,
			MaxIdleConnsPerHost:   4,
			ForceAttemptHTTP2:     true,
		}
	}
	perMinute := cmp.Or(max(cfg.PerMinute, 0), DefaultPerMinute)
	return &API{
		base:   base,
		key:    cfg.Key,
		agent:  cmp.Or(cfg.UserAgent, "together-relay"),
		client: &http.Client{Transport: cfg.Transport, CheckRedirect: checkRedirect},
		budget: budget(perMinute),
		origin: from,
		report: cfg.Odd,
		seen:   map[string]bool{},
	}, nil
}

// budget allows so many requests in any minute, some of them at once.
func budget(perMinute int) *rate.Limiter {
	atOnce := max(1, min(burst, perMinute/4))
	return rate.NewLimiter(rate.Limit(float64(max(perMinute-atOnce, 1))/60), atOnce)
}

// Base is the address of the API, without a version.
func (a *API) Base() string { return a.base }

// Close lets go of the connections that are idle.
func (a *API) Close() { a.client.CloseIdleConnections() }

func apiBase(text string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("the API's address must be a URL such as " + DefaultBase)
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme != "http":
		return "", fmt.Errorf("the API's address begins with %q, https is needed", u.Scheme)
	case !loopback(u.Hostname()):
		return "", fmt.Errorf("the API's address is http://%s: the key would travel in the clear; use https", u.Host)
	}
	path := strings.TrimRight(u.Path, "/")
	for _, version := range []string{"/v1", "/v2"} {
		if cut, ok := strings.CutSuffix(path, version); ok {
			path = strings.TrimRight(cut, "/")
			break
		}
	}
	return u.Scheme + "://" + u.Host + path, nil
}

func loopback(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host).IsLoopback()
}

// checkRedirect lets a reading request go on to another place, such as the storage that
// holds a file, but never with the key, and never in the clear.
func checkRedirect(r *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) >= 5 {
		return errors.New("it redirects too often")
	}
	if first.Method != http.MethodGet || r.URL.Scheme != first.URL.Scheme && r.URL.Scheme != "https" {
		return http.ErrUseLastResponse
	}
	if r.URL.Host != first.URL.Host || r.URL.Scheme != first.URL.Scheme {
		r.Header.Del("Authorization")
	}
	return nil
}

// get returns the body of an answer of at most limit bytes.
func (a *API) get(ctx context.Context, path string, query url.Values, limit int64) ([]byte, error) {
	body, _, err := a.do(ctx, http.MethodGet, path, query, nil, limit)
	return body, err
}

// do makes a request and returns the body, and when it was answered by the provider's clock.
func (a *API) do(ctx context.Context, method, path string, query url.Values, body []byte, limit int64) (answer []byte, at time.Time, err error) {
	timeout := requestTimeout
	if limit < maxList { // one that hangs holds up the others
		timeout = detailTimeout
	}
	err = a.open(ctx, method, path, query, body, timeout, func(h http.Header, r io.Reader) (err error) {
		if at, err = http.ParseTime(h.Get("Date")); err != nil {
			at = time.Now()
		}
		answer, err = io.ReadAll(io.LimitReader(r, limit+1))
		if err == nil && int64(len(answer)) > limit {
			err = fmt.Errorf("the body is larger than %d MiB", limit>>20)
		}
		return err
	})
	return answer, at, err
}

// open makes a request and hands the body of a good answer to read, as it comes in. Its
// errors name the method, the path and the status, and never the key or a query.
func (a *API) open(ctx context.Context, method, path string, query url.Values, body []byte, timeout time.Duration, read func(http.Header, io.Reader) error) error {
	wrap := func(err error) error { return fmt.Errorf("%s %s: %w", method, path, err) }
	if err := a.paused(); err != nil {
		return err
	}
	if err := a.budget.Wait(ctx); err != nil {
		return wrap(err)
	}
	if err := a.paused(); err != nil { // meanwhile
		return err
	}
	address := a.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(limited, method, address, bytes.NewReader(body))
	if err != nil {
		return wrap(errors.New("the path makes no URL"))
	}
	r.Header.Set("Authorization", "Bearer "+a.key)
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", a.agent)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	broken := func(err error) error {
		if ctx.Err() != nil {
			return wrap(ctx.Err())
		}
		if limited.Err() != nil {
			return wrap(fmt.Errorf("no whole answer within %s", timeout))
		}
		return wrap(a.plain(err))
	}
	answer, err := a.client.Do(r)
	if err != nil {
		return broken(err)
	}
	defer answer.Body.Close() //nolint:errcheck // what was needed of it has been read
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
		return a.refused(method, path, answer, text)
	}
	if err := read(answer.Header, answer.Body); err != nil {
		return broken(fmt.Errorf("%d, %w", answer.StatusCode, err))
	}
	return nil
}

// plain is a transport's error without the address, which may be one that is signed.
func (a *API) plain(err error) error {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the body is cut off")
	}
	return errors.New(strings.ReplaceAll(sentence(err.Error()), a.key, "…"))
}

// paused is a *relay.Later while nothing may be asked.
func (a *API) paused() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := time.Until(a.pause.until)
	if left <= 0 {
		return nil
	}
	return &relay.Later{Cause: a.pause.cause, After: left}
}

// hold lets nothing be asked for a while. A pause is never made shorter.
func (a *API) hold(cause error, d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if until := time.Now().Add(d); until.After(a.pause.until) {
		a.pause = pause{until, cause}
	}
}

// odd reports what was not understood, once.
func (a *API) odd(format string, args ...any) {
	if a.report == nil {
		return
	}
	what := fmt.Sprintf(format, args...)
	a.mu.Lock()
	known := a.seen[what]
	if len(a.seen) >= maxOdd {
		clear(a.seen)
	}
	a.seen[what] = true
	a.mu.Unlock()
	if !known {
		a.report(what)
	}
}

// An Account is what an API key belongs to.
type Account struct {
	Organization, Project, ProjectName string
}

// WhoAmI asks what the key belongs to. Not every key may ask. The error is
// [relay.ErrKeyRefused] if the provider does not take the key.
func (a *API) WhoAmI(ctx context.Context) (Account, error) {
	r, err := detail[struct {
		Organization word `json:"organization_id"`
		Project      word `json:"project_id"`
		ProjectName  word `json:"project_name"`
	}](ctx, a, "/v1/whoami", nil)
	return Account{string(r.is.Organization), string(r.is.Project), string(r.is.ProjectName)}, err
}
