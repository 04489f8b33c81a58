package together

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"together-relay/relay"
)

// A save is a checkpoint of a fine-tune.
type save struct {
	step  int64
	final bool
	at    instant
	path  string
	early bool // the log knows of it, the list does not yet
}

func (s *save) kind() string {
	if s.final {
		return "final"
	}
	return "intermediate"
}

func (s *save) discriminator() string {
	return "step=" + strconv.FormatInt(s.step, 10) + ";kind=" + s.kind()
}

// readCheckpoints lists the checkpoints. One step can have two rows of a kind, for the
// merged model and for its adapter: they are one save.
func (f *FineTunes) readCheckpoints(ctx context.Context, id string) ([]save, error) {
	type checkpoint struct {
		Step number  `json:"step"`
		At   instant `json:"created_at"`
		Path word    `json:"path"`
		Type word    `json:"checkpoint_type"` // a label for people
	}
	all, err := list(ctx, f.api, "/v1/fine-tunes/"+url.PathEscape(id)+"/checkpoints", nil,
		func(c *checkpoint) string { return string(c.Step) })
	var saves []save
	for i := range all {
		c := &all[i].is
		step := c.Step.int()
		if step == nil || *step < 0 {
			continue
		}
		found := save{step: *step, at: c.At, path: bare(string(c.Path)),
			final: !strings.Contains(strings.ToLower(string(c.Type)), "intermediate")}
		at := slices.IndexFunc(saves, func(s save) bool { return s.step == found.step && s.final == found.final })
		switch {
		case at < 0:
			saves = append(saves, found)
		case !found.at.IsZero() && found.at.Before(saves[at].at.Time): // what was first counts
			saves[at] = found
		}
	}
	return saves, err
}

// merge adds the saves that the log knows of and the list does not show yet.
func (s *tuning) merge(saves []save) []save {
	for i := range s.log {
		line := &s.log[i]
		step := line.step()
		if line.Type != "checkpoint_save" || step == nil {
			continue
		}
		at := slices.IndexFunc(saves, func(s save) bool { return s.step == *step })
		if at < 0 {
			saves = append(saves, save{step: *step, at: line.At, path: bare(string(line.Path)), early: true})
		} else if saves[at].at.IsZero() {
			saves[at].at = line.At
		}
	}
	for i := range saves { // it is in order all the same
		if saves[i].at.IsZero() {
			saves[i].at.Time = s.job.UpdatedAt.Time
		}
	}
	slices.SortStableFunc(saves, func(a, b save) int { return a.at.Compare(b.at.Time) })
	return saves
}

type checkpointData struct {
	ID        word       `json:"fine_tune_id"`
	Step      int64      `json:"step"`
	Loss      *float64   `json:"loss"`
	Type      string     `json:"checkpoint_type"`
	Path      *string    `json:"path"`
	CreatedAt *time.Time `json:"created_at"`
}

// checkpoints are the facts of the saves. Beside an error they lack their losses.
func (s *tuning) checkpoints(ctx context.Context) (facts []relay.Fact, err error) {
	var missed []save
	for _, one := range s.saves {
		if !s.mark.Has(factKey(typeCheckpoint, one.discriminator())) {
			missed = append(missed, one)
		}
	}
	if len(missed) == 0 {
		return nil, nil
	}
	var m []metric
	given := false
	if !s.brief {
		m, given, err = s.lossesAt(ctx, missed)
		if !stuck(err, s.mark) {
			err = nil
		}
	}
	moving := s.job.stage() != over && !s.brief
	for _, one := range missed {
		loss, found := lossAt(m, one.step)
		data := checkpointData{ID: s.job.ID, Step: one.step, Loss: loss, Type: one.kind(), Path: or(word(one.path))}
		if !one.at.IsZero() {
			at := one.at.UTC()
			data.CreatedAt = &at
		}
		fact := s.fact(typeCheckpoint, one.discriminator(), one.at.Time, data)
		fact.Wait = moving && (one.early || !found && given)
		facts = append(facts, fact)
	}
	return facts, err
}

// A metric is what training has measured at a step. Training and evaluation are separate
// metrics even of the same step.
type metric struct {
	Step  number  `json:"train/global_step"`
	Train reading `json:"train/loss"`
	Eval  reading `json:"eval/loss"`
}

// trained says whether it is one of training, though its loss may not be finite.
func (m *metric) trained() bool { return m.Train.number != "" || m.Train.there && !m.Eval.there }

// evaluated says whether it is one of evaluation, though its loss may not be finite.
func (m *metric) evaluated() bool { return m.Eval.number != "" || m.Eval.there && !m.Train.there }

// window is how many steps before a checkpoint its loss is looked for at first.
const window = 50

// lossesAt asks for the metrics that tell the losses of the saves, in one request or two.
// The provider may not give metrics of this job at all.
func (s *tuning) lossesAt(ctx context.Context, saves []save) (m []metric, given bool, err error) {
	first, last := saves[0].step, saves[0].step
	for _, one := range saves {
		first, last = min(first, one.step), max(last, one.step)
	}
	from := max(0, first-window)
	for {
		query := url.Values{"global_step_from": {strconv.FormatInt(from, 10)}, "global_step_to": {strconv.FormatInt(last, 10)}}
		m, given, err = s.readMetrics(ctx, s.job.id(), query)
		if err != nil || !given || from == 0 {
			return m, given, err
		}
		if _, found := lossAt(m, first); found {
			return m, given, nil
		}
		from = 0
	}
}

// lossAt is the training loss at the step, or the last one before it; nil if there is none,
// or it is not finite.
func lossAt(m []metric, step int64) (loss *float64, found bool) {
	best := int64(-1)
	for i := range m {
		if at := m[i].Step.int(); at != nil && m[i].trained() && *at <= step && *at >= best {
			best, loss, found = *at, m[i].Train.float(), true
		}
	}
	return loss, found
}

// readMetrics asks for metrics. It is no error if the provider does not give any of this job.
func (f *FineTunes) readMetrics(ctx context.Context, id string, query url.Values) (m []metric, given bool, err error) {
	path := "/v1/fine-tunes/" + url.PathEscape(id) + "/metrics"
	body, err := f.api.get(ctx, path, query, maxList)
	if err != nil {
		switch status(err) {
		case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
			return nil, false, nil
		}
		return nil, false, err
	}
	raw, err := rows(body)
	if errors.Is(err, errNoList) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("GET %s: 200, %w", path, err)
	}
	return each[metric](raw), true, nil
}
