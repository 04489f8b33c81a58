package togethersim

import "time"

// An Evaluation is the script of an evaluation. Its states are pending, queued, running, and
// at the end completed, error or user_error.
type Evaluation struct {
	Script
	Kind   string // classify, score, compare; empty: score
	Result string // the result file; empty is none
	Error  string // why it failed
}

func (e *Evaluation) kind() string {
	if e.Kind == "" {
		return "score"
	}
	return e.Kind
}

func (e *Evaluation) show(now time.Time) row {
	at, _ := e.stage(now)
	return row{
		"workflow_id": e.ID, "type": e.kind(), "status": at.Status,
		"created_at": stamp(e.created()), "updated_at": stamp(at.At), "results": e.results(at.Status),
		"parameters": row{
			"judge":                row{"model": "openai/gpt-oss-20b", "external_api_token": "LEAK-judge-token"},
			"external_api_token":   "LEAK-external-token",
			"input_data_file_path": "https://storage.invalid/in.jsonl?X-Amz-Signature=LEAK",
		},
	}
}

// results are what the evaluation says at the end; null before it.
func (e *Evaluation) results(status string) any {
	switch status {
	case "error", "user_error":
		return row{"error": e.Error}
	case "completed":
	default:
		return nil
	}
	r := row{"generation_fail_count": 0, "judge_fail_count": 1, "result_file_id": null(e.Result)}
	switch e.kind() {
	case "classify":
		r["invalid_label_count"], r["pass_percentage"] = 2, 71.5
		r["label_counts"] = `{"bad":29,"good":71}`
	case "compare":
		r["A_wins"], r["B_wins"], r["Ties"] = 41, 38, 21
	default:
		r["aggregated_scores"] = row{"mean_score": 7.9, "std_score": 1.1, "pass_percentage": 83.0}
		r["invalid_score_count"], r["failed_samples"] = 0, 0
	}
	return r
}

// truth are the facts of an evaluation.
func (e *Evaluation) truth() []Fact {
	end := e.ends()
	data := row{"evaluation_id": e.ID, "evaluation_type": e.kind()}
	switch end.Status {
	case "completed":
		data["results"], data["result_file_id"] = e.results(end.Status), null(e.Result)
		return []Fact{{Type: "evaluation.completed", At: end.At, Data: data}}
	case "error", "user_error":
		data["error_message"], data["error_class"] = null(e.Error), "system"
		if end.Status == "user_error" {
			data["error_class"] = "user"
		}
		return []Fact{{Type: "evaluation.failed", At: end.At, Data: data}}
	}
	return nil
}

func planEvaluation(d dice) *Evaluation {
	e := &Evaluation{Script: Script{ID: "eval-" + d.short()}, Kind: pick(d, []string{"classify", "score", "compare"})}
	enter := func(status string, low, high time.Duration) {
		d.at = d.at.Add(d.span(low, high))
		e.Stages = append(e.Stages, Stage{d.at, status})
	}
	enter("pending", 0, 0)
	if d.chance(0.8) {
		enter("queued", time.Second, time.Minute)
		enter("running", time.Second, 5*time.Minute)
	}
	switch n := d.Float64(); {
	case n < 0.15:
		e.Error = "The judge model did not answer"
		enter("error", time.Minute, 30*time.Minute)
	case n < 0.3:
		e.Error = "The input file has no column named prompt"
		enter("user_error", time.Minute, 5*time.Minute)
	default:
		e.Result = "file-" + d.uuid()
		enter("completed", time.Minute, 90*time.Minute)
	}
	return e
}
