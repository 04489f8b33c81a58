package togethersim

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// spoil changes what the API would say. The pattern says to what request.
func (f Faults) spoil(body any, pattern string) any {
	if _, ok := body.([]byte); ok || strings.HasSuffix(pattern, "/webhooks") || strings.HasSuffix(pattern, "/whoami") {
		return body
	}
	body = f.spoilValues(body, pattern)
	if strings.Contains(pattern, "{id}") {
		return body
	}
	switch list := body.(type) {
	case []any:
		list = f.spoilRows(list, pattern)
		switch {
		case f.Null:
			return nil
		case f.Swap:
			return row{"data": list}
		}
		return list
	case row:
		rows, ok := list["data"].([]any)
		if !ok {
			return body
		}
		rows = f.spoilRows(rows, pattern)
		if f.Swap && !strings.Contains(pattern, "/v2/") {
			return rows
		}
		list = maps.Clone(list)
		if list["data"] = rows; f.Null {
			list["data"] = nil
		}
		return list
	}
	return body
}

// spoilRows changes the rows of a list.
func (f Faults) spoilRows(rows []any, pattern string) []any {
	if f.Empty {
		return []any{}
	}
	out := []any{}
	for _, item := range rows {
		r, _ := item.(row)
		id := name(r)
		switch {
		case slices.Contains(f.Hidden, id), slices.Contains(f.Missing, id):
			continue
		case slices.Contains(f.Garbled, id):
			r = maps.Clone(r)
			for key := range r {
				if key != "id" && key != "workflow_id" && key != "name" {
					r[key] = row{"wrong": []any{true}}
				}
			}
			item = r
		}
		out = append(out, item)
	}
	nonsense := row{"id": 17, "status": row{}, "created_at": []any{nil}}
	switch catalogue := strings.HasSuffix(pattern, "models"); {
	case catalogue:
		out = out[int(f.Shrink*float64(len(out))):]
		nonsense["id"] = row{} // there a number might be a name
	case f.lost && len(out) > 0:
		out = slices.Delete(out, len(out)/2, len(out)/2+1)
	}
	if f.Malformed {
		out = slices.Insert(out, len(out)/2, any(nonsense))
	}
	return out
}

// name is by what a row goes in the scripts.
func name(r row) string {
	for _, key := range []string{"workflow_id", "name", "id"} {
		if id, ok := r[key].(string); ok {
			return id
		}
	}
	return ""
}

// spoilValues changes the members of objects.
func (f Faults) spoilValues(body any, pattern string) any {
	log := strings.HasSuffix(pattern, "/events")
	if f.StrangeEvents && log {
		body = strangeEntry(body)
	}
	body = walk(body, func(key string, leaf any) any {
		switch n := leaf.(type) {
		case string:
			switch {
			case key == "type" && log && f.UpperCase && n == "model_compressing":
				return "COMPRESSING_MODEL"
			case key == "type" && log && f.UpperCase:
				return strings.ToUpper(n)
			case key == "status" || key == "processing_status":
				return f.state(n)
			}
		case float64:
			switch {
			case f.NaN && key == "train/grad_norm":
				return math.NaN()
			case f.Strings:
				return strconv.FormatFloat(n, 'g', -1, 64)
			}
		case int:
			return f.integer(int64(n))
		case int64:
			return f.integer(n)
		}
		return leaf
	})
	if f.StrangeFields {
		return strangeFields(body)
	}
	return body
}

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

// state is a state of a job in the spelling that the dials want. Those of the catalogue are
// no states.
func (f Faults) state(name string) string {
	if strings.HasPrefix(name, "SUPPORTED_MODEL_") {
		return name
	}
	if f.StrangeStatus && !ended(name) {
		return "defragmenting"
	}
	if f.OneL {
		name = strings.NewReplacer("cancell", "cancel", "CANCELL", "CANCEL").Replace(name)
	}
	if f.OtherCase {
		if upper := strings.ToUpper(name); upper != name {
			return upper
		}
		return strings.ToLower(name)
	}
	return name
}

// ended says whether a state of any kind of job is one of the last.
func ended(status string) bool {
	switch strings.ToLower(status) {
	case "completed", "error", "user_error", "cancelled", "canceled", "failed", "expired", "invalid_format", "done":
		return true
	}
	return false
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
