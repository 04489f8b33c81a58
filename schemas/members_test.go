package schemas

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// table says for each type which members its data must have, and after the semicolon which
// further ones are described. A question mark allows null. What the first five must have is
// the contract's.
const table = `
fine_tune.completed: fine_tune_id string, model_name string, eval_loss number?; base_model any, early_stopped any, best_step any, token_count any, total_price_usd any, model_object_id any
fine_tune.failed: fine_tune_id string, error_message string, step integer?; error_class any, base_model any
fine_tune.checkpoint: fine_tune_id string, step integer, loss number?; checkpoint_type any, path any, created_at any
model.deprecated: model_id string, replacement_model string?, sunset_date date?; product any, source any, confidence any
batch.done: batch_id string, output_url uri?, total_tokens integer?; output_url_auth any, output_file_id any, error_file_id any, model_id any, endpoint any
fine_tune.created: fine_tune_id string; base_model string?, model_name string?
fine_tune.running: fine_tune_id string; base_model string?, model_name string?
fine_tune.cancelled: fine_tune_id string, step integer?; base_model string?
fine_tune.early_stopped: fine_tune_id string, best_step integer?, best_metric number?
fine_tune.restarted: fine_tune_id string; message string?, step integer?
model.added: model_id string; model_type string?, display_name string?
model.removed: model_id string; model_type string?
batch.created: batch_id string; model_id string?, endpoint string?, input_file_id string?
batch.in_progress: batch_id string; model_id string?, endpoint string?, input_file_id string?
batch.failed: batch_id string, error_message string?, output_url uri?; output_url_auth string, output_file_id string?, error_file_id string?, model_id string?, endpoint string?
batch.expired: batch_id string, output_url uri?; error_message string?, output_url_auth string, output_file_id string?, error_file_id string?, model_id string?, endpoint string?
batch.cancelled: batch_id string, output_url uri?; error_message string?, output_url_auth string, output_file_id string?, error_file_id string?, model_id string?, endpoint string?
batch.overdue: batch_id string, deadline date-time; progress number?, model_id string?
evaluation.completed: evaluation_id string, results object?; evaluation_type string?, result_file_id string?
evaluation.failed: evaluation_id string, error_message string; error_class string, evaluation_type string?
file.processed: file_id string; filename string?, purpose string?, bytes integer?, lines integer?
file.invalid: file_id string, error_message string?; error_type string?, filename string?, purpose string?
file.failed: file_id string, error_message string?; error_type string?, filename string?, purpose string?
video.completed: video_id string; model string?, seconds number?, size string?, cost_usd number?
video.failed: video_id string, error_message string; error_code string?, model string?
video.cancelled: video_id string; model string?
queue_job.done: queue_job_id string; model string?
queue_job.failed: queue_job_id string; model string?, error_message string?
queue_job.canceled: queue_job_id string; model string?
`

type member struct {
	typ, name, kind    string
	nullable, required bool
}

// members are those of the table.
var members = readTable()

func readTable() []member {
	var all []member
	for line := range strings.Lines(strings.TrimSpace(table)) {
		typ, rest, _ := strings.Cut(strings.TrimSpace(line), ": ")
		for i, part := range strings.Split(rest, "; ") {
			for name := range strings.SplitSeq(part, ", ") {
				name, kind, _ := strings.Cut(name, " ")
				kind, nullable := strings.CutSuffix(kind, "?")
				all = append(all, member{typ: typ, name: name, kind: kind, nullable: nullable || kind == "any", required: i == 0})
			}
		}
	}
	return all
}

// kinds is what each kind of member takes and what it does not.
var kinds = map[string]struct{ good, bad []string }{
	"string": {
		good: []string{`"x"`, `""`, `"\ud800 \u0000 \""`, `"` + strings.Repeat("x", 100_000) + `"`},
		bad:  []string{`1`, `true`, `["x"]`, `{"x":"x"}`},
	},
	"any": { // a sender's own, which the relay's own name must not shut out
		good: []string{`"x"`, `1`, `1.5e1000`, `true`, `null`, `[1]`, `{"x":[]}`},
	},
	"number": {
		good: []string{`0`, `-0`, `-0.0`, `1`, `1.5`, `-1e-3`, `1e400`, `-1e-400`, `1e1000000000`, `1E-1000000000`, `1e99999999999999999999`, digits},
		bad:  []string{`"1"`, `false`, `[1]`, `{"x":1}`, `"NaN"`},
	},
	"integer": {
		good: []string{`0`, `-0`, `-0.0`, `1`, `-1`, `1.0`, `1e2`, `1.5e1`, `10e-1`, `9007199254740993`, `1e400`, `-1e1000000000`, `1e99999999999999999999`,
			digits, "1." + zeros, `0e-1000000000`, "1" + zeros + "e-1000"},
		bad: []string{`1.5`, `1e-1`, `-0.1`, `1e-400`, `1E-1000000000`, `1e-99999999999999999999`, "1." + zeros + "1", "1" + zeros + "e-100001",
			`"1"`, `true`, `[]`, `{}`},
	},
	"date": {
		good: []string{`"2026-08-31"`, `"2028-02-29"`, `"2026-08-31T12:00:00Z"`, `"2026-08-31t12:00:00.123456789z"`, `"2026-08-31T12:00:00+05:30"`, `"2016-12-31T23:59:60Z"`},
		bad: []string{`""`, `"tomorrow"`, `"2026-8-31"`, `"2026-02-29"`, `"2026-13-01"`, `"20260831"`, `"2026-08-31T12:00:00"`, `"2026-08-31T25:00:00Z"`,
			`"2026-08-31 12:00:00Z"`, `"31.08.2026"`, `"2026-08-31Z"`, `" 2026-08-31"`, `1788134400`, `true`, `[]`},
	},
	"date-time": {
		good: []string{`"2026-08-31T12:00:00Z"`, `"2026-08-31t12:00:00.123456789z"`, `"2026-08-31T12:00:00+05:30"`},
		bad:  []string{`""`, `"2026-08-31"`, `"2026-08-31T12:00:00"`, `"2026-02-29T12:00:00Z"`, `1788134400`, `true`, `{}`},
	},
	"boolean": {
		good: []string{`true`, `false`},
		bad:  []string{`"true"`, `""`, `0`, `1`, `[]`, `{}`},
	},
	"object": {
		good: []string{`{}`, `{"a":{"b":[null]},"c":1e1000000000}`},
		bad:  []string{`""`, `"{}"`, `1`, `false`, `[]`},
	},
	"uri": {
		good: []string{`"https://example.com/a?b=c#d"`, `"http://[::1]:8080/"`, `"s3://bucket/key"`, `"urn:uuid:6d1f0a52-93c4-4b7e-8e21-5f0b7c9ad318"`, `"https://example.com/%20"`},
		bad:  []string{`""`, `"/relative"`, `"example.com"`, `"no uri at all"`, `"https://exa mple.com/"`, `"://"`, `"https://example.com/%zz"`, `1`, `true`, `["https://example.com"]`},
	},
}

var (
	zeros  = strings.Repeat("0", 100_000)
	digits = strings.Repeat("9", 1_000_000)
)

func TestMembers(t *testing.T) {
	t.Parallel()
	set := load(t)
	for _, m := range members {
		t.Run(m.typ+" "+m.name, func(t *testing.T) {
			t.Parallel()
			for _, value := range kinds[m.kind].good {
				if err := set.Check(m.typ, with(t, m.typ, m.name, value)); err != nil {
					t.Errorf("%.50s: %v", value, err)
				}
			}
			for _, value := range kinds[m.kind].bad {
				if detail := wantUnusable(t, set.Check(m.typ, with(t, m.typ, m.name, value))); !strings.HasPrefix(detail, "data."+m.name+": ") {
					t.Errorf("%.50s: detail = %q", value, detail)
				}
			}
			if err := set.Check(m.typ, with(t, m.typ, m.name, "null")); (err == nil) != m.nullable {
				t.Errorf("null: %v", err)
			}
			err := set.Check(m.typ, with(t, m.typ, m.name, ""))
			if !m.required {
				if err != nil {
					t.Errorf("missing: %v", err)
				}
			} else if detail := wantUnusable(t, err); detail != "data: missing "+m.name {
				t.Errorf("missing: detail = %q", detail)
			}
		})
	}
}

// The schemas require what the table names, and describe nothing else.
func TestSchemasAreTheTable(t *testing.T) {
	t.Parallel()
	type shape struct {
		Required   []string
		Properties map[string]struct{}
	}
	got, want := map[string]shape{}, map[string]shape{}
	for _, m := range members {
		s, ok := want[m.typ]
		if !ok {
			s.Properties = map[string]struct{}{}
		}
		s.Properties[m.name] = struct{}{}
		if m.required {
			s.Required = append(s.Required, m.name)
		}
		want[m.typ] = s
	}
	for _, typ := range Types() {
		text, err := Schema(typ)
		if err != nil {
			t.Fatal(err)
		}
		var s shape
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		got[typ] = s
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("schemas (-want +got):\n%s", diff)
	}
}

// The first member that a type requires is its resource, as the relay finds it.
func TestResourceIsRequired(t *testing.T) {
	t.Parallel()
	for _, typ := range Types() {
		first, _, _ := strings.Cut(typ, ".")
		want := member{typ: typ, name: first + "_id", kind: "string", required: true}
		if !slices.Contains(members, want) {
			t.Errorf("%s does not require the string %s", typ, want.name)
		}
	}
}
