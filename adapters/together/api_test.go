package together

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"together-relay/relay"
)

const testKey = "tgp_v1_test-key"

// A provider is the API as a test writes it: bodies by path, and what was asked.
type provider struct {
	mu    sync.Mutex
	says  map[string]string           // bodies by path, "#502 " before one for another status
	does  map[string]http.HandlerFunc // by path
	asked []string
	odd   []string
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, strings.TrimSuffix(r.Method+" "+r.URL.Path+"?"+r.URL.RawQuery, "?"))
	body, ok := p.says[r.URL.Path]
	do := p.does[r.URL.Path]
	p.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+testKey {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if do != nil {
		do(w, r)
		return
	}
	code := 404
	if ok {
		code = 200
	}
	if rest, found := strings.CutPrefix(body, "#"); found {
		_, _ = fmt.Sscan(rest, &code)
		body = rest[min(len(rest), 4):]
	}
	w.WriteHeader(code)
	fmt.Fprint(w, body)
}

// RoundTrip answers without a network, so that a test can turn the clock.
func (p *provider) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	answer := w.Result()
	answer.Request = r
	return answer, nil
}

// requests are what was asked since the last call.
func (p *provider) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	return asked
}

func (p *provider) set(path, body string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.says[path] = body
}

func provide(says map[string]string) *provider {
	if says == nil {
		says = map[string]string{}
	}
	return &provider{says: says}
}

// serve returns a client of the provider over a real connection.
func (p *provider) serve(t testing.TB) *API {
	t.Helper()
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	return p.client(t, APIConfig{Base: server.URL, PerMinute: 1e6})
}

func (p *provider) client(t testing.TB, cfg APIConfig) *API {
	t.Helper()
	cfg.Key = testKey
	cfg.PerMinute = cmp.Or(cfg.PerMinute, 1e6)
	cfg.Odd = func(what string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.odd = append(p.odd, what)
	}
	a, err := NewAPI(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func TestBase(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                              "https://api.together.ai",
		"https://api.together.xyz/v1":   "https://api.together.xyz",
		"https://api.together.ai/v2/":   "https://api.together.ai",
		"https://proxy.example/t/v1//":  "https://proxy.example/t",
		"http://127.0.0.1:80":           "http://127.0.0.1:80",
		"http://localhost:8081/v1":      "http://localhost:8081",
		"http://[::1]:8081":             "http://[::1]:8081",
		"http://api.together.ai":        "! the key would travel in the clear",
		"http://10.0.0.1":               "! the key would travel in the clear",
		"ftp://x":                       "! https is needed",
		"api.together.ai":               "! must be a URL",
		"https://user:pass@example.com": "! must be a URL",
	} {
		a, err := NewAPI(APIConfig{Key: testKey, Base: in})
		if part, bad := strings.CutPrefix(want, "! "); bad {
			if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "pass") {
				t.Errorf("%q: %v", in, err)
			}
			continue
		}
		if err != nil || a.Base() != want {
			t.Errorf("%q: %v, %v", in, a, err)
		}
	}
	if _, err := NewAPI(APIConfig{Key: "two\nlines"}); err == nil || strings.Contains(err.Error(), "two") {
		t.Error(err)
	}
}

// Pitfall: 429 with x-ratelimit-reset, Retry-After, neither.
func TestTooManyRequestsPausesTheResourceAsLongAsTheProviderSays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header map[string]string
		want   time.Duration
	}{
		{nil, 0},
		{map[string]string{"x-ratelimit-reset": "7"}, 7 * time.Second},
		{map[string]string{"x-ratelimit-reset": "0.5"}, time.Second / 2},
		{map[string]string{"Retry-After": "20", "x-ratelimit-reset": "7"}, 20 * time.Second},
		{map[string]string{"Retry-After-Ms": "1500", "Retry-After": "20"}, 1500 * time.Millisecond},
		{map[string]string{"Retry-After": "soon", "x-ratelimit-reset": "7"}, 7 * time.Second},
		{map[string]string{"Retry-After": "99999999999999999999"}, 15 * time.Minute},
		{map[string]string{"Retry-After": "-1"}, 0},
		{map[string]string{"Retry-After": "NaN"}, 0},
		{map[string]string{"Retry-After": "Sat, 01 Jan 2000 00:01:00 GMT"}, time.Minute}, // a bubble's clock starts at 2000
	} {
		t.Run(fmt.Sprint(c.header), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := provide(map[string]string{"/v1/models": "[]"})
				p.does = map[string]http.HandlerFunc{"/v1/batches": func(w http.ResponseWriter, _ *http.Request) {
					for k, v := range c.header {
						w.Header().Set(k, v)
					}
					w.WriteHeader(http.StatusTooManyRequests)
					fmt.Fprint(w, `{"error":{"message":"slow down","type":"rate"}}`)
				}}
				a := p.client(t, APIConfig{Transport: p})
				_, err := a.get(t.Context(), "/v1/batches", nil, maxList)
				later, ok := errors.AsType[*relay.Later](err)
				if !ok || later.After != c.want || err.Error() != "GET /v1/batches: 429 Too Many Requests: slow down" {
					t.Fatalf("%v, %+v", err, later)
				}
				if _, err = a.get(t.Context(), "/v1/models", nil, maxList); err != nil { // another resource
					t.Error(err)
				}
			})
		})
	}
}

// Pitfall: 401 must not be retried.
func TestRefusedKeyPausesAllRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := provide(map[string]string{
			"/v1/batches": `#401 {"error":{"message":"Invalid API key provided: ` + testKey + `","code":"invalid_api_key"}}`,
			"/v1/models":  "[]",
		})
		a := p.client(t, APIConfig{Transport: p})
		for range 3 {
			for _, path := range []string{"/v1/batches", "/v1/models"} {
				_, err := a.get(t.Context(), path, nil, maxList)
				later, ok := errors.AsType[*relay.Later](err)
				if !ok || !errors.Is(err, relay.ErrKeyRefused) || later.After > 5*time.Minute || later.After < time.Minute {
					t.Errorf("%s: %v", path, err)
				}
				if strings.Contains(err.Error(), testKey) {
					t.Errorf("the key is in %v", err)
				}
			}
			time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		}
		if asked := p.requests(); len(asked) != 1 {
			t.Errorf("it asked %v", asked)
		}
		time.Sleep(2 * time.Minute) //nolint:forbidigo // the bubble's clock
		if _, err := a.get(t.Context(), "/v1/models", nil, maxList); err != nil {
			t.Error(err)
		}
	})
}

// Pitfall: an HTML 502, and error bodies of four shapes.
func TestErrorsNameWhatFailed(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`#502 <html><body>Bad Gateway</body></html>`:                                           "GET /x: 502 Bad Gateway: the body is HTML",
		`#500 {"error":{"message":"it broke","type":"server_error","param":null,"code":null}}`: "GET /x: 500 Internal Server Error: it broke",
		`#400 {"error":"no such endpoint"}`:                                                    "GET /x: 400 Bad Request: no such endpoint",
		`#422 {"code":"c","message":"queue error","param":"p","type":"t"}`:                     "GET /x: 422 Unprocessable Entity: queue error",
		`#400 {"code":123,"message":"numbered"}`:                                               "GET /x: 400 Bad Request: numbered",
		`#400 plain` + "\n\t" + `text`:                                                         "GET /x: 400 Bad Request: plain text",
		`#500 `:                                                                                "GET /x: 500 Internal Server Error",
		`#503 [1]`:                                                                             "GET /x: 503 Service Unavailable: [1]",
		`#400 "see https://s3.example/f?X-Amz-Signature=abc now"`:                              "GET /x: 400 Bad Request: see https://s3.example/f now",
		`#404 {"error":"nope"}`:                                                                "GET /x: 404 Not Found: nope",
		`#404 <html>`:                                                                          "GET /x: 404 Not Found: the body is HTML",
		`#403 {"error":{"message":"no"}}`:                                                      "GET /x: 403 Forbidden, the key has no right to this: no",
		`#402 {}`:                                                                              "GET /x: 402 Payment Required, the spending limit is reached",
		`<html>`:                                                                               "GET /x: 200, the body is HTML",
		`{"data":[`:                                                                            "GET /x: 200, the body is not JSON, or cut off",
		`{"error":"with 200"}`:                                                                 "GET /x: 200, the body is no list that can be read",
		`7`:                                                                                    "GET /x: 200, the body is no list that can be read",
	} {
		p := provide(map[string]string{"/x": body})
		a := p.client(t, APIConfig{Transport: p})
		_, err := list(t.Context(), a, "/x", nil, (*batch).id)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, not %s", body, err, want)
		}
		if errors.Is(err, relay.ErrGone) != strings.HasPrefix(body, `#404 {`) {
			t.Errorf("%s: gone", body)
		}
		_, later := errors.AsType[*relay.Later](err)
		if later != strings.HasPrefix(body, "#402") {
			t.Errorf("%s: later %v", body, later)
		}
		if _, err := a.get(t.Context(), "/y", nil, 1); errors.As(err, new(*relay.Later)) {
			t.Errorf("%s pauses the whole key", body)
		}
	}
}

func TestOverloadHints(t *testing.T) {
	t.Parallel()
	p := &provider{does: map[string]http.HandlerFunc{"/x": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(http.StatusServiceUnavailable)
	}}}
	_, err := p.serve(t).get(t.Context(), "/x", nil, 1)
	if later, ok := errors.AsType[*relay.Later](err); !ok || later.After != 3*time.Second || status(err) != 503 {
		t.Error(err)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	p := provide(map[string]string{"/x": "12345678"})
	p.does = map[string]http.HandlerFunc{"/cut": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "[")
	}}
	a := p.serve(t)
	if body, err := a.get(t.Context(), "/x", nil, 8); err != nil || string(body) != "12345678" {
		t.Error(body, err)
	}
	if _, err := a.get(t.Context(), "/x", nil, 7); err == nil || !strings.Contains(err.Error(), "GET /x: 200, the body is larger") {
		t.Error(err)
	}
	if _, err := a.get(t.Context(), "/cut", nil, 7); err == nil || err.Error() != "GET /cut: the body is cut off" {
		t.Error(err)
	}
}

// stall is a provider that never answers.
type stall struct{}

func (stall) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := new(provider).client(t, APIConfig{Transport: stall{}})
		began := time.Now()
		_, err := a.get(t.Context(), "/x", nil, 7)
		if err == nil || err.Error() != "GET /x: no whole answer within 10s" || time.Since(began) != detailTimeout {
			t.Error(err)
		}
	})
}

func TestBudgetIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := provide(map[string]string{"/x": "[]"})
		a := p.client(t, APIConfig{Transport: p, PerMinute: 60})
		began := time.Now()
		for range 60 + 50 {
			if _, err := a.get(t.Context(), "/x", nil, 7); err != nil {
				t.Fatal(err)
			}
		}
		// 10 at once, and 50 a minute beside: no minute has more than 60.
		if took := time.Since(began).Round(time.Second); took != 2*time.Minute {
			t.Errorf("110 requests took %s at 60 a minute", took)
		}
	})
}

func TestKeyStaysAtItsHost(t *testing.T) {
	t.Parallel()
	var got http.Header
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		fmt.Fprint(w, "from storage")
	}))
	defer storage.Close()
	p := provide(nil)
	p.does = map[string]http.HandlerFunc{
		"/away":     http.RedirectHandler(storage.URL+"/f?X-Amz-Signature=abc", http.StatusFound).ServeHTTP,
		"/near":     http.RedirectHandler("/nearer", http.StatusTemporaryRedirect).ServeHTTP,
		"/nearer":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") },
		"/loop":     http.RedirectHandler("/loop", http.StatusFound).ServeHTTP,
		"/nowhere":  http.RedirectHandler("http://127.0.0.1:1/f?X-Amz-Signature=abc", http.StatusFound).ServeHTTP,
		"/nonsense": http.RedirectHandler("http://127.0.0.1:x/f?X-Amz-Signature=abc", http.StatusFound).ServeHTTP,
	}
	a := p.serve(t)
	if body, err := a.get(t.Context(), "/away", nil, 100); string(body) != "from storage" || err != nil || got.Get("Authorization") != "" {
		t.Errorf("%q, %v, %v", body, err, got)
	}
	if body, err := a.get(t.Context(), "/near", nil, 100); string(body) != "here" || err != nil {
		t.Error(err)
	}
	for _, path := range []string{"/loop", "/nowhere", "/nonsense"} {
		if _, err := a.get(t.Context(), path, nil, 100); err == nil || strings.Contains(err.Error(), "abc") || !strings.Contains(err.Error(), path) {
			t.Error(err)
		}
	}
	got = nil
	if _, _, err := a.do(t.Context(), http.MethodPost, "/away", nil, []byte("a secret"), 100); status(err) != 302 || got != nil {
		t.Errorf("a body was sent on: %v", err)
	}
}

func TestNoStepDownToPlainHTTP(t *testing.T) {
	t.Parallel()
	from := func(method, address string) *http.Request {
		u, _ := url.Parse(address)
		return &http.Request{Method: method, URL: u, Header: http.Header{"Authorization": {"Bearer x"}}}
	}
	first := from("GET", "https://api.together.ai/v1/x")
	if err := checkRedirect(from("GET", "http://api.together.ai/v1/x"), []*http.Request{first}); !errors.Is(err, http.ErrUseLastResponse) {
		t.Error(err)
	}
	sub := from("GET", "https://files.api.together.ai/v1/x")
	if err := checkRedirect(sub, []*http.Request{first}); err != nil || sub.Header.Get("Authorization") != "" {
		t.Error("the key goes to a subdomain")
	}
}

// Pitfall: one malformed job in a list must not block the others.
func TestMalformedRowIsLeftOutAndReportedOnce(t *testing.T) {
	t.Parallel()
	p := provide(map[string]string{"/v1/batches": `[{"id":"b1","status":"COMPLETED"},"what",{"status":"no id"},null,{"id":{}},{"id":17,"status":{}},{"id":"b2","status":"HIBERNATING","progress":{}}]`})
	a := p.serve(t)
	for range 3 {
		jobs, err := a.Batches(0).List(t.Context(), 0)
		if err != nil || len(jobs) != 2 || jobs[0].ID != "b1" || jobs[1].ID != "b2" || jobs[1].Over {
			t.Fatal(jobs, err)
		}
	}
	if len(p.odd) != 6 || !strings.Contains(p.odd[5], `the state "hibernating" is not known`) || strings.Contains(strings.Join(p.odd, ""), "what") {
		t.Error(p.odd)
	}
}

func TestWhoAmI(t *testing.T) {
	t.Parallel()
	p := provide(map[string]string{"/v1/whoami": `{"api_key_id":"k","organization_id":"o","project_id":"p","project_name":"P","project_slug":"s"}`})
	who, err := p.serve(t).WhoAmI(t.Context())
	if diff := gocmp.Diff(Account{"o", "p", "P"}, who); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestUserAgentAndAccept(t *testing.T) {
	t.Parallel()
	var got *http.Request
	p := &provider{does: map[string]http.HandlerFunc{"/x": func(_ http.ResponseWriter, r *http.Request) { got = r }}}
	a := p.client(t, APIConfig{Transport: p, UserAgent: "together-relay/1"})
	if _, err := a.get(t.Context(), "/x", url.Values{"a": {"b c"}}, 1); err != nil || got.UserAgent() != "together-relay/1" || got.URL.RawQuery != "a=b+c" {
		t.Error(got, err)
	}
	if body, _ := io.ReadAll(got.Body); !bytes.Equal(body, nil) || got.Header.Get("Content-Type") != "" {
		t.Error("a reading request has a body")
	}
}

func TestResourcesShareOneClient(t *testing.T) {
	t.Parallel()
	p := provide(map[string]string{tunes: tune(`"status":"odd"`), "/v1/batches": "[1]", "/v1/evaluation": "[2]", "/v1/files": "[3]", "/v1/models": catalogue})
	a := p.serve(t)
	models, err := a.Models(nil)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, of := range []relay.Resource{a.FineTunes(), a.Batches(0), a.Evaluations(), a.Files(), models} {
		all.Go(func() {
			for range 20 {
				if _, err := of.List(t.Context(), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if len(p.odd) != 4 {
		t.Error(p.odd)
	}
}
