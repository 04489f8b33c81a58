package together

import (
	"context"
	"net/url"
	"time"

	"together-relay/relay"
)

type completedData struct {
	ID           word     `json:"fine_tune_id"`
	ModelName    word     `json:"model_name"`
	EvalLoss     *float64 `json:"eval_loss"`
	BaseModel    *string  `json:"base_model"`
	EarlyStopped bool     `json:"early_stopped"`
	BestStep     *int64   `json:"best_step"`
	Tokens       *int64   `json:"token_count"`
	Price        *float64 `json:"total_price_usd"`
	ObjectID     *string  `json:"model_object_id"`
}

type failedData struct {
	ID        word    `json:"fine_tune_id"`
	Message   string  `json:"error_message"`
	Step      *int64  `json:"step"`
	Class     string  `json:"error_class"`
	BaseModel *string `json:"base_model"`
}

type cancelledData struct {
	ID        word    `json:"fine_tune_id"`
	Step      *int64  `json:"step"`
	BaseModel *string `json:"base_model"`
}

// Who has to do something about a failure.
const (
	classUser   = "user"
	classSystem = "system"
)

// tuneEnd is the type of the event that a state means which is the last one.
func tuneEnd(s state) string {
	switch s {
	case "completed", "cancelled":
		return "fine_tune." + string(s)
	}
	return "fine_tune.failed"
}

// end is the fact that a job that is over has come to its end. The error says that a detail
// of it may still be had.
func (s *tuning) end(ctx context.Context) (relay.Fact, error) {
	switch s.job.Status {
	case "completed":
		return s.completed(ctx)
	case "cancelled":
		step, err := s.stepAtEnd(ctx, "fine_tune.cancelled")
		return s.fact("fine_tune.cancelled", "", s.job.UpdatedAt.Time,
			cancelledData{s.job.ID, step, or(s.job.Model)}), err
	}
	return s.failed(ctx)
}

func (s *tuning) completed(ctx context.Context) (relay.Fact, error) {
	const typ = "fine_tune.completed"
	t := s.job
	stop := ofType(s.log, "early_stopped")
	data := completedData{ID: t.ID, ModelName: t.OutputName, BaseModel: or(t.Model),
		EarlyStopped: bool(t.EarlyStopped) || stop != nil, BestStep: t.BestStep.int(),
		Tokens: t.Tokens.int(), Price: t.Price.float(), ObjectID: or(t.ObjectID)}
	if data.Price != nil {
		*data.Price /= 1e9
	}
	best := t.BestMetric
	if stop != nil {
		if data.BestStep == nil {
			data.BestStep = stop.BestStep.int()
		}
		if best == "" {
			best = stop.BestMetric
		}
	}
	var err error
	switch {
	case data.EarlyStopped && best != "": // which is the eval loss of what is shipped
		data.EvalLoss = best.float()
	case s.evaluated() && !s.brief && !s.mark.Has(typ):
		data.EvalLoss, err = s.evalLoss(ctx)
	}
	at := t.UpdatedAt.Time
	if line := ofType(s.log, "job_complete"); line != nil && !line.At.IsZero() {
		at = line.At.Time
	}
	return s.fact(typ, "", at, data), err
}

// evaluated says whether there can be an eval loss. Where the list does not say, there can.
func (s *tuning) evaluated() bool {
	n := s.job.Evals.int()
	return (n == nil || *n > 0) && (!s.job.ValidationFile.ok || s.job.ValidationFile.is != "")
}

// evalLoss is the last eval loss in the metrics, nil if there is none, or it is not finite.
func (s *tuning) evalLoss(ctx context.Context) (loss *float64, err error) {
	// The resolution thins the rows of training, and none of those that are needed here.
	m, _, err := s.readMetrics(ctx, s.job.id(), url.Values{"resolution": {"1"}})
	for i := range m {
		if m[i].evaluated() {
			loss = m[i].Eval.float()
		}
	}
	return loss, s.orNull(err)
}

// orNull is nil for an error that is to be got over.
func (s *tuning) orNull(err error) error {
	if stuck(err, s.mark) {
		return err
	}
	return nil
}

func (s *tuning) failed(ctx context.Context) (relay.Fact, error) {
	const typ = "fine_tune.failed"
	data := failedData{ID: s.job.ID, Message: "status=" + string(s.job.Status), Class: classSystem, BaseModel: or(s.job.Model)}
	var at time.Time
	if line := failure(s.log); line != nil {
		data.Message = sentence(string(line.Message))
	}
	line := ofType(s.log, "job_error", "job_user_error")
	if line != nil {
		at = line.At.Time
	}
	if line != nil && line.Type == "job_user_error" || s.job.Status == "user_error" {
		data.Class = classUser
	}
	if at.IsZero() {
		at = s.job.UpdatedAt.Time
	}
	var err error
	data.Step, err = s.stepAtEnd(ctx, typ)
	return s.fact(typ, "", at, data), err
}

// stepAtEnd is the step that training had reached, nil if that is not known.
func (s *tuning) stepAtEnd(ctx context.Context, typ string) (step *int64, err error) {
	if step = lastStep(s.log); step != nil {
		return step, nil
	}
	step = s.job.Steps.int()
	switch {
	case step != nil && *step > 0:
		return step, nil
	case step != nil, len(s.running()) == 0, s.brief, s.mark.Has(typ): // there was no step, or it does not matter
		return nil, nil
	}
	m, _, err := s.readMetrics(ctx, s.job.id(), nil)
	for i := range m {
		if n := m[i].Step.int(); n != nil && *n > 0 && (step == nil || *n > *step) {
			step = n
		}
	}
	return step, s.orNull(err)
}
