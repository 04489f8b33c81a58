package togethersim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"together-relay/adapters/together/togethersim"
)

// small is a world with three jobs, three batches and ten models.
func small(t *testing.T) *bench {
	t.Helper()
	b := newBench(t, togethersim.Config{Models: 10})
	for _, id := range []string{"1", "2", "3"} {
		stages := []togethersim.Stage{{At: start, Status: "queued"}, {At: start.Add(time.Minute), Status: "running"}, {At: start.Add(2 * time.Minute), Status: "compressing"}}
		b.AddFineTune(togethersim.FineTune{
			Script: togethersim.Script{ID: "ft-" + id, Stages: stages}, Price: 4_250_000_000, Steps: 5,
			Metrics: []togethersim.Metric{{At: start, Step: 3, Train: new(1.25)}},
		})
		b.AddBatch(togethersim.Batch{Script: togethersim.Script{ID: "b" + id}})
	}
	b.clock.Turn(10 * time.Minute)
	return b
}

func TestErrors(t *testing.T) {
	t.Parallel()
	b := small(t)
	for status, want := range map[int]string{401: `{"error":{`, 429: `{"error":{`, 500: `{"error":{`, 502: "<html>"} {
		b.Set(togethersim.Faults{Status: status})
		got, header, text := b.ask("GET", "/v1/batches", nil)
		if got != status || !strings.HasPrefix(string(text), want) || header.Get("Retry-After") != "" {
			t.Errorf("%d: %d %s", status, got, text)
		}
	}
	for hint, want := range map[togethersim.Hint]string{togethersim.HintReset: "2", togethersim.HintSeconds: "2", togethersim.HintMillis: "1500"} {
		b.Set(togethersim.Faults{Status: 429, Hint: hint, After: 1500 * time.Millisecond})
		if _, header, _ := b.ask("GET", "/v1/batches", nil); header.Get(string(hint)) != want {
			t.Errorf("%s: %v, want %s", hint, header, want)
		}
	}
	b.Set(togethersim.Faults{Status: 429, Hint: togethersim.HintDate, After: time.Hour})
	_, header, _ := b.ask("GET", "/v1/batches", nil)
	if at, err := http.ParseTime(header.Get("Retry-After")); err != nil || time.Until(at) < 50*time.Minute {
		t.Errorf("as a date: %v", header)
	}
	b.Set(togethersim.Faults{Status: 500, Only: "/v1/fine-tunes"})
	b.get("/v1/batches")
	if status, _, _ := b.ask("GET", "/v1/fine-tunes/ft-1/events", nil); status != 500 {
		t.Errorf("only fine-tunes: %d", status)
	}
}

func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	b := small(t)
	b.Set(togethersim.Faults{Cut: true})
	r, err := http.NewRequest(http.MethodGet, b.url+"/v1/batches", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer key")
	answer, err := b.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); !errors.Is(err, io.ErrUnexpectedEOF) || len(text) == 0 {
		t.Errorf("cut off: %d bytes, %v", len(text), err)
	}

	b.Set(togethersim.Faults{Reset: true})
	if answer, err := b.http.Do(r.Clone(t.Context())); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("reset: %v %v", answer, err)
	}

	b.Set(togethersim.Faults{Slow: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if answer, err := b.http.Do(r.Clone(ctx)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow: %v %v", answer, err)
	}

	b.Set(togethersim.Faults{Huge: 3 << 20})
	status, _, text := b.ask("GET", "/v1/batches", nil)
	if status != 200 || len(text) != 3<<20 || !json.Valid(text) {
		t.Errorf("huge: %d, %d bytes", status, len(text))
	}
}

func TestRedirect(t *testing.T) {
	t.Parallel()
	b := small(t)
	id := b.AddFile(togethersim.File{Content: []byte("content")})
	other := httptest.NewServer(b.Handler())
	defer other.Close()
	// The port alone makes no other host.
	b.Set(togethersim.Faults{Redirect: strings.Replace(other.URL, "127.0.0.1", "localhost", 1)})
	if status, _, text := b.ask("GET", "/v1/files/"+id+"/content", nil); status != 200 || string(text) != "content" {
		t.Errorf("without the key: %d %s", status, text)
	}
	b.Set(togethersim.Faults{Redirect: b.url})
	if status, _, text := b.ask("GET", "/v1/files/"+id+"/content", nil); status != 400 {
		t.Errorf("with the key: %d %s", status, text)
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	b := small(t)
	for _, v := range []struct {
		name             string
		dials            togethersim.Faults
		batches, tunes   string // how the bodies begin
		nBatches, models int
	}{
		{"no faults", togethersim.Faults{}, `[{`, `{"data":[{`, 3, 10},
		{"empty", togethersim.Faults{Empty: true}, `[]`, `{"data":[]}`, 0, 0},
		{"null", togethersim.Faults{Null: true}, `null`, `{"data":null}`, 0, 0},
		{"swap", togethersim.Faults{Swap: true}, `{"data":[{`, `[{`, 3, 10},
		{"malformed", togethersim.Faults{Malformed: true}, `[{`, `{"data":[{`, 4, 11},
		{"hidden", togethersim.Faults{Hidden: []string{"b2", "zai-org/GLM-5"}}, `[{`, `{"data":[{`, 2, 9},
		{"shrink", togethersim.Faults{Shrink: 0.5}, `[{`, `{"data":[{`, 3, 5},
	} {
		b.Set(v.dials)
		body := func(path string) string { return string(must(b.ask("GET", path, nil))) }
		if text := body("/v1/batches"); !strings.HasPrefix(text, v.batches) || strings.Count(text, `"id":`) != v.nBatches {
			t.Errorf("%s: %s", v.name, text)
		}
		if text := body("/v1/fine-tunes"); !strings.HasPrefix(text, v.tunes) {
			t.Errorf("%s: %s", v.name, text)
		}
		for _, path := range []string{"/v1/models", "/v2/supported-models"} {
			if n := strings.Count(body(path), `"id":`); n != v.models {
				t.Errorf("%s: %d in %s, want %d", v.name, n, path, v.models)
			}
		}
		if got := b.object("/v1/batches/b2")["id"]; got != "b2" {
			t.Errorf("%s: asked for by itself, the batch is %v", v.name, got)
		}
	}
	b.Set(togethersim.Faults{Missing: []string{"b2"}})
	if status, _, _ := b.ask("GET", "/v1/batches/b2", nil); status != http.StatusNotFound || len(b.rows("/v1/batches", "")) != 2 {
		t.Errorf("missing: %d", status)
	}
	b.Move("b2", "CANCELLED")
	b.Set(togethersim.Faults{OneL: true})
	if got := b.object("/v1/batches/b2")["status"]; got != "CANCELED" {
		t.Errorf("with one l: %v", got)
	}
	b.Set(togethersim.Faults{Garbled: []string{"b2"}})
	if r := b.rows("/v1/batches", "")[1]; r["id"] != "b2" || str(r["status"]) != "" {
		t.Errorf("garbled: %v", r)
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	b := small(t)
	for path, vs := range map[string][]struct {
		dials togethersim.Faults
		want  string
	}{
		"/v1/fine-tunes/ft-1": {
			{togethersim.Faults{}, `"total_price":4250000000,`},
			{togethersim.Faults{Strings: true}, `"total_price":"4250000000",`},
			{togethersim.Faults{Floats: true}, `"total_price":4250000000.0,`},
			{togethersim.Faults{StrangeFields: true}, `"zz_internal":{`},
		},
		"/v1/fine-tunes/ft-1/events": {
			{togethersim.Faults{}, `"type":"model_compressing"`},
			{togethersim.Faults{UpperCase: true}, `"type":"COMPRESSING_MODEL"`},
			{togethersim.Faults{UpperCase: true}, `"type":"JOB_START"`},
			{togethersim.Faults{StrangeEvents: true}, `"type":"flux_capacitor_charged"`},
		},
		"/v1/fine-tunes/ft-1/metrics": {
			{togethersim.Faults{}, `"timestamp":` + strconv.FormatInt(start.UnixNano()+587, 10)},
			{togethersim.Faults{NaN: true}, `"train/grad_norm":NaN`},
			{togethersim.Faults{Floats: true}, `"timestamp":1.78`},
		},
		"/v1/batches": {
			{togethersim.Faults{}, `"status":"VALIDATING"`},
			{togethersim.Faults{StrangeStatus: true}, `"status":"defragmenting"`},
			{togethersim.Faults{OtherCase: true}, `"status":"validating"`},
		},
		"/v2/supported-models": {{togethersim.Faults{StrangeStatus: true}, `"status":"SUPPORTED_MODEL_STATUS_SUPPORTED"`}},
	} {
		for _, v := range vs {
			b.Set(v.dials)
			if text := must(b.ask("GET", path, nil)); !bytes.Contains(text, []byte(v.want)) {
				t.Errorf("%s with %+v: no %s in %s", path, v.dials, v.want, text)
			}
		}
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	b := small(t)
	bodies := func(seed uint64) (n int, texts string) {
		b := small(t)
		good := string(must(b.ask("GET", "/v1/batches", nil)))
		b.Set(togethersim.Faults{Rate: 0.4, Seed: seed})
		for range 200 {
			status, _, text := b.ask("GET", "/v1/batches", nil)
			if string(text) != good {
				n++
			}
			texts += strconv.Itoa(status) + string(text)
		}
		return n, texts
	}
	n, texts := bodies(1)
	if n < 30 || n > 90 { // some of the faults do not show in a list of batches
		t.Errorf("%d of 200 requests failed", n)
	}
	if _, again := bodies(1); again != texts {
		t.Error("the same seed makes other faults")
	}
	if _, other := bodies(2); other == texts {
		t.Error("another seed makes the same faults")
	}
	b.Set(togethersim.Faults{Rate: 1})
	for range 100 { // none of them breaks what a job says by itself
		status, _, text := b.ask("GET", "/v1/fine-tunes/ft-1/events", nil)
		if status == 200 && strings.Count(string(text), `"created_at"`) < 3 {
			t.Errorf("the log is not whole: %s", text)
		}
	}
}

func TestWebhooks(t *testing.T) {
	t.Parallel()
	b := small(t)
	b.Set(togethersim.Faults{Webhooks: true})
	status, _, text := b.ask("POST", "/v1/webhooks", strings.NewReader(`{"url":"https://relay.example","events":["batch.done"],"secret":"s"}`))
	var made struct{ ID string }
	if err := json.Unmarshal(text, &made); status != http.StatusCreated || err != nil || made.ID == "" {
		t.Fatalf("register: %d %s", status, text)
	}
	if rows := b.rows("/v1/webhooks", "data"); len(rows) != 1 || rows[0]["url"] != "https://relay.example" {
		t.Errorf("list: %v", rows)
	}
	for _, want := range []int{http.StatusOK, http.StatusNotFound} {
		if status, _, text := b.ask("DELETE", "/v1/webhooks/"+made.ID, nil); status != want {
			t.Errorf("remove: %d %s, want %d", status, text, want)
		}
	}
	if status, _, _ := b.ask("POST", "/v1/webhooks", strings.NewReader(`{}`)); status != http.StatusBadRequest {
		t.Errorf("without a URL: %d", status)
	}
}
