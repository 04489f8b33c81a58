package togethersim

import (
	"math"
	"slices"
	"time"
)

// truth are the facts of a fine-tuning job.
func (f *FineTune) truth() []Fact {
	facts := []Fact{f.fact("created", f.created(), row{"base_model": f.Model, "model_name": null(f.Output)})}
	if fact, ok := f.runs(); ok {
		facts = append(facts, fact)
	}
	facts = append(facts, f.saves()...)
	facts = append(facts, f.restarts()...)
	if s := f.Stopped; s != nil {
		facts = append(facts, f.fact("early_stopped", s.At, row{"best_step": s.Step, "best_metric": number(s.Best)}))
	}
	switch end := f.ends(); end.Status {
	case "completed":
		facts = append(facts, f.completes(end.At))
	case "error", "user_error":
		facts = append(facts, f.fails(end))
	case "cancelled":
		facts = append(facts, f.fact("cancelled", end.At, row{"step": f.lastStep(end.At), "base_model": f.Model}))
	}
	return facts
}

func (f *FineTune) fact(kind string, at time.Time, data row) Fact {
	data["fine_tune_id"] = f.ID
	return Fact{Type: "fine_tune." + kind, At: at, Data: data}
}

// runs is when the state or the log first says that the job runs.
func (f *FineTune) runs() (Fact, bool) {
	at, until, ok := f.enters("running")
	for _, e := range f.log(forever()) {
		if e.Type == "job_start" || e.Type == "training_start" {
			if !ok || e.At.Before(at) {
				at = e.At
			}
			ok, until = true, time.Time{}
			break
		}
	}
	fact := f.fact("running", at, row{"base_model": f.Model})
	fact.Until = until
	return fact, ok
}

// saves are one fact for each step and kind of checkpoint, however many rows it has.
func (f *FineTune) saves() []Fact {
	var facts []Fact
	seen := map[string]bool{}
	for i, c := range f.Checkpoints {
		tell := "step=" + digits(c.Step) + ";kind=" + c.kind()
		if seen[tell] {
			continue
		}
		seen[tell] = true
		loss, vague := f.lossAt(c.Step, later(c.At, c.Shown))
		fact := f.fact("checkpoint", c.At, row{
			"step": c.Step, "loss": loss, "checkpoint_type": c.kind(), "path": f.path(c), "created_at": rfc3339(c.At),
		})
		fact.Discriminator = tell
		fact.Since = c.Shown
		if vague {
			fact.Vague = append(fact.Vague, "loss")
		}
		if slices.ContainsFunc(f.Checkpoints[i+1:], func(o Checkpoint) bool { return o.Step == c.Step && o.kind() == c.kind() }) {
			fact.Vague = append(fact.Vague, "path", "created_at")
		}
		facts = append(facts, fact)
	}
	return facts
}

// lossAt is the loss of the last training row at or before a step. It is vague if rows come
// later than the checkpoint, or if steps were made again.
func (f *FineTune) lossAt(step int, shown time.Time) (loss any, vague bool) {
	if f.NoMetrics {
		return nil, false
	}
	last := -1
	for i, m := range f.Metrics {
		if m.Train == nil || m.Step > step {
			continue
		}
		vague = vague || later(m.At, m.Shown).After(shown)
		if last < 0 || m.Step >= f.Metrics[last].Step {
			last = i
		}
	}
	if last < 0 {
		return nil, vague
	}
	vague = vague || slices.ContainsFunc(f.Log, func(e Entry) bool { return e.Type == "job_restarted" })
	return finite(*f.Metrics[last].Train), vague
}

func finite(n float64) any {
	if math.IsNaN(n) || math.IsInf(n, 0) {
		return nil
	}
	return n
}

func (f *FineTune) restarts() []Fact {
	var facts []Fact
	n := map[string]int{}
	for _, e := range f.log(forever()) {
		if e.Type != "job_restarted" {
			continue
		}
		at := rfc3339(e.At)
		n[at]++
		fact := f.fact("restarted", e.At, row{"message": null(e.Message)})
		fact.Discriminator = "at=" + at + ";n=" + digits(n[at])
		facts = append(facts, fact)
	}
	return facts
}

func (f *FineTune) completes(at time.Time) Fact {
	data := row{
		"model_name": null(f.Output), "base_model": f.Model, "eval_loss": nil, "early_stopped": f.Stopped != nil, "best_step": nil,
		"token_count": f.Tokens, "total_price_usd": float64(f.Price) / 1e9, "model_object_id": f.object(),
	}
	var vague []string // a name that is null may be told as null or as empty
	if f.Output == "" {
		vague = append(vague, "model_name")
	}
	for _, m := range f.Metrics {
		if m.Eval != nil && !f.NoMetrics {
			data["eval_loss"] = finite(*m.Eval)
			if later(m.At, m.Shown).After(at) {
				vague = append(vague, "eval_loss")
			}
		}
	}
	if f.Stopped != nil {
		data["best_step"] = f.Stopped.Step
		if f.Stopped.Best != nil {
			data["eval_loss"] = *f.Stopped.Best
		}
	}
	fact := f.fact("completed", at, data)
	fact.Vague = vague
	return fact
}

func (f *FineTune) fails(end Stage) Fact {
	class := "system"
	if end.Status == "user_error" {
		class = "user"
	}
	return f.fact("failed", end.At, row{"error_message": f.message(end), "step": f.lastStep(end.At), "error_class": class, "base_model": f.Model})
}

// message is why the job failed, as far as the log says.
func (f *FineTune) message(end Stage) string {
	for _, is := range []func(Entry) bool{
		func(e Entry) bool { return e.Type == "job_error" || e.Type == "job_user_error" },
		func(e Entry) bool { return e.Level == "error" },
		func(e Entry) bool { return e.Type == "billing_limit" },
	} {
		for _, e := range slices.Backward(f.log(end.At)) {
			if is(e) {
				return e.Message
			}
		}
	}
	return "status=" + end.Status
}

// lastStep is how far the job came, as far as it can be known.
func (f *FineTune) lastStep(at time.Time) any {
	n := 0
	for _, e := range f.log(at) {
		n = max(n, e.Step)
	}
	if n == 0 && (!f.NoSteps || !f.NoMetrics) {
		n = f.stepsDone(at)
	}
	if n == 0 {
		return nil
	}
	return n
}

// forever is later than all that is in a script.
func forever() time.Time { return time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) }
