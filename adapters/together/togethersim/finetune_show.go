package togethersim

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
)

// short is the job as the list shows it.
func (f *FineTune) short(now time.Time) row {
	at, _ := f.stage(now)
	r := row{
		"id": f.ID, "object": "fine-tune", "status": at.Status, "model": f.Model, "model_output_name": null(f.Output),
		"created_at": stamp(f.created()), "updated_at": stamp(f.updated(now)),
		"training_file": f.TrainingFile, "validation_file": f.ValidationFile,
		"n_epochs": f.Epochs, "batch_size": "max", "train_on_inputs": "auto",
		"token_count": f.Tokens, "total_price": f.Price, "user_id": "user-7",
		"training_type": row{"type": "Lora", "lora_r": 8, "lora_alpha": 16},
		"lr_scheduler":  row{"lr_scheduler_type": "cosine"},
		"events":        []any{},
	}
	if f.Old {
		delete(r, "training_type")
		r["lr_scheduler"] = row{"lr_scheduler_type": ""}
		r["events"] = nil
	}
	return r
}

// long is the job by itself.
func (f *FineTune) long(now time.Time) row {
	r := f.short(now)
	at, next := f.stage(now)
	if at.Status != "pending" && at.Status != "queued" {
		r["started_at"] = stamp(at.At)
	}
	if steps := f.stepsDone(now); steps > 0 && !f.NoSteps {
		r["steps_completed"] = steps
		r["total_steps"] = f.Steps
		r["epochs_completed"] = steps * f.Epochs / max(f.Steps, 1)
	}
	r["progress"] = row{"estimate_available": false, "seconds_remaining": 0}
	if !next.At.IsZero() && at.Status != "pending" {
		r["progress"] = row{"estimate_available": true, "seconds_remaining": int(next.At.Sub(now).Seconds())}
	}
	if at.Status == "queued" {
		r["queue_depth"] = 3
	}
	r["wandb_url"], r["wandb_project_name"] = "", ""
	r["wandb_api_key"] = "LEAK-wandb-key"
	r["model_output_path"] = "https://storage.invalid/" + f.ID + "/model?X-Amz-Signature=LEAK"
	r["n_checkpoints"], r["n_evals"] = 5, 5
	r["early_stopped"] = false
	if s := f.Stopped; s != nil && !s.At.After(now) {
		r["early_stopped"] = true
		r["early_stopping_best_step"] = s.Step
		r["early_stopping_best_metric"] = number(s.Best)
	}
	if at.Status == "completed" {
		r["model_object_id"] = f.object()
	}
	if f.Old {
		delete(r, "progress")
	}
	return r
}

func (f *FineTune) object() string { return "ml_" + strings.TrimPrefix(f.ID, "ft-") }

func number(f *float64) any {
	if f == nil {
		return nil
	}
	return *f
}

func (f *FineTune) logRows(now time.Time) []any {
	rows := []any{}
	for _, e := range f.log(now) {
		r := row{
			"object": "fine-tune-event", "type": e.Type, "message": e.Message, "level": e.Level, "created_at": stamp(e.At),
			"step": e.Step, "total_steps": f.Steps, "checkpoint_path": e.Path, "model_path": "",
			"token_count": 0, "param_count": 0, "wandb_url": "",
		}
		if e.Type == "early_stopped" && f.Stopped != nil {
			r["early_stopping_best_step"] = f.Stopped.Step
			r["early_stopping_best_metric_value"] = number(f.Stopped.Best)
		}
		rows = append(rows, r)
	}
	return rows
}

func (f *FineTune) checkpointRows(now time.Time) []any {
	rows := []any{}
	for _, c := range f.Checkpoints {
		if later(c.At, c.Shown).After(now) {
			continue
		}
		form := "model"
		if strings.Contains(c.Label, "Adapter") {
			form = "adapter"
		}
		rows = append(rows, row{
			"step": c.Step, "created_at": stamp(c.At), "path": f.path(c), "checkpoint_type": c.Label,
			"checkpoint": form, "object_id": f.object(), "object_name": f.Output, "object_revision_id": "rv_" + digits(c.Step),
		})
	}
	return rows
}

// metricRows are the metrics of the steps between the two, both included. A resolution of 0
// gives all rows; another gives as many training rows, the last among them.
func (f *FineTune) metricRows(now time.Time, from, to, resolution int) []any {
	train := 0
	var some []Metric
	for _, m := range f.Metrics {
		if f.NoMetrics || later(m.At, m.Shown).After(now) || m.Step < from || m.Step > to {
			continue
		}
		some = append(some, m)
		if m.Train != nil {
			train++
		}
	}
	rows := []any{}
	left := train
	for _, m := range some {
		basic := func(after time.Duration) row {
			return row{"timestamp": m.At.Add(after).UnixNano(), "train/global_step": m.Step,
				"train/epoch": math.Round(float64(m.Step*f.Epochs)/float64(max(f.Steps, 1))*1e4) / 1e4}
		}
		if m.Train != nil {
			left--
			if resolution == 0 || left*resolution/train != (left+1)*resolution/train || left == 0 {
				r := basic(587)
				r["train/loss"], r["train/grad_norm"], r["train/learning_rate"] = *m.Train, 0.87, 8e-6
				rows = append(rows, r)
			}
		}
		if m.Eval != nil {
			r := basic(time.Second)
			r["eval/loss"] = *m.Eval
			rows = append(rows, r)
		}
	}
	slices.SortStableFunc(rows, func(a, b any) int { return cmp.Compare(nanos(a), nanos(b)) })
	return rows
}

func nanos(r any) int64 {
	m, _ := r.(row)
	n, _ := m["timestamp"].(int64)
	return n
}
