package togethersim_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"together-relay/adapters/together/togethersim"
)

// A naive watcher asks for everything at every look and writes down what it sees first.
type naive struct {
	*bench
	seen   map[string]sight // by id, or by type and resource
	over   map[string]bool
	models map[string]bool
	first  bool
}

type sight struct {
	at   time.Time
	data map[string]any
}

func (n *naive) see(kind, resource, tell string, data map[string]any) {
	id := togethersim.ID(kind, resource, tell)
	if _, ok := n.seen[id]; !ok {
		n.seen[id] = sight{n.clock.Now(), data}
	}
}

func (n *naive) look() {
	for _, short := range n.rows("/v1/fine-tunes", "data") {
		n.fineTune(str(short["id"]))
	}
	for _, b := range n.rows("/v1/batches", "") {
		n.batch(b)
	}
	for _, e := range n.rows("/v1/evaluation?limit=100", "") {
		id := str(e["workflow_id"])
		results, _ := e["results"].(map[string]any)
		switch str(e["status"]) {
		case "completed":
			n.see("evaluation.completed", id, "", map[string]any{"evaluation_id": id, "evaluation_type": e["type"], "results": results, "result_file_id": results["result_file_id"]})
		case "error", "user_error":
			class := map[string]string{"error": "system", "user_error": "user"}[str(e["status"])]
			n.see("evaluation.failed", id, "", map[string]any{"evaluation_id": id, "evaluation_type": e["type"], "error_message": results["error"], "error_class": class})
		}
	}
	for _, f := range n.rows("/v1/files", "data") {
		id := str(f["id"])
		data := map[string]any{"file_id": id, "purpose": f["purpose"], "filename": f["filename"]}
		if report, ok := f["validation_report"].(map[string]any); ok && report["valid"] == false {
			data["error_message"], data["error_type"] = report["error"], report["error_type"]
		} else if ok {
			data["bytes"], data["lines"] = f["bytes"], report["nlines"]
		}
		switch str(f["processing_status"]) {
		case "COMPLETED":
			n.see("file.processed", id, "", data)
		case "INVALID_FORMAT":
			n.see("file.invalid", id, "", data)
		case "FAILED":
			n.see("file.failed", id, "", data)
		}
	}
	n.catalogue()
	n.first = false
}

func (n *naive) catalogue() {
	now := map[string]bool{}
	for _, m := range n.rows("/v1/models", "") {
		id := str(m["id"])
		now[id] = true
		if !n.models[id] && !n.first {
			n.seen["added "+id+" "+n.clock.Now().String()] = sight{at: n.clock.Now()}
		}
	}
	for id := range n.models {
		if !now[id] {
			n.seen["removed "+id+" "+n.clock.Now().String()] = sight{at: n.clock.Now()}
			n.deprecated(id, "serverless", "disappeared")
		}
	}
	n.models = now
	for after := ""; ; {
		page := n.object("/v2/supported-models?limit=7&after=" + after)
		rows, _ := page["data"].([]any)
		for _, item := range rows {
			m, _ := item.(map[string]any)
			if str(m["status"]) != "SUPPORTED_MODEL_STATUS_DEPRECATED" {
				continue
			}
			products, _ := m["products"].([]any)
			for _, p := range products {
				product := strings.ToLower(strings.TrimPrefix(str(p), "PRODUCT_"))
				n.deprecated(str(m["name"]), product, "catalog_flag")
			}
		}
		if after = str(page["next_cursor"]); after == "" {
			return
		}
	}
}

func (n *naive) deprecated(id, product, confidence string) {
	n.see("model.deprecated", id, "product="+product+";sunset=none", map[string]any{
		"model_id": id, "replacement_model": nil, "sunset_date": nil, "product": product, "confidence": confidence,
	})
}

func (n *naive) batch(b map[string]any) {
	id, status := str(b["id"]), str(b["status"])
	if n.over[id] {
		return
	}
	data := map[string]any{"batch_id": id, "model_id": b["model_id"], "endpoint": b["endpoint"], "input_file_id": b["input_file_id"]}
	n.see("batch.created", id, "", maps.Clone(data))
	if status == "IN_PROGRESS" {
		n.see("batch.in_progress", id, "", maps.Clone(data))
	}
	delete(data, "input_file_id")
	n.over[id] = slices.Contains([]string{"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"}, status)
	if late, err := time.Parse(time.RFC3339Nano, str(b["job_deadline"])); err == nil && !n.over[id] && n.clock.Now().After(late) {
		n.see("batch.overdue", id, "", map[string]any{"batch_id": id, "deadline": b["job_deadline"], "model_id": b["model_id"]})
	}
	if !n.over[id] {
		return
	}
	data["output_file_id"], data["error_file_id"], data["output_url"] = b["output_file_id"], b["error_file_id"], nil
	if status == "COMPLETED" {
		data["total_tokens"] = nil
	} else {
		data["error_message"] = b["error"]
	}
	if file := str(b["output_file_id"]); file != "" {
		url := "/v1/files/" + file + "/content"
		data["output_url"] = url
		if status == "COMPLETED" {
			data["total_tokens"] = n.tokens(url)
		}
	}
	n.see("batch."+cmp.Or(map[string]string{"COMPLETED": "done"}[status], strings.ToLower(status)), id, "", data)
}

func (n *naive) tokens(url string) float64 {
	_, _, text := n.ask("GET", url, nil)
	sum := 0.0
	for line := range bytes.Lines(text) {
		var l struct {
			Response struct {
				Body struct {
					Usage struct {
						Total float64 `json:"total_tokens"`
					} `json:"usage"`
				} `json:"body"`
			} `json:"response"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			n.t.Fatalf("%s: %v in %s", url, err, line)
		}
		sum += l.Response.Body.Usage.Total
	}
	return sum
}

func (n *naive) fineTune(id string) {
	if n.over[id] {
		return
	}
	path := "/v1/fine-tunes/" + id
	f := n.object(path)
	log := n.rows(path+"/events", "data")
	status := str(f["status"])
	base := map[string]any{"fine_tune_id": id, "base_model": f["model"]}
	with := func(more map[string]any) map[string]any {
		more["fine_tune_id"] = id
		return more
	}
	n.see("fine_tune.created", id, "", with(map[string]any{"base_model": f["model"], "model_name": f["model_output_name"]}))
	if status == "running" {
		n.see("fine_tune.running", id, "", base)
	}
	restarts := map[string]int{}
	step := 0.0
	message := "status=" + status
	for _, e := range log {
		if s, ok := e["step"].(float64); ok {
			step = max(step, s)
		}
		switch str(e["type"]) {
		case "job_start", "training_start":
			n.see("fine_tune.running", id, "", base)
		case "early_stopped":
			n.see("fine_tune.early_stopped", id, "", with(map[string]any{"best_step": e["early_stopping_best_step"], "best_metric": e["early_stopping_best_metric_value"]}))
		case "job_restarted":
			at := str(e["created_at"])
			restarts[at]++
			n.see("fine_tune.restarted", id, "at="+at+";n="+strconv.Itoa(restarts[at]), with(map[string]any{"message": e["message"]}))
		case "billing_limit", "job_error", "job_user_error":
			message = str(e["message"])
		}
	}
	for _, c := range n.rows(path+"/checkpoints", "data") {
		at, _ := c["step"].(float64)
		kind := "final"
		if strings.Contains(str(c["checkpoint_type"]), "Intermediate") {
			kind = "intermediate"
		}
		steps := strconv.Itoa(int(at))
		tell := "step=" + steps + ";kind=" + kind
		if _, known := n.seen[togethersim.ID("fine_tune.checkpoint", id, tell)]; known {
			continue
		}
		n.see("fine_tune.checkpoint", id, tell, with(map[string]any{
			"step": at, "loss": n.last(path+"/metrics?global_step_from=0&resolution=5&global_step_to="+steps, "train/loss"),
			"checkpoint_type": kind, "path": c["path"], "created_at": c["created_at"],
		}))
	}
	if step == 0 { // else it is in the log
		step, _ = f["steps_completed"].(float64)
	}
	var steps any
	if step > 0 {
		steps = step
	} else {
		steps = n.last(path+"/metrics", "train/global_step")
	}
	n.over[id] = true
	switch status {
	case "completed":
		price, _ := f["total_price"].(float64)
		data := with(map[string]any{
			"model_name": f["model_output_name"], "base_model": f["model"], "early_stopped": f["early_stopped"], "best_step": f["early_stopping_best_step"],
			"token_count": f["token_count"], "total_price_usd": price / 1e9, "model_object_id": f["model_object_id"],
			"eval_loss": f["early_stopping_best_metric"],
		})
		if data["eval_loss"] == nil {
			data["eval_loss"] = n.last(path+"/metrics?resolution=1", "eval/loss")
		}
		n.see("fine_tune.completed", id, "", data)
	case "error", "user_error":
		data := with(map[string]any{"error_message": message, "error_class": "system", "step": steps, "base_model": f["model"]})
		if status == "user_error" {
			data["error_class"] = "user"
		}
		n.see("fine_tune.failed", id, "", data)
	case "cancelled":
		n.see("fine_tune.cancelled", id, "", with(map[string]any{"step": steps, "base_model": f["model"]}))
	default:
		n.over[id] = false
	}
}

// last is the last value of a member in metrics.
func (n *naive) last(path, member string) any {
	var last any
	for _, r := range n.rows(path, "metrics") {
		if v, ok := r[member]; ok {
			last = v
		}
	}
	return last
}

// TestFacts walks through a day and compares what a naive watcher has seen, and when, with
// what is said to be true.
func TestFacts(t *testing.T) {
	t.Parallel()
	const pace, day = 3 * time.Minute, 24 * time.Hour
	b := newBench(t, togethersim.Config{
		Seed: 7, Before: 6 * time.Hour, Models: 30, Key: "key", Keep: 3 * time.Hour,
		Rates: togethersim.Rates{FineTunes: 2.5, Batches: 2, Evaluations: 1.5, Files: 2, Models: 1},
	})
	n := &naive{bench: b, seen: map[string]sight{}, over: map[string]bool{}, first: true}
	n.look()
	for id := range n.seen { // what was there at the first look is no news
		n.seen[id] = sight{}
	}
	var facts []togethersim.Fact
	for now := start; now.Before(start.Add(day)); {
		last := now
		now = b.clock.Turn(pace)
		n.look()
		facts = append(facts, b.Facts(last, now)...)
	}
	told := map[string]int{}
	for _, f := range facts {
		first := start.Add((f.Since.Sub(start) + pace - 1).Truncate(pace)) // the look that sees it first
		if !f.Until.IsZero() && !first.Before(f.Until) {
			continue
		}
		id := f.ID
		switch f.Type {
		case "model.added":
			id = "added " + f.Resource + " " + first.String()
		case "model.removed":
			id = "removed " + f.Resource + " " + first.String()
		}
		s, ok := n.seen[id]
		delete(n.seen, id)
		told[f.Type]++
		if !ok || !s.at.Equal(first) {
			t.Errorf("%s of %s %s at %s, since %s: seen %v at %s", f.Type, f.Resource, f.Discriminator, f.At, f.Since, ok, s.at)
		}
		if f.ID == "" {
			continue
		}
		for _, member := range f.Vague {
			delete(f.Data, member)
			delete(s.data, member)
		}
		if diff := gocmp.Diff(asJSON(t, f.Data), s.data); diff != "" {
			t.Errorf("%s of %s: %s", f.Type, f.Resource, diff)
		}
	}
	for id, s := range n.seen {
		if !s.at.IsZero() {
			t.Errorf("%s was seen at %s and is no fact: %v", id, s.at, s.data)
		}
	}
	for kind := range strings.FieldsSeq(`fine_tune.created fine_tune.running fine_tune.completed fine_tune.failed
		fine_tune.checkpoint fine_tune.cancelled fine_tune.early_stopped fine_tune.restarted
		batch.created batch.in_progress batch.done batch.failed batch.expired batch.cancelled batch.overdue
		evaluation.completed evaluation.failed file.processed file.invalid file.failed
		model.added model.removed model.deprecated`) {
		if told[kind] == 0 {
			t.Errorf("there was no %s all day", kind)
		}
	}
	t.Log(told)
}

// asJSON is the data as it looks after it has been written and read.
func asJSON(t *testing.T, data map[string]any) map[string]any {
	t.Helper()
	text, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
