package togethersim

import (
	"slices"
	"strings"
	"time"
)

// A FineTune is the script of a fine-tuning job. Its states are pending, queued, running,
// compressing, uploading, cancel_requested, and at the end completed, error, user_error or
// cancelled. All but the Script may be left out.
type FineTune struct {
	Script
	Model                        string // the base model
	Output                       string // the model that comes out of it; empty is null
	TrainingFile, ValidationFile string
	Epochs, Steps                int   // planned
	Tokens, Price                int64 // the price in nano-dollars
	Error                        string
	Log                          []Entry      // beside what the log says of stages and checkpoints
	Silent                       bool         // the log says nothing of stages and checkpoints
	Checkpoints                  []Checkpoint // in order of time
	Metrics                      []Metric     // in order of time
	NoMetrics                    bool         // training goes on, and no metrics are shown
	NoSteps                      bool         // the job does not say how many steps are done
	Stopped                      *EarlyStop
	Touched                      []time.Time // when updated_at moves for no reason that shows
	Old                          bool        // nested objects are missing or blank
}

// An Entry is a row of a job's event log.
type Entry struct {
	At                   time.Time
	Type, Message, Level string
	Step                 int
	Path                 string
}

// A Checkpoint is a row of a job's checkpoints.
type Checkpoint struct {
	At    time.Time
	Shown time.Time // when the row appears, if that is later
	Step  int
	Label string // Intermediate, Final, Final Merged, Final Adapter
}

// A Metric is what is measured at a step: a row for the training, and one for the
// evaluation. Not a number is written as the bare word NaN.
type Metric struct {
	At          time.Time
	Shown       time.Time // when the rows appear, if that is later
	Step        int
	Train, Eval *float64
}

// EarlyStop says when a job was stopped early, and which step is shipped.
type EarlyStop struct {
	At   time.Time
	Step int
	Best *float64 // its eval loss; nil is null
}

func (c Checkpoint) intermediate() bool { return strings.Contains(c.Label, "Intermediate") }

func (c Checkpoint) kind() string {
	if c.intermediate() {
		return "intermediate"
	}
	return "final"
}

func (f *FineTune) path(c Checkpoint) string {
	return "ft-storage/" + f.ID + "/" + strings.ReplaceAll(strings.ToLower(c.Label), " ", "-") + "-" + digits(c.Step)
}

func (f *FineTune) cut(after time.Time) {
	f.Script.cut(after)
	f.Log = slices.DeleteFunc(f.Log, func(e Entry) bool { return e.At.After(after) })
	f.Checkpoints = slices.DeleteFunc(f.Checkpoints, func(c Checkpoint) bool { return c.At.After(after) })
	f.Metrics = slices.DeleteFunc(f.Metrics, func(m Metric) bool { return m.At.After(after) })
	f.Touched = slices.DeleteFunc(f.Touched, after.Before)
	if f.Stopped != nil && f.Stopped.At.After(after) {
		f.Stopped = nil
	}
}

// log is the job's event log up to a moment, oldest first.
func (f *FineTune) log(now time.Time) []Entry {
	all := slices.Clone(f.Log)
	if !f.Silent {
		for _, s := range f.Stages {
			all = append(all, f.entries(s)...)
		}
		for _, c := range f.Checkpoints {
			if c.intermediate() {
				all = append(all, Entry{c.At, "checkpoint_save", "Checkpoint saved, at step " + digits(c.Step), "info", c.Step, f.path(c)})
			}
		}
		if f.Stopped != nil {
			all = append(all, Entry{f.Stopped.At, "early_stopped", "Training stopped early, best step " + digits(f.Stopped.Step), "info", f.stepsDone(f.Stopped.At), ""})
		}
	}
	all = slices.DeleteFunc(all, func(e Entry) bool { return e.At.After(now) })
	slices.SortStableFunc(all, func(a, b Entry) int { return a.At.Compare(b.At) })
	return all
}

// entries are what the log says of a stage.
func (f *FineTune) entries(s Stage) []Entry {
	info := func(kind, message string) Entry { return Entry{At: s.At, Type: kind, Message: message, Level: "info"} }
	switch s.Status {
	case "pending":
		return []Entry{info("job_pending", "Job created")}
	case "running":
		return []Entry{info("job_start", "Job started"), info("training_start", "Training started")}
	case "compressing":
		return []Entry{info("model_compressing", "Compressing the model")}
	case "uploading":
		return []Entry{info("model_uploading", "Uploading the model")}
	case "completed":
		return []Entry{info("model_upload_complete", "Model uploaded"), info("job_complete", "Job finished")}
	case "cancel_requested":
		return []Entry{info("cancel_requested", "Cancellation requested")}
	case "cancelled":
		return []Entry{info("job_stopped", "Job stopped")}
	case "error", "user_error":
		if f.Error == "" {
			return nil
		}
		kind := "job_error"
		if s.Status == "user_error" {
			kind = "job_user_error"
		}
		return []Entry{{At: s.At, Type: kind, Message: f.Error, Level: "error"}}
	}
	return nil
}

// stepsDone is how many steps are done at a moment. A restart makes them fewer.
func (f *FineTune) stepsDone(now time.Time) int {
	n := 0
	for _, m := range f.Metrics {
		if !m.At.After(now) {
			n = m.Step
		}
	}
	return n
}

// updated is when something happened to the job last.
func (f *FineTune) updated(now time.Time) time.Time {
	last := f.created()
	bump := func(t time.Time) {
		if !t.After(now) {
			last = later(last, t)
		}
	}
	for _, s := range f.Stages {
		bump(s.At)
	}
	for _, e := range f.log(now) {
		bump(e.At)
	}
	for _, c := range f.Checkpoints {
		bump(later(c.At, c.Shown))
	}
	for _, t := range f.Touched {
		bump(t)
	}
	return last
}
