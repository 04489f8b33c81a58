package togethersim

import (
	"math"
	"strconv"
	"time"
)

func digits(n int) string { return strconv.Itoa(n) }

// planFineTune plans the upload of a training file, and the job that is trained with it.
func (w *World) planFineTune(d dice) {
	upload := trainingFile(d)
	w.files = append(w.files, keep(w, upload))
	d.at = upload.ends().At.Add(d.span(10*time.Second, 10*time.Minute))
	w.fineTunes = append(w.fineTunes, keep(w, planFineTune(d, upload.ID)))
}

// A course is a fine-tuning job in the making.
type course struct {
	dice
	*FineTune
	now   time.Time
	lag   time.Duration // of metrics
	evals bool
}

func planFineTune(d dice, file string) *FineTune {
	f := &FineTune{
		Script: Script{ID: "ft-" + d.uuid()}, Model: pick(d, baseModels), TrainingFile: file,
		Epochs: 1 + d.IntN(5), Tokens: 10_000 + d.Int64N(5_000_000), Old: d.chance(0.08),
	}
	f.Steps = f.Epochs * (8 + d.IntN(40))
	f.Price = f.Tokens * 5000
	if !d.chance(0.07) {
		f.Output = "acme/" + pick(d, []string{"support", "router", "summary"}) + "-" + d.short()
	}
	c := &course{dice: d, FineTune: f, now: d.at, evals: d.chance(0.7)}
	if c.evals {
		f.ValidationFile = "file-" + d.uuid()
	}
	if d.chance(0.15) {
		c.lag = d.span(20*time.Second, 3*time.Minute)
	}
	f.NoMetrics, f.NoSteps = d.chance(0.12), d.chance(0.15)
	c.run()
	return f
}

func (c *course) after(low, high time.Duration) { c.now = c.now.Add(c.span(low, high)) }

func (c *course) enter(status string) { c.Stages = append(c.Stages, Stage{c.now, status}) }

func (c *course) note(kind, message string, step int) {
	c.Log = append(c.Log, Entry{At: c.now, Type: kind, Message: message, Level: "info", Step: step})
}

// run goes through the job's life.
func (c *course) run() {
	c.enter("pending")
	c.after(2*time.Second, 90*time.Second)
	c.enter("queued")
	c.after(5*time.Second, 15*time.Minute)
	hasty := c.chance(0.12) // all is done so soon that its middle states never show
	if !hasty {
		c.enter("running")
	} else {
		c.note("job_start", "Job started", 0)
	}
	c.after(5*time.Second, 30*time.Second)
	c.note("model_downloading", "Downloading the model", 0)
	c.after(5*time.Second, 2*time.Minute)
	c.note("model_download_complete", "Model downloaded", 0)
	fate := c.Float64()
	if fate < 0.04 {
		c.fail(pick(c.dice, []string{"user_error", "error"}), "The training file holds an empty conversation at line 17")
		return
	}
	if hasty {
		c.note("training_start", "Training started", 0)
	}
	pace := c.span(2*time.Minute, 3*time.Hour) / time.Duration(c.Steps)
	if hasty {
		pace /= 60
	}
	switch {
	case fate < 0.14: // it breaks down
		c.train(0, 1+c.IntN(c.Steps), pace)
		c.fail("error", pick(c.dice, []string{"CUDA error: an illegal memory access was encountered", "Node lost", ""}))
		return
	case fate < 0.19:
		c.train(0, 1+c.IntN(c.Steps), pace)
		c.fail("user_error", "Loss is not finite; try a smaller learning rate")
		return
	case fate < 0.27:
		c.train(0, 1+c.IntN(c.Steps), pace)
		c.cancel()
		return
	case fate < 0.35 && !hasty:
		c.restart(pace)
	case fate < 0.47 && c.evals && !hasty:
		c.stop(pace)
	default:
		c.train(0, c.Steps, pace)
	}
	c.finish(hasty, fate > 0.96)
}

// train makes the steps after one and up to another.
func (c *course) train(from, to int, pace time.Duration) {
	begin := c.now
	every := 1 + c.Steps/40
	save := max(c.Steps/(2+c.Steps%4), 1)
	for step := from + 1; step <= to; step++ {
		c.now = begin.Add(time.Duration(step-from) * pace).Truncate(time.Millisecond)
		eval := c.evals && (step%max(c.Steps/5, 1) == 0 || step == c.Steps)
		if step%every == 0 || step == 1 || eval {
			m := Metric{At: c.now.Add(-pace / 2).Truncate(time.Millisecond), Step: step, Train: c.loss(step, 2.2, 0.5)}
			if eval {
				m.Eval = c.loss(step, 2.4, 0.4)
			}
			if c.lag > 0 && !eval {
				m.Shown = m.At.Add(c.lag)
			}
			c.Metrics = append(c.Metrics, m)
		}
		if step%max(c.Steps/max(c.Epochs, 1), 1) == 0 {
			c.note("epoch_complete", "Epoch completed, at step "+digits(step), step)
		}
		if step%save == 0 && step < c.Steps {
			p := Checkpoint{At: c.now, Step: step, Label: "Intermediate"}
			if c.chance(0.2) && step < to { // the row lags behind the log
				p.Shown = c.now.Add(min(c.span(time.Second, time.Minute), time.Duration(to-step)*pace))
			}
			c.Checkpoints = append(c.Checkpoints, p)
		}
	}
}

// loss falls with the step and is the same whenever the step is made again.
func (c *course) loss(step int, from, slope float64) *float64 {
	wave := math.Sin(float64(step)+float64(c.Tokens%100)) * 0.03
	n := from*math.Exp(-slope*3*float64(step)/float64(c.Steps)) + 0.2 + wave
	return new(math.Round(n*1e4) / 1e4)
}

// restart breaks off in the middle, waits, and goes on from the last checkpoint.
func (c *course) restart(pace time.Duration) {
	c.train(0, 1+c.IntN(c.Steps), pace)
	c.after(time.Second, time.Minute)
	c.note("job_restarted", "Job restarted", 0)
	if c.chance(0.3) {
		c.note("job_restarted", "Job restarted", 0)
	}
	c.enter("pending")
	c.after(time.Minute, 5*time.Minute)
	c.enter("running")
	from := 0
	if n := len(c.Checkpoints); n > 0 {
		from = c.Checkpoints[n-1].Step - 1 // it saves that one again
	}
	c.train(from, c.Steps, pace)
}

// stop ends the training early, with an earlier step as the best.
func (c *course) stop(pace time.Duration) {
	to := max(c.Steps*3/4, 1)
	c.train(0, to, pace)
	c.after(time.Second, 10*time.Second)
	best := max(to/2, 1)
	c.Stopped = &EarlyStop{At: c.now, Step: best}
	if c.chance(0.8) {
		c.Stopped.Best = c.loss(best, 2.4, 0.4)
	}
}

func (c *course) fail(status, why string) {
	c.after(time.Second, 10*time.Second)
	c.Error = why
	if why == "" && c.chance(0.5) {
		c.Log = append(c.Log, Entry{At: c.now, Type: "billing_limit", Message: "The billing limit is reached", Level: "warning"})
	}
	c.after(time.Second, 5*time.Second)
	c.enter(status)
}

func (c *course) cancel() {
	c.after(time.Second, 10*time.Second)
	c.enter("cancel_requested")
	c.after(30*time.Second, 4*time.Minute)
	c.enter("cancelled")
}

// finish uploads what has been trained. Raced: somebody wants to cancel it, too late.
func (c *course) finish(hasty, raced bool) {
	c.after(time.Second, 5*time.Second)
	c.note("training_complete", "Training completed", 0)
	if raced && !hasty {
		c.enter("cancel_requested")
		c.after(10*time.Second, 30*time.Second)
	} else if !hasty {
		if c.chance(0.6) {
			c.enter("compressing")
			c.after(20*time.Second, 3*time.Minute)
		}
		c.enter("uploading")
	}
	c.after(30*time.Second, 5*time.Minute)
	step := c.Steps
	if c.Stopped != nil {
		step = c.Stopped.Step
	}
	labels := []string{"Final"}
	if c.chance(0.5) {
		labels = []string{"Final Merged", "Final Adapter"}
	}
	for _, label := range labels {
		c.Checkpoints = append(c.Checkpoints, Checkpoint{At: c.now, Step: step, Label: label})
	}
	c.after(time.Second, 5*time.Second)
	c.enter("completed")
	if c.chance(0.2) {
		c.Touched = []time.Time{c.now.Add(c.span(time.Minute, time.Hour))}
	}
}

// baseModels are models that can be trained.
var baseModels = []string{
	"Qwen/Qwen3.5-9B", "Qwen/Qwen3-8B", "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference",
	"meta-llama/Llama-3.3-70B-Instruct-Reference", "google/gemma-3-12b-it", "openai/gpt-oss-20b", "zai-org/GLM-5",
}
