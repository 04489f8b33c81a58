package together

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"together-relay/relay"
)

// FineTunes are the fine-tuning jobs, a [relay.Resource]. A look costs one request, and
// two to four for each job that has moved.
type FineTunes struct{ api *API }

// FineTunes are the fine-tuning jobs of the key's project.
func (a *API) FineTunes() *FineTunes { return &FineTunes{a} }

// A fineTune is a job as the list shows it. No member of it says why it failed, or what
// its loss is.
type fineTune struct {
	ID             word          `json:"id"`
	Status         state         `json:"status"`
	Model          word          `json:"model"`
	OutputName     word          `json:"model_output_name"`
	ObjectID       word          `json:"model_object_id"`
	CreatedAt      instant       `json:"created_at"`
	StartedAt      instant       `json:"started_at"` // of the stage, not of the job
	UpdatedAt      instant       `json:"updated_at"`
	Epochs         number        `json:"epochs_completed"`
	Steps          number        `json:"steps_completed"`
	TotalSteps     number        `json:"total_steps"`
	Tokens         number        `json:"token_count"`
	Price          number        `json:"total_price"` // in billionths of a dollar
	EarlyStopped   truth         `json:"early_stopped"`
	BestStep       number        `json:"early_stopping_best_step"`
	BestMetric     number        `json:"early_stopping_best_metric"`
	ValidationFile maybe[string] `json:"validation_file"`
	Evals          number        `json:"n_evals"`
	Progress       maybe[struct {
		Known truth  `json:"estimate_available"`
		Left  number `json:"seconds_remaining"` // until the next state
	}] `json:"progress"`
}

func (t *fineTune) id() string { return string(t.ID) }

// A stage is what a state means for us.
type stage int

const (
	unknown stage = iota // nothing is made of it
	waiting              // it has not begun
	running
	ending // it does not train any more
	over
)

func (t *fineTune) stage() stage {
	switch t.Status {
	case "pending", "queued":
		return waiting
	case "running":
		return running
	case "compressing", "uploading", "cancel_requested", "cancelling":
		return ending
	case "completed", "error", "user_error", "cancelled": // there is no "failed"
		return over
	}
	return unknown
}

// List asks once for all jobs; the provider knows no filter.
func (f *FineTunes) List(ctx context.Context, _ int) ([]relay.Job, error) {
	all, err := list(ctx, f.api, "/v1/fine-tunes", nil, (*fineTune).id)
	return jobs(all, f.job), err
}

// Find asks for one job.
func (f *FineTunes) Find(ctx context.Context, id string) (relay.Job, error) {
	found, err := f.find(ctx, id)
	if err != nil {
		return relay.Job{}, err
	}
	return f.job(found), nil
}

func (f *FineTunes) find(ctx context.Context, id string) (row[fineTune], error) {
	return find(ctx, f.api, "/v1/fine-tunes/", id, (*fineTune).id)
}

func (f *FineTunes) job(r row[fineTune]) relay.Job {
	t := &r.is
	if t.stage() == unknown {
		f.api.oddState("fine-tune", t.Status)
	}
	return relay.Job{
		ID:      t.id(),
		Change:  strings.Join([]string{string(t.Status), t.UpdatedAt.raw, string(t.Steps), string(t.Epochs)}, "|"),
		Over:    t.stage() == over,
		Live:    t.stage() == running, // a checkpoint need not show in the list
		Updated: latest(t.UpdatedAt.Time, t.CreatedAt.Time),
		Row:     r.raw,
	}
}

func (a *API) oddState(kind string, s state) {
	a.odd("%s: the state %.60q is not known and passed over", kind, string(s))
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Tell reads the job's log and checkpoints if it has begun, and the metrics if there is a
// loss to be looked up.
func (f *FineTunes) Tell(ctx context.Context, job relay.Job, mark relay.Mark) ([]relay.Fact, error) {
	var t fineTune
	if job.Gone {
		return nil, nil
	}
	if err := json.Unmarshal(job.Row, &t); err != nil {
		return nil, errors.New("read the row: it is no fine-tune")
	}
	if t.Status == "" { // a row as odd as that is no source of facts
		return nil, nil
	}
	s := tuning{FineTunes: f, job: &t, mark: mark, brief: job.Brief}
	facts := s.told(s.fact("fine_tune.created", "", t.CreatedAt.Time, started(&t)))
	n := t.Steps.int()
	if t.stage() <= waiting && (n == nil || *n == 0) && !job.Brief { // else it waits to begin again, or the row may be late
		return facts, nil
	}
	missing := s.read(ctx)
	switch {
	case stuck(missing, mark) && s.log == nil:
		return facts, missing
	case stuck(missing, mark):
		return append(facts, s.told(s.running()...)...), missing
	}
	if mark.Waits >= relay.GiveUp {
		missing = nil
	}
	middle, err := s.middle(ctx)
	facts = append(facts, middle...)
	if err != nil || t.stage() != over {
		return facts, cmp.Or(err, missing)
	}
	if job.Brief || mark.Has(tuneEnd(t.Status)) {
		end, _ := s.end(ctx) // it is brief, or known
		return append(facts, s.told(end)...), missing
	}
	if whole, err := f.find(ctx, t.id()); err == nil && whole.is.stage() == over {
		s.job = &whole.is // the list need not show all of it
	} else if !errors.Is(err, relay.ErrGone) && stuck(err, mark) {
		return facts, err
	}
	end, err := s.end(ctx)
	if err != nil {
		return facts, err
	}
	return append(facts, s.told(end)...), missing
}

// stuck says whether to wait for a detail that could not be had. After some looks it is
// done without, unless the provider wants to be left alone.
func stuck(err error, mark relay.Mark) bool {
	return err != nil && (mark.Waits < relay.MaxFailures || errors.As(err, new(*relay.Later)) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}

// A tuning is what can be told of one fine-tune.
type tuning struct {
	*FineTunes
	job   *fineTune
	mark  relay.Mark
	brief bool
	log   []logLine
	saves []save
}

// read reads the log and the checkpoints. After an error it has read what it could.
func (s *tuning) read(ctx context.Context) (err error) {
	if s.log, err = s.readLog(ctx, s.job.id()); stuck(err, s.mark) {
		return err
	}
	saves, err := s.readCheckpoints(ctx, s.job.id())
	s.saves = s.merge(saves)
	return err
}

func (s *tuning) fact(typ, discriminator string, at time.Time, data any) relay.Fact {
	return s.api.origin.fact(typ, s.job.id(), discriminator, at, data)
}

// told leaves out what is in the mark.
func (s *tuning) told(facts ...relay.Fact) []relay.Fact {
	return slices.DeleteFunc(facts, func(f relay.Fact) bool { return s.mark.Has(f.Key) })
}

type startedData struct {
	ID        word    `json:"fine_tune_id"`
	BaseModel *string `json:"base_model"`
	ModelName *string `json:"model_name"`
}

func started(t *fineTune) startedData {
	return startedData{t.ID, or(t.Model), or(t.OutputName)}
}

// running is the fact that the job has begun, if it is known to have.
func (s *tuning) running() []relay.Fact {
	const typ = "fine_tune.running"
	for _, line := range s.log {
		if line.Type == "job_start" || line.Type == "training_start" {
			return []relay.Fact{s.fact(typ, "", line.At.Time, started(s.job))}
		}
	}
	if s.job.stage() == running {
		return []relay.Fact{s.fact(typ, "", latest(s.job.StartedAt.Time, s.job.CreatedAt.Time), started(s.job))}
	}
	return nil
}

// middle is what has happened between the beginning and the end, in order.
func (s *tuning) middle(ctx context.Context) ([]relay.Fact, error) {
	facts := append(s.restarts(), s.earlyStop()...)
	saves, err := s.checkpoints(ctx)
	facts = append(facts, saves...)
	slices.SortStableFunc(facts, func(a, b relay.Fact) int {
		return a.Event.CloudEvent.Time().Compare(b.Event.CloudEvent.Time())
	})
	facts = s.told(append(s.running(), facts...)...)
	if err == nil {
		return facts, nil
	}
	for i := range facts {
		if facts[i].Event.Type == typeCheckpoint { // its loss could not be looked up
			return facts[:i], err
		}
	}
	return facts, err
}

type restartedData struct {
	ID      word    `json:"fine_tune_id"`
	Message *string `json:"message"`
	Step    *int64  `json:"step"`
}

func (s *tuning) restarts() (facts []relay.Fact) {
	count := map[string]int{} // of restarts at the same time
	for _, line := range s.log {
		if line.Type != "job_restarted" {
			continue
		}
		at := line.At.raw
		count[at]++
		facts = append(facts, s.fact("fine_tune.restarted", "at="+at+";n="+strconv.Itoa(count[at]), line.At.Time,
			restartedData{s.job.ID, said(line.Message), line.step()}))
	}
	return facts
}

type earlyStoppedData struct {
	ID         word     `json:"fine_tune_id"`
	BestStep   *int64   `json:"best_step"`
	BestMetric *float64 `json:"best_metric"`
}

// earlyStop is the fact that training was stopped because it did not get better.
func (s *tuning) earlyStop() []relay.Fact {
	const typ = "fine_tune.early_stopped"
	for _, line := range s.log {
		if line.Type == "early_stopped" {
			return []relay.Fact{s.fact(typ, "", line.At.Time, earlyStoppedData{s.job.ID,
				cmp.Or(line.BestStep, s.job.BestStep).int(), cmp.Or(line.BestMetric, s.job.BestMetric).float()})}
		}
	}
	if s.job.EarlyStopped {
		return []relay.Fact{s.fact(typ, "", s.job.UpdatedAt.Time,
			earlyStoppedData{s.job.ID, s.job.BestStep.int(), s.job.BestMetric.float()})}
	}
	return nil
}
