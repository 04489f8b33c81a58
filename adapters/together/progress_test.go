package together

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"together-relay/relay"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	bare := func(list string) string { return strings.TrimSuffix(strings.TrimPrefix(list, `{"data":[`), `]}`) }
	loss, percent := 1.98, 40.0
	for _, c := range []struct {
		name, id string
		says     map[string]string
		want     Progress
		asked    int
	}{
		{"running", tuneID, map[string]string{
			tunePath:    bare(tune(`"status":"running","steps_completed":48,"total_steps":120,"progress":{"estimate_available":true,"seconds_remaining":90}`)),
			metricsPath: twoMetrics,
		}, Progress{Kind: KindFineTune, State: "running", Step: 48, Total: 120, Loss: &loss, Percent: &percent, Left: 90 * time.Second}, 2},
		{"no estimate", tuneID, map[string]string{
			tunePath: bare(tune(`"status":"queued","progress":{"estimate_available":false,"seconds_remaining":90}`)),
		}, Progress{Kind: KindFineTune, State: "queued"}, 1},
		{"done", tuneID, map[string]string{
			tunePath: bare(tune(`"status":"completed"`)), logPath: logOf(), savesPath: logOf(), metricsPath: twoMetrics,
		}, Progress{Kind: KindFineTune, State: "completed", Over: true, Type: "fine_tune.completed"}, 4},
		{"details fail", tuneID, map[string]string{
			tunePath: bare(tune(`"status":"user_error"`)), logPath: "#500 ", savesPath: "#500 ",
		}, Progress{Kind: KindFineTune, State: "user_error", Over: true, Type: "fine_tune.failed"}, 3},
		{"batch", batchID, map[string]string{"/v1/batches/" + batchID: oneBatch(`"status":"IN_PROGRESS","progress":40`)},
			Progress{Kind: KindBatch, State: "in_progress", Percent: &percent}, 1},
		{"batch done", "batch-xyz", map[string]string{"/v1/batches/batch-xyz": oneBatch(`"id":"batch-xyz","progress":null,"status":"EXPIRED"`)},
			Progress{Kind: KindBatch, State: "expired", Over: true, Type: "batch.expired"}, 1},
		{"evaluation", evalID, map[string]string{"/v1/evaluation/" + evalID: oneEval(`"status":"completed","results":{}`)},
			Progress{Kind: KindEvaluation, State: "completed", Over: true, Type: "evaluation.completed"}, 1},
		{"evaluation by asking", "0af5", map[string]string{"/v1/fine-tunes/0af5": "#400 {}", "/v1/evaluation/0af5": oneEval(`"workflow_id":"0af5","status":"pending"`)},
			Progress{Kind: KindEvaluation, State: "pending"}, 3},
	} {
		p := provide(c.says)
		got, err := p.client(t, APIConfig{Transport: p}).Progress(t.Context(), c.id)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got.Over != (got.Fact != nil) || got.Fact != nil && (got.Fact.Event.Type != got.Type || got.Fact.Event.Resource != c.id) {
			t.Errorf("%s: %+v", c.name, got.Fact)
		}
		got.Fact = nil
		if diff := cmp.Diff(c.want, got); diff != "" || len(p.requests()) != c.asked {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestProgressOfNothing(t *testing.T) {
	t.Parallel()
	p := provide(nil)
	a := p.client(t, APIConfig{Transport: p})
	for _, id := range []string{"", "ft-none", "x", "../models"} {
		if _, err := a.Progress(t.Context(), id); !errors.Is(err, relay.ErrGone) {
			t.Error(err)
		}
	}
	for answer, refused := range map[string]bool{"#500 ": false, "#401 ": true} {
		p = provide(map[string]string{tunes + "/ft-1": answer})
		_, err := p.client(t, APIConfig{Transport: p}).Progress(t.Context(), "ft-1")
		if err == nil || errors.Is(err, relay.ErrGone) || errors.Is(err, relay.ErrKeyRefused) != refused || len(p.requests()) != 1 {
			t.Error(err)
		}
	}
}

func TestWebhooks(t *testing.T) {
	t.Parallel()
	const hook = `{"id":"wh_1","url":"https://mine.example/t","events":["batch.done"],"secret":"hush-hush"}`
	p := provide(nil)
	var body string
	p.does = map[string]http.HandlerFunc{
		"/v1/webhooks": func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				_, _ = w.Write([]byte(`{"data":[` + hook + `]}`))
				return
			}
			text := make([]byte, 1000)
			n, _ := r.Body.Read(text)
			body = r.Header.Get("Content-Type") + " " + string(text[:n])
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(hook))
		},
		"/v1/webhooks/wh_1": func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodDelete {
				w.WriteHeader(http.StatusBadRequest)
			}
		},
	}
	a := p.serve(t)
	want := Webhook{"wh_1", "https://mine.example/t", []string{"batch.done"}}
	made, err := a.RegisterWebhook(t.Context(), want.URL, want.Events, "hush-hush")
	if diff := cmp.Diff(want, made); diff != "" || err != nil || body != `application/json {"events":["batch.done"],"secret":"hush-hush","url":"https://mine.example/t"}` {
		t.Error(diff, err, body)
	}
	all, err := a.Webhooks(t.Context())
	if diff := cmp.Diff([]Webhook{want}, all); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if err := a.RemoveWebhook(t.Context(), "wh_1"); err != nil {
		t.Error(err)
	}
	if err := a.RemoveWebhook(t.Context(), "wh_2"); !errors.Is(err, relay.ErrGone) || errors.Is(err, ErrNoWebhooks) {
		t.Error(err)
	}
}

func TestNoWebhooks(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{`#404 {"error":"no route for hush-hush"}`, "#404 <html>", "#405 "} {
		p := provide(map[string]string{"/v1/webhooks": answer, "/v1/webhooks/wh_1": answer})
		a := p.client(t, APIConfig{Transport: p})
		_, one := a.RegisterWebhook(t.Context(), "https://mine.example", nil, "another secret")
		_, two := a.Webhooks(t.Context())
		three := a.RemoveWebhook(t.Context(), "wh_1")
		for _, err := range []error{one, two, three} {
			if !errors.Is(err, ErrNoWebhooks) {
				t.Error(answer, err)
			}
		}
		if _, err := a.RegisterWebhook(t.Context(), "https://mine.example", nil, "hush-hush"); !errors.Is(err, ErrNoWebhooks) || strings.Contains(err.Error(), "hush") {
			t.Error(err)
		}
	}
}
