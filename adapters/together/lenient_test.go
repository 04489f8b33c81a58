package together

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// everything holds one member of each lenient kind.
type everything struct {
	Word    word               `json:"word"`
	Message message            `json:"message"`
	Number  number             `json:"number"`
	Truth   truth              `json:"truth"`
	State   state              `json:"state"`
	Instant instant            `json:"instant"`
	Maybe   maybe[evalResults] `json:"maybe"`
	Labels  labels             `json:"labels"`
	After   word               `json:"after"`
}

// Pitfall: numbers as strings, floats for ints, NaN.
func TestNumbers(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		i, f any
	}{
		`72`:                  {int64(72), 72.0},
		`72.0`:                {int64(72), 72.0},
		`"72"`:                {int64(72), 72.0},
		`" 72.9 "`:            {int64(72), 72.9},
		`-1.5`:                {int64(-1), -1.5},
		`1e3`:                 {int64(1000), 1000.0},
		`1779196313564587000`: {int64(1779196313564587000), 1779196313564587000.0},
		`1e300`:               {nil, 1e300},
		`"1e999"`:             {nil, nil},
		`1e999`:               {nil, nil},
		`"NaN"`:               {nil, nil},
		`"Infinity"`:          {nil, nil},
		`null`:                {nil, nil},
		`""`:                  {nil, nil},
		`"many"`:              {nil, nil},
		`true`:                {nil, nil},
		`{"n":1}`:             {nil, nil},
		`[1]`:                 {nil, nil},
	} {
		var got everything
		if err := json.Unmarshal([]byte(`{"number":`+in+`,"after":"x"}`), &got); err != nil || got.After != "x" {
			t.Errorf("%s spoils its object: %v", in, err)
		}
		var i, f any
		if n := got.Number.int(); n != nil {
			i = *n
		}
		if n := got.Number.float(); n != nil {
			f = *n
		}
		if i != want.i || f != want.f {
			t.Errorf("%s: %v and %v, not %v and %v", in, i, f, want.i, want.f)
		}
	}
}

// Pitfall: times in RFC 3339 and in Unix seconds; nanoseconds must not lose a digit.
func TestInstants(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`"2026-07-01T09:00:00.123Z"`:       "2026-07-01T09:00:00.123Z",
		`"2026-07-01T21:14:25.429872Z"`:    "2026-07-01T21:14:25.429872Z",
		`"2026-07-01T11:00:00+02:00"`:      "2026-07-01T09:00:00Z",
		`"2026-07-01t09:00:00z"`:           "2026-07-01T09:00:00Z",
		`"2026-07-01 09:00:00"`:            "2026-07-01T09:00:00Z",
		`1782896400`:                       "2026-07-01T09:00:00Z",
		`1782896400.5`:                     "2026-07-01T09:00:00.5Z",
		`"1782896400"`:                     "2026-07-01T09:00:00Z",
		`1782896400123`:                    "2026-07-01T09:00:00.123Z",
		`1782896400123456`:                 "2026-07-01T09:00:00.123456Z",
		`1779196313564587001`:              "2026-05-19T13:11:53.564587001Z",
		`0`:                                "",
		`null`:                             "",
		`""`:                               "",
		`"0001-01-01T00:00:00Z"`:           "",
		`"yesterday"`:                      "",
		`{}`:                               "",
		`1e300`:                            "",
		`"2026-07-01T09:00:00,5Z"`:         "",
		`"99999-07-01T09:00:00Z"`:          "",
		`"2026-13-01T09:00:00Z"`:           "",
		`-99999999999`:                     "",
		`["2026-07-01T09:00:00Z"]`:         "",
		`"2026-07-01T09:00:00.123456789Z"`: "2026-07-01T09:00:00.123456789Z",
	} {
		var got everything
		if err := json.Unmarshal([]byte(`{"instant":`+in+`,"after":"x"}`), &got); err != nil || got.After != "x" {
			t.Errorf("%s spoils its object: %v", in, err)
		}
		text := ""
		if !got.Instant.IsZero() {
			text = got.Instant.Format(time.RFC3339Nano)
		}
		if text != want {
			t.Errorf("%s: %s, not %s", in, text, want)
		}
	}
}

// Pitfall: canceled and cancelled, Complete and COMPLETED, upper and lower case.
func TestStatesHaveOneSpelling(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]state{
		"canceled": "cancelled", "CANCELLED": "cancelled", "CANCELING": "cancelling",
		"Complete": "completed", "COMPLETED": "completed", "completed": "completed",
		"COMPRESSING_MODEL": "model_compressing", "JOB_USER_ERROR": "job_user_error",
		"IN_PROGRESS": "in_progress", " Running ": "running", "": "", "Novel": "novel",
	} {
		if got := spelled(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// Pitfall: an array, {data} and null are lists.
func TestLists(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{
		`[]`: 0, `null`: 0, ` [1,2] `: 2, "\xef\xbb\xbf[1]": 1,
		`{"data":[1,2]}`: 2, `{"data":null}`: 0, `{"object":"list","data":[{}]}`: 1, `{"metrics":[1]}`: 1,
		`[{"a":NaN},{"b":-Infinity}]`: 2, `{"data":[NaN,"NaN",Infinity]}`: 3,
		`{}`: -1, `{"data":{}}`: -1, `{"error":"x"}`: -1, `"x"`: -1, `1`: -1, ``: -1, `[1`: -1, `<p>`: -1, `[nano]`: -1,
	} {
		got, err := rows([]byte(in))
		if n := len(got); want < 0 && err == nil || want >= 0 && (err != nil || n != want) {
			t.Errorf("%s: %d rows, %v", in, n, err)
		}
	}
}

// Pitfall: bare NaN. What lies in a string stays as it is.
func TestFinite(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`[NaN]`: `[null]`, `[-Infinity,+Infinity,1]`: `[null,null,1]`, `["NaN","\"NaN",NaN]`: `["NaN","\"NaN",null]`,
		`{"a\\":NaN}`: `{"a\\":null}`, `[NaNa]`: `[NaNa]`, `[-inf,nan]`: `[null,null]`, `NaN`: `null`, `"\`: `"\`,
	} {
		if got := string(finite([]byte(in))); got != want {
			t.Errorf("%s: %s, not %s", in, got, want)
		}
	}
}

// Pitfall: a presigned URL must not leak, wherever a text has it.
func TestSentences(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                              "",
		" two\n\tlines\r\n":             "two lines",
		"what? nothing":                 "what? nothing",
		"why not a?b":                   "why not a?b",
		"get https://s3/x?sig=1&a=2 ok": "get https://s3/x ok",
		`at "/bucket/x?X-Amz=1" ok`:     `at "/bucket/x" ok`,
		"https://u:p@h/x":               "https://h/x",
		"https://h/x#token":             "https://h/x",
		"bell\x07 and \x1b[31mred":      "bell and [31mred",
		"bad \xff utf":                  "bad � utf",
		strings.Repeat("ä", 501):        strings.Repeat("ä", 499) + "…",
		strings.Repeat("ä", 500):        strings.Repeat("ä", 500),
		strings.Repeat("x", 90000):      strings.Repeat("x", 499) + "…",
	} {
		if got := sentence(in); got != want {
			t.Errorf("%.50q: %q, not %q", in, got, want)
		}
	}
}

func FuzzLenient(f *testing.F) {
	f.Add([]byte(`[{"word":1,"message":{"message":"x"},"number":"NaN","truth":"true","state":"Complete","instant":1.5e9,"maybe":{"A_wins":"2"},"labels":"{\"a\":1}","after":""}]`))
	f.Add([]byte(`{"data":[{"word":null,"number":NaN,"instant":"2026-07-01T09:00:00Z","maybe":[],"labels":{"a":1}}]}`))
	f.Add([]byte(`{"metrics":[{"number":-Infinity,"instant":1779196313564587000}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		raw, err := rows(slices.Clone(body))
		if err != nil {
			return
		}
		for _, row := range raw {
			if len(row) == 0 || row[0] != '{' {
				continue
			}
			var v everything
			if err := json.Unmarshal(row, &v); err != nil {
				t.Fatalf("a member spoils its object: %v", err)
			}
			if f := v.Number.float(); f != nil && (math.IsNaN(*f) || math.IsInf(*f, 0)) {
				t.Error("a number is not finite")
			}
			if v.Instant.Year() < 1 || v.Instant.Year() > 9999 {
				t.Error("an instant that RFC 3339 cannot write")
			}
			compact("x", map[string]any{"number": v.Number.float(), "at": v.Instant.Time, "results": v.Maybe.is.figures()})
		}
	})
}

func FuzzSentence(f *testing.F) {
	f.Add("see https://a/b?c=d#e\n\x00\xff")
	f.Fuzz(func(t *testing.T, in string) {
		got := sentence(in)
		if utf8.RuneCountInString(got) > maxSentence || strings.ContainsAny(got, "\n\r\t\x00\x1b") || !utf8.ValidString(got) {
			t.Errorf("%q", got)
		}
	})
}

func FuzzTokens(f *testing.F) {
	f.Add([]byte(`{"response":{"body":{"usage":{"total_tokens":15}}}}`+"\n"), int64(1000))
	f.Fuzz(func(t *testing.T, body []byte, limit int64) {
		n, err := sumTokens(strings.NewReader(string(body)), limit&0xfff)
		if err != nil || n != nil && (*n < 0 || int64(len(body)) > limit&0xfff) {
			t.Error(n, err)
		}
	})
}
