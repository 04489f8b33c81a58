package togethersim_test

import (
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"together-relay/adapters/together/togethersim"
)

// everything is what all lists say, and all that can be asked about the jobs in them.
func (b *bench) everything() map[string]any {
	b.t.Helper()
	all := map[string]any{}
	for _, path := range []string{"/v1/whoami", "/v1/models", "/v1/models?dedicated=true", "/v2/supported-models", "/v1/fine-tunes/models/supported"} {
		all[path] = b.get(path)
	}
	for _, list := range []struct {
		path, member, id string
		parts            []string
	}{
		{"/v1/fine-tunes", "data", "id", []string{"", "/events", "/checkpoints", "/metrics"}},
		{"/v1/batches", "", "id", []string{""}},
		{"/v1/evaluation?limit=100", "", "workflow_id", []string{"", "/status"}},
		{"/v1/files", "data", "id", []string{""}},
	} {
		rows := b.rows(list.path, list.member)
		all[list.path] = rows
		base, _, _ := strings.Cut(list.path, "?")
		for _, r := range rows {
			for _, part := range list.parts {
				path := base + "/" + str(r[list.id]) + part
				all[path] = b.get(path)
			}
		}
	}
	return all
}

// TestMoments holds that what is seen at a moment, and what is true, does not depend on
// what was looked at before, nor on how far the world had to look ahead.
func TestMoments(t *testing.T) {
	t.Parallel()
	config := togethersim.Config{
		Seed: 3, Before: 4 * time.Hour, Models: 10,
		Rates: togethersim.Rates{FineTunes: 1.5, Batches: 1, Evaluations: 1, Files: 1, Models: 1},
	}
	walks, jumps := newBench(t, config), newBench(t, config)
	jumps.clock.Turn(11 * time.Hour)
	facts := jumps.Facts(start.Add(-4*time.Hour), start.Add(11*time.Hour))
	jumps.get("/v1/fine-tunes")
	var walked []togethersim.Fact
	last := start.Add(-4 * time.Hour)
	for hour := range 3 {
		now := start.Add(time.Duration(hour*4) * time.Hour)
		walks.clock.Turn(now.Sub(walks.clock.Now()))
		jumps.clock.Turn(now.Sub(jumps.clock.Now()))
		if diff := gocmp.Diff(jumps.everything(), walks.everything()); diff != "" {
			t.Fatalf("at %s: %s", now, diff)
		}
		walked = append(walked, walks.Facts(last, now)...)
		last = now
	}
	walked = append(walked, walks.Facts(last, start.Add(11*time.Hour))...)
	if diff := gocmp.Diff(facts, walked); diff != "" {
		t.Fatal(diff)
	}
	if !slices.IsSortedFunc(facts, func(a, b togethersim.Fact) int { return a.Since.Compare(b.Since) }) {
		t.Error("the facts are not in order")
	}
	config.Seed++
	if other := newBench(t, config); gocmp.Equal(other.get("/v1/fine-tunes"), walks.get("/v1/fine-tunes")) {
		t.Error("another seed makes the same world")
	}
}

func TestScripts(t *testing.T) {
	t.Parallel()
	b := newBench(t, togethersim.Config{Key: "key"})
	after := func(m int) time.Time { return start.Add(time.Duration(m) * time.Minute) }
	id := b.AddFineTune(togethersim.FineTune{
		Script: togethersim.Script{Stages: []togethersim.Stage{
			{At: start, Status: "pending"}, {At: after(1), Status: "running"}, {At: after(5), Status: "completed"},
		}},
		Model: "m", Steps: 10, Epochs: 1,
		Checkpoints: []togethersim.Checkpoint{{At: after(2), Shown: after(3), Step: 5, Label: "Intermediate"}},
		Metrics: []togethersim.Metric{
			{At: after(2), Step: 5, Train: new(1.5), Eval: new(1.75)}, {At: after(2), Step: 6, Train: new(math.NaN())},
		},
	})
	path := "/v1/fine-tunes/" + id
	status := func() string { return str(b.object(path)["status"]) }
	if !strings.HasPrefix(id, "ft-") || status() != "pending" {
		t.Errorf("%s is %s", id, status())
	}
	b.clock.Turn(2 * time.Minute)
	if n := len(b.rows(path+"/checkpoints", "data")); status() != "running" || n != 0 {
		t.Errorf("after 2 minutes: %s, %d checkpoints", status(), n)
	}
	if _, _, text := b.ask("GET", path+"/metrics?global_step_from=6", nil); !strings.Contains(string(text), `"train/loss":NaN`) {
		t.Errorf("no bare NaN in %s", text)
	}
	b.clock.Turn(time.Minute)
	rows := b.rows(path+"/metrics?global_step_to=5", "metrics")
	if n := len(b.rows(path+"/checkpoints", "data")); n != 1 || len(rows) != 2 || rows[0]["train/loss"] != 1.5 || rows[1]["eval/loss"] != 1.75 {
		t.Errorf("after 3 minutes: %d checkpoints, metrics %v", n, rows)
	}

	b.Move(id, "user_error")
	b.EditFineTune(id, func(f *togethersim.FineTune) { f.Error = "it was you" })
	b.clock.Turn(10 * time.Minute)
	log := b.rows(path+"/events", "data")
	if last := log[len(log)-1]; status() != "user_error" || last["message"] != "it was you" || last["type"] != "job_user_error" {
		t.Errorf("moved by hand: %s, %v", status(), last)
	}
	var kinds []string
	for _, f := range b.Facts(start.Add(-1), b.clock.Now()) {
		kinds = append(kinds, f.Type)
	}
	if want := []string{"fine_tune.created", "fine_tune.running", "fine_tune.checkpoint", "fine_tune.failed"}; !slices.Equal(kinds, want) {
		t.Errorf("facts %v, want %v", kinds, want)
	}
	b.Delete(id)
	if status, _, _ := b.ask("GET", path, nil); status != http.StatusNotFound || len(b.rows("/v1/fine-tunes", "data")) != 0 {
		t.Errorf("deleted: %d", status)
	}

	batch := b.AddBatch(togethersim.Batch{Output: "file-out", Good: 2})
	b.Move(batch, "COMPLETED")
	done := b.Facts(b.clock.Now().Add(-1), b.clock.Now())
	if len(done) != 2 || done[1].Type != "batch.done" || done[1].Data["total_tokens"] != int64(28) {
		t.Errorf("facts of the batch: %v", done)
	}
	file := b.AddFile(togethersim.File{})
	b.Move(file, "INVALID_FORMAT")
	if f := b.object("/v1/files/" + file); f["processing_status"] != "INVALID_FORMAT" {
		t.Errorf("the file: %v", f)
	}
	eval := b.AddEvaluation(togethersim.Evaluation{})
	b.Move(eval, "completed")
	if e := b.object("/v1/evaluation/" + eval + "/status"); e["status"] != "completed" {
		t.Errorf("the evaluation: %v", e)
	}

	b.AddModel(togethersim.Model{ID: "a/b"})
	for _, move := range []string{"deprecated", "removed", "added"} {
		b.clock.Turn(time.Hour)
		b.Move("a/b", move)
	}
	kinds = nil
	for _, f := range b.Facts(b.clock.Now().Add(-4*time.Hour), b.clock.Now()) {
		if f.Resource == "a/b" {
			kinds = append(kinds, f.Type)
		}
	}
	if want := []string{"model.added", "model.deprecated", "model.removed", "model.added"}; !slices.Equal(kinds, want) {
		t.Errorf("facts of the model: %v, want %v", kinds, want)
	}
}

// TestAnswers holds what is always so, whatever the state of the world.
func TestAnswers(t *testing.T) {
	t.Parallel()
	config := togethersim.Busy(5)
	config.Key = "the key"
	b := newBench(t, config)
	status, _, text := b.ask("GET", "/v1/fine-tunes", nil)
	if status != http.StatusUnauthorized || !strings.Contains(string(text), `{"error":{"code":"invalid_api_key","message":`) {
		t.Errorf("with a wrong key: %d %s", status, text)
	}
	b.key = config.Key
	for _, path := range []string{
		"/v1/fine-tunes/x", "/v1/fine-tunes/x/events", "/v1/fine-tunes/x/checkpoints", "/v1/fine-tunes/x/metrics", "/v1/batches/x",
		"/v1/evaluation/x", "/v1/evaluation/x/status", "/v1/files/x", "/v1/files/x/content", "/v1/webhooks", "/", "/v1/endpoints",
	} {
		if status, _, text := b.ask("GET", path, nil); status != http.StatusNotFound || !strings.Contains(string(text), `{"error":`) {
			t.Errorf("GET %s: %d %s", path, status, text)
		}
	}
	if n := b.Requests()["GET /v1/fine-tunes/{id}/events"]; n != 1 {
		t.Errorf("%d requests for events, want 1: %v", n, b.Requests())
	}
	b.clock.Turn(time.Hour)
	all := b.everything()
	if n := len(b.rows("/v1/evaluation", "")); n != 10 {
		t.Errorf("%d evaluations without a limit", n)
	}
	first, last := b.rows("/v1/evaluation", "")[0], b.rows("/v1/evaluation", "")[9]
	if str(first["created_at"]) < str(last["created_at"]) {
		t.Error("the oldest evaluations come first")
	}
	if len(all) < 100 {
		t.Errorf("only %d things can be asked for", len(all))
	}
	if n := strings.Count(string(must(b.ask("GET", "/v1/fine-tunes/"+str(b.rows("/v1/fine-tunes", "data")[0]["id"]), nil))), "LEAK"); n < 2 {
		t.Error("there is nothing to leak in a job")
	}
	for _, f := range b.Facts(start.Add(-24*time.Hour), start.Add(24*time.Hour)) {
		if text := asJSON(t, f.Data); strings.Contains(str(text["output_url"]), "LEAK") {
			t.Errorf("%v leaks", f)
		}
	}
}

func must(_ int, _ http.Header, text []byte) []byte { return text }

// TestTogether lets everybody use a world at once; the race detector looks on.
func TestTogether(t *testing.T) {
	t.Parallel()
	config := togethersim.Busy(9)
	config.Before, config.Keep = time.Hour, time.Hour
	b := newBench(t, config)
	b.Set(togethersim.Faults{Rate: 0.3})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				for _, path := range []string{"/v1/fine-tunes", "/v1/batches", "/v1/files", "/v1/models"} {
					b.ask("GET", path, nil)
				}
				b.clock.Turn(10 * time.Minute)
				b.Move(b.AddFineTune(togethersim.FineTune{}), "completed")
				b.Set(togethersim.Faults{Rate: 0.3})
				b.Facts(start, start.Add(time.Hour))
				b.Requests()
			}
		})
	}
	all.Wait()
}

func TestFast(t *testing.T) {
	t.Parallel()
	now := togethersim.Fast(start, 1e6)
	for before := now(); now().Sub(before) < time.Hour; {
	}
	if now().Before(start) {
		t.Error("the clock runs backwards")
	}
}
