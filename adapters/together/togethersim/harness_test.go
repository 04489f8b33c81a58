package togethersim_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/goleak"

	"together-relay/adapters/together/togethersim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 7, 1, 9, 0, 0, 0, time.UTC)

// bench is a world with a clock to turn, and somebody who asks.
type bench struct {
	*togethersim.World
	clock *togethersim.Clock
	t     *testing.T
	url   string
	key   string
	http  *http.Client
}

func newBench(t *testing.T, c togethersim.Config) *bench {
	t.Helper()
	clock := togethersim.NewClock(start)
	c.Start, c.Now = start, clock.Now
	w := togethersim.New(c)
	srv := httptest.NewServer(w.Handler())
	t.Cleanup(srv.Close)
	client := srv.Client()
	t.Cleanup(client.CloseIdleConnections)
	return &bench{World: w, clock: clock, t: t, url: srv.URL, key: "key", http: client}
}

// ask sends a request and returns what came back; the status is 0 if that is no whole answer.
func (b *bench) ask(method, path string, body io.Reader) (status int, header http.Header, text []byte) {
	b.t.Helper()
	r, err := http.NewRequest(method, b.url+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+b.key)
	answer, err := b.http.Do(r)
	if err != nil {
		return 0, nil, nil
	}
	defer answer.Body.Close()
	text, err = io.ReadAll(answer.Body)
	if err != nil {
		return 0, answer.Header, text
	}
	return answer.StatusCode, answer.Header, text
}

// get is what is at a path, which has to be there and be JSON.
func (b *bench) get(path string) any {
	b.t.Helper()
	status, _, text := b.ask(http.MethodGet, path, nil)
	if status != http.StatusOK {
		b.t.Fatalf("GET %s: %d %s", path, status, text)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		b.t.Fatalf("GET %s: %v in %s", path, err, text)
	}
	return v
}

func (b *bench) object(path string) map[string]any {
	b.t.Helper()
	m, ok := b.get(path).(map[string]any)
	if !ok {
		b.t.Fatalf("GET %s: no object", path)
	}
	return m
}

// rows are the objects of a list, which is an array or has one in the member.
func (b *bench) rows(path, member string) []map[string]any {
	b.t.Helper()
	v := b.get(path)
	if m, ok := v.(map[string]any); ok {
		v = m[member]
	}
	list, ok := v.([]any)
	if !ok {
		b.t.Fatalf("GET %s: no list", path)
	}
	rows := []map[string]any{}
	for _, item := range list {
		r, _ := item.(map[string]any)
		rows = append(rows, r)
	}
	return rows
}

func str(v any) string {
	s, _ := v.(string)
	return s
}
