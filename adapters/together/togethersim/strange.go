package togethersim

import (
	"encoding/json"
	"strconv"
	"strings"
)

// integer is a whole number in the form that the dials want.
func (f Faults) integer(n int64) any {
	switch {
	case f.Strings:
		return strconv.FormatInt(n, 10)
	case f.Floats && (n > 1<<53 || n < -1<<53):
		return json.Number(strconv.FormatFloat(float64(n), 'e', -1, 64))
	case f.Floats:
		return json.Number(strconv.FormatInt(n, 10) + ".0")
	}
	return n
}

// ended says whether a state of any kind of job is one of the last. Those of the catalogue
// are no states.
func ended(status string) bool {
	switch strings.ToLower(status) {
	case "completed", "error", "user_error", "cancelled", "failed", "expired", "invalid_format":
		return true
	}
	return strings.HasPrefix(status, "SUPPORTED_MODEL_")
}

// strangeEntry adds an entry to a log that nobody knows.
func strangeEntry(body any) any {
	r, _ := body.(row)
	rows, _ := r["data"].([]any)
	if len(rows) == 0 {
		return body
	}
	first, _ := rows[0].(row)
	odd := row{"object": "fine-tune-event", "type": "flux_capacitor_charged", "message": "", "level": "", "created_at": first["created_at"], "step": 0}
	return row{"data": append([]any{odd}, rows...)}
}

// strangeFields adds members to all objects that nobody knows.
func strangeFields(v any) any {
	switch v := v.(type) {
	case row:
		out := row{"zz_internal": row{"token": "LEAK-internal", "list": []any{1, nil}}}
		for k, member := range v {
			out[k] = strangeFields(member)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = strangeFields(item)
		}
		return out
	}
	return v
}
