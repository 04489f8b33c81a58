package together

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A logLine is an entry of a fine-tune's log. It has no id.
type logLine struct {
	Type       state   `json:"type"`
	Level      state   `json:"level"`
	Message    message `json:"message"`
	At         instant `json:"created_at"`
	Step       number  `json:"step"`
	BestStep   number  `json:"early_stopping_best_step"`
	BestMetric number  `json:"early_stopping_best_metric_value"`
	Path       word    `json:"checkpoint_path"`
}

// step is nil where there is none: the provider writes 0 then.
func (l *logLine) step() *int64 {
	if n := l.Step.int(); n != nil && *n > 0 {
		return n
	}
	return nil
}

// readLog returns the log, the oldest line first.
func (f *FineTunes) readLog(ctx context.Context, id string) ([]logLine, error) {
	all, err := list(ctx, f.api, "/v1/fine-tunes/"+url.PathEscape(id)+"/events", nil,
		func(l *logLine) string { return string(l.Type) })
	lines := make([]logLine, len(all))
	var last time.Time
	for i := range all {
		lines[i] = all[i].is
		if lines[i].At.IsZero() { // it happened after the one before it, for all we know
			lines[i].At.Time = last
		}
		last = lines[i].At.Time
	}
	slices.SortStableFunc(lines, func(a, b logLine) int { return a.At.Compare(b.At.Time) })
	return lines, err
}

// newest is the last line that fits, nil if there is none.
func newest(log []logLine, fits func(*logLine) bool) *logLine {
	for i := len(log) - 1; i >= 0; i-- {
		if fits(&log[i]) {
			return &log[i]
		}
	}
	return nil
}

// ofType is the last line of one of the types.
func ofType(log []logLine, types ...state) *logLine {
	return newest(log, func(l *logLine) bool { return slices.Contains(types, l.Type) })
}

// failure is the line that says best why the job has failed, nil if none does.
func failure(log []logLine) *logLine {
	tests := []func(*logLine) bool{
		func(l *logLine) bool { return l.Type == "job_error" || l.Type == "job_user_error" },
		func(l *logLine) bool { return strings.Contains(string(l.Level), "error") },
		func(l *logLine) bool { return l.Type == "billing_limit" },
	}
	for _, fits := range tests {
		if line := newest(log, func(l *logLine) bool { return fits(l) && said(l.Message) != nil }); line != nil {
			return line
		}
	}
	return nil
}

// lastStep is the largest step in the log, nil if it names none.
func lastStep(log []logLine) (last *int64) {
	for i := range log {
		if n := log[i].step(); n != nil && (last == nil || *n > *last) {
			last = n
		}
	}
	return last
}
