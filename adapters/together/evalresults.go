package together

import (
	"encoding/json"
)

// evalResults is what an evaluation has come to. Which members there are depends on its type.
type evalResults struct {
	GenerationFails number       `json:"generation_fail_count"`
	JudgeFails      number       `json:"judge_fail_count"`
	InvalidLabels   number       `json:"invalid_label_count"`
	InvalidScores   number       `json:"invalid_score_count"`
	FailedSamples   number       `json:"failed_samples"`
	PassPercentage  number       `json:"pass_percentage"`
	LabelCounts     labels       `json:"label_counts"`
	Scores          maybe[score] `json:"aggregated_scores"`
	AWins           number       `json:"A_wins"`
	BWins           number       `json:"B_wins"`
	Ties            number       `json:"Ties"`
	File            word         `json:"result_file_id"`
	Error           message      `json:"error"`
}

type score struct {
	Mean           number `json:"mean_score"`
	Std            number `json:"std_score"`
	PassPercentage number `json:"pass_percentage"`
}

// evalFigures is what is told of the results: members that are not there are left out.
type evalFigures struct {
	GenerationFails *int64        `json:"generation_fail_count,omitempty"`
	JudgeFails      *int64        `json:"judge_fail_count,omitempty"`
	InvalidLabels   *int64        `json:"invalid_label_count,omitempty"`
	InvalidScores   *int64        `json:"invalid_score_count,omitempty"`
	FailedSamples   *int64        `json:"failed_samples,omitempty"`
	PassPercentage  *float64      `json:"pass_percentage,omitempty"`
	LabelCounts     *string       `json:"label_counts,omitempty"`
	Scores          *scoreFigures `json:"aggregated_scores,omitempty"`
	AWins           *int64        `json:"A_wins,omitempty"`
	BWins           *int64        `json:"B_wins,omitempty"`
	Ties            *int64        `json:"Ties,omitempty"`
	File            *string       `json:"result_file_id,omitempty"`
}

type scoreFigures struct {
	Mean           *float64 `json:"mean_score,omitempty"`
	Std            *float64 `json:"std_score,omitempty"`
	PassPercentage *float64 `json:"pass_percentage,omitempty"`
}

func (r *evalResults) figures() *evalFigures {
	figures := &evalFigures{
		GenerationFails: r.GenerationFails.int(), JudgeFails: r.JudgeFails.int(),
		InvalidLabels: r.InvalidLabels.int(), InvalidScores: r.InvalidScores.int(), FailedSamples: r.FailedSamples.int(),
		PassPercentage: r.PassPercentage.float(), LabelCounts: or(word(r.LabelCounts)),
		AWins: r.AWins.int(), BWins: r.BWins.int(), Ties: r.Ties.int(), File: or(r.File),
	}
	if s := r.Scores; s.ok {
		figures.Scores = &scoreFigures{s.is.Mean.float(), s.is.Std.float(), s.is.PassPercentage.float()}
	}
	return figures
}

// labels are counts by label: a JSON object in a string, as the provider writes it.
type labels string

const maxLabels = 16 << 10 // bytes

// UnmarshalJSON takes any value. What does not hold numbers by name is left out.
func (l *labels) UnmarshalJSON(b []byte) error {
	*l = ""
	var inner string
	if b[0] == '"' && json.Unmarshal(b, &inner) == nil {
		b = []byte(inner)
	}
	var counts map[string]float64
	if json.Unmarshal(b, &counts) != nil || counts == nil {
		return nil
	}
	if len(b) <= maxLabels {
		*l = labels(b)
	}
	return nil
}
