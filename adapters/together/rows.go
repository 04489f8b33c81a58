package together

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"together-relay/relay"
)

// list reads a list. A row that is none of T, or has no id, is reported and left out.
func list[T any](ctx context.Context, a *API, path string, query url.Values, id func(*T) string) ([]row[T], error) {
	body, at, err := a.do(ctx, http.MethodGet, path, query, nil, maxList)
	if err != nil {
		return nil, err
	}
	raw, err := rows(body)
	if err != nil {
		return nil, fmt.Errorf("GET %s: 200, %w", path, err)
	}
	all := make([]row[T], 0, len(raw))
	for _, text := range raw {
		r := row[T]{raw: text, at: at}
		if err := json.Unmarshal(text, &r.is); err != nil || id(&r.is) == "" {
			a.odd("GET %s: a row cannot be read and is left out: %s", path, fingerprint(text))
			continue
		}
		all = append(all, r)
	}
	return all, nil
}

// detail reads one object.
func detail[T any](ctx context.Context, a *API, path string, query url.Values) (row[T], error) {
	var r row[T]
	body, at, err := a.do(ctx, http.MethodGet, path, query, nil, maxDetail)
	if err != nil {
		return r, err
	}
	r.at = at
	if r.raw, err = object(body); err == nil {
		err = json.Unmarshal(r.raw, &r.is)
	}
	if err != nil {
		return r, fmt.Errorf("GET %s: 200, the body is no object that can be read", path)
	}
	return r, nil
}

// find asks for one object, which must be the one that was asked for.
func find[T any](ctx context.Context, a *API, path, id string, of func(*T) string) (row[T], error) {
	found, err := detail[T](ctx, a, path+url.PathEscape(id), nil)
	if err == nil && of(&found.is) != id {
		err = fmt.Errorf("GET %s: 200, the answer is about something else", path+url.PathEscape(id))
	}
	return found, err
}

// A row is an object of the API and what was read of it.
type row[T any] struct {
	raw json.RawMessage
	is  T
	at  time.Time // of the answer, by the provider's clock
}

// jobs are the rows of a list as jobs.
func jobs[T any](all []row[T], job func(row[T]) relay.Job) []relay.Job {
	made := make([]relay.Job, len(all))
	for i := range all {
		made[i] = job(all[i])
	}
	return made
}

var errNoList = errors.New("the body is no list that can be read")

// rows are the items of a list: an array, an object with the array as its data or metrics,
// or null.
func rows(body []byte) ([]json.RawMessage, error) {
	body, err := lenient(body)
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if body[0] != '{' {
		if json.Unmarshal(body, &list) != nil {
			return nil, errNoList
		}
		return list, nil
	}
	var around struct {
		Data    json.RawMessage `json:"data"`
		Metrics json.RawMessage `json:"metrics"`
	}
	if json.Unmarshal(body, &around) != nil {
		return nil, errNoList
	}
	if around.Data == nil {
		around.Data = around.Metrics
	}
	if around.Data == nil || json.Unmarshal(around.Data, &list) != nil {
		return nil, errNoList
	}
	return list, nil
}

// each reads the rows that are a T, and leaves out the others.
func each[T any](raw []json.RawMessage) []T {
	all := make([]T, 0, len(raw))
	for _, text := range raw {
		var v T
		if json.Unmarshal(text, &v) == nil {
			all = append(all, v)
		}
	}
	return all
}

// object is the object that is the whole body.
func object(body []byte) (json.RawMessage, error) {
	body, err := lenient(body)
	if err != nil {
		return nil, err
	}
	if body[0] != '{' {
		return nil, errors.New("the body is no object")
	}
	return body, nil
}

// lenient is JSON text without white space around it. Numbers that are none, which some
// writers know and JSON does not, become null.
func lenient(body []byte) ([]byte, error) {
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")))
	switch {
	case json.Valid(body):
		return body, nil
	case html(body):
		return nil, errors.New("the body is HTML")
	}
	if body = finite(body); json.Valid(body) {
		return body, nil
	}
	return nil, errors.New("the body is not JSON, or cut off")
}

// finite replaces NaN and Infinity outside strings by null.
func finite(body []byte) []byte {
	out := make([]byte, 0, len(body)+8)
	quoted := false
	for i := 0; i < len(body); {
		c := body[i]
		switch {
		case quoted && c == '\\' && i+1 < len(body):
			out = append(out, c, body[i+1])
			i += 2
			continue
		case c == '"':
			quoted = !quoted
		case !quoted:
			if n := infinite(body[i:]); n > 0 {
				out = append(out, "null"...)
				i += n
				continue
			}
		}
		out = append(out, c)
		i++
	}
	return out
}

// infinite is the length of the number at the start of the text that is none.
func infinite(text []byte) int {
	sign := 0
	if text[0] == '-' || text[0] == '+' {
		sign = 1
	}
	for _, word := range []string{"NaN", "Infinity", "nan", "Inf", "inf"} {
		if n := sign + len(word); len(text) >= n && string(text[sign:n]) == word && (len(text) == n || !wordy(text[n])) {
			return n
		}
	}
	return 0
}

func wordy(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}
