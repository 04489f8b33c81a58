package togethersim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A view is what the API answers to a request at a moment: a JSON value, or bytes that are
// none. It is called with the world locked.
type view func(w *World, r *http.Request, now time.Time) (any, error)

// A refusal is an answer that is not 200.
type refusal struct {
	status int
	body   any
}

func (e refusal) Error() string { return http.StatusText(e.status) }

// refuse has the shape that most of v1 uses.
func refuse(status int, code, message string) refusal {
	return refusal{status, row{"error": row{"message": message, "type": "invalid_request_error", "param": nil, "code": code}}}
}

func unknown(id string) refusal {
	return refuse(http.StatusNotFound, "not_found", "There is no "+id)
}

// routes are the requests that the API answers.
func routes() map[string]view {
	return map[string]view{
		"GET /v1/whoami":                      whoami,
		"GET /v1/fine-tunes":                  listFineTunes,
		"GET /v1/fine-tunes/{id}":             oneFineTune((*FineTune).long),
		"GET /v1/fine-tunes/{id}/events":      oneFineTune(inData((*FineTune).logRows)),
		"GET /v1/fine-tunes/{id}/checkpoints": oneFineTune(inData((*FineTune).checkpointRows)),
		"GET /v1/fine-tunes/{id}/metrics":     metrics,
		"GET /v1/fine-tunes/models/supported": trainable,
		"GET /v1/batches":                     listBatches,
		"GET /v1/batches/{id}":                oneBatch,
		"GET /v1/evaluation":                  listEvaluations,
		"GET /v1/evaluation/{id}":             oneEvaluation(false),
		"GET /v1/evaluation/{id}/status":      oneEvaluation(true),
		"GET /v1/files":                       listFiles,
		"GET /v1/files/{id}":                  oneFile(false),
		"GET /v1/files/{id}/content":          oneFile(true),
		"GET /v1/models":                      listModels,
		"GET /v2/supported-models":            supportedModels,
		"GET /v1/webhooks":                    listHooks,
		"POST /v1/webhooks":                   addHook,
		"DELETE /v1/webhooks/{id}":            removeHook,
		"/":                                   func(_ *World, r *http.Request, _ time.Time) (any, error) { return nil, unknown(r.URL.Path) },
	}
}

// Handler shows the world the way Together's API does.
func (w *World) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, view := range routes() {
		mux.HandleFunc(pattern, func(to http.ResponseWriter, r *http.Request) { w.answer(to, r, pattern, view) })
	}
	return mux
}

// Requests says how often each kind of request has come, by its pattern, such as
// "GET /v1/fine-tunes/{id}/events". Whatever else has come is counted under "/".
func (w *World) Requests() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.requests)
}

func (w *World) answer(to http.ResponseWriter, r *http.Request, pattern string, view view) {
	trouble, body, err := w.look(r, pattern, view)
	if trouble.before(to, r) {
		return
	}
	status := http.StatusOK
	if refused, ok := errors.AsType[refusal](err); ok {
		status, body = refused.status, refused.body
	} else {
		body = trouble.spoil(body, pattern)
		if r.Method == http.MethodPost {
			status = http.StatusCreated
		}
	}
	kind := "application/octet-stream"
	text, ok := body.([]byte)
	if !ok {
		kind, text = "application/json", encode(body)
	}
	to.Header().Set("Content-Type", kind)
	trouble.write(to, r, status, text)
}

// look counts the request, and asks what is to be seen and what goes wrong.
func (w *World) look(r *http.Request, pattern string, view view) (Faults, any, error) {
	now := w.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.grow(now)
	w.forget(now)
	w.requests[pattern]++
	trouble := w.faults.on(r, w.config.Seed, w.requests[pattern])
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || key == "" || w.config.Key != "" && key != w.config.Key {
		return trouble, nil, refuse(http.StatusUnauthorized, "invalid_api_key", "Invalid API key provided")
	}
	body, err := view(w, r, now)
	return trouble, body, err
}

// encode writes JSON. What is not a number becomes the bare word NaN, as Python writes it.
func encode(body any) []byte {
	text, err := json.Marshal(plain(body))
	if err != nil {
		panic(fmt.Sprintf("togethersim: encode: %v", err))
	}
	return []byte(strings.ReplaceAll(string(text), `"`+notANumber+`"`, "NaN"))
}

// notANumber stands for NaN until the text is written.
const notANumber = "!not-a-number!"

func plain(v any) any {
	return walk(v, func(_ string, leaf any) any {
		if f, ok := leaf.(float64); ok && math.IsNaN(f) {
			return notANumber
		}
		return leaf
	})
}

// walk copies a JSON value with its leaves changed. The key is that of the object's member.
func walk(v any, change func(key string, leaf any) any) any { return walkAt("", v, change) }

func walkAt(key string, v any, change func(string, any) any) any {
	switch v := v.(type) {
	case row:
		out := make(row, len(v))
		for k, member := range v {
			out[k] = walkAt(k, member, change)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = walkAt(key, item, change)
		}
		return out
	}
	return change(key, v)
}

func inData(rows func(*FineTune, time.Time) []any) func(*FineTune, time.Time) row {
	return func(f *FineTune, now time.Time) row { return row{"data": rows(f, now)} }
}

func whoami(*World, *http.Request, time.Time) (any, error) {
	return row{
		"api_key_id": "key_1", "organization_id": "org_1", "organization_name": "Acme",
		"project_id": "proj_1", "project_name": "Default", "project_slug": "default", "user_id": "user-7",
	}, nil
}

func listFineTunes(w *World, _ *http.Request, now time.Time) (any, error) {
	rows := []any{}
	for _, f := range shown(w.fineTunes, now) {
		rows = append(rows, f.short(now))
	}
	return row{"data": rows}, nil
}

func oneFineTune(show func(*FineTune, time.Time) row) view {
	return func(w *World, r *http.Request, now time.Time) (any, error) {
		f, ok := find(w.fineTunes, r.PathValue("id"), now)
		if !ok {
			return nil, unknown(r.PathValue("id"))
		}
		return show(f, now), nil
	}
}

func metrics(w *World, r *http.Request, now time.Time) (any, error) {
	f, ok := find(w.fineTunes, r.PathValue("id"), now)
	if !ok {
		return nil, unknown(r.PathValue("id"))
	}
	from, to, resolution := 0, math.MaxInt, 0
	for name, n := range map[string]*int{"global_step_from": &from, "global_step_to": &to, "resolution": &resolution} {
		text := r.URL.Query().Get(name)
		if text == "" {
			continue
		}
		var err error
		if *n, err = strconv.Atoi(text); err != nil || *n < 0 {
			return nil, refuse(http.StatusBadRequest, "invalid_value", name+" is no number")
		}
	}
	return row{"metrics": f.metricRows(now, from, to, resolution)}, nil
}

func trainable(w *World, _ *http.Request, now time.Time) (any, error) {
	names := []any{}
	for _, m := range w.models {
		if m.Trainable && m.there(now) {
			names = append(names, m.ID)
		}
	}
	return row{"models": names}, nil
}

func listBatches(w *World, _ *http.Request, now time.Time) (any, error) {
	rows := []any{}
	for _, b := range shown(w.batches, now) {
		rows = append(rows, b.show(now))
	}
	slices.Reverse(rows)
	return rows, nil
}

func oneBatch(w *World, r *http.Request, now time.Time) (any, error) {
	b, ok := find(w.batches, r.PathValue("id"), now)
	if !ok {
		return nil, refusal{http.StatusNotFound, row{"error": "batch not found"}}
	}
	return b.show(now), nil
}

// listEvaluations lists the newest first: 10, or up to 100 of them.
func listEvaluations(w *World, r *http.Request, now time.Time) (any, error) {
	limit := 10
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, refuse(http.StatusBadRequest, "invalid_value", "limit is no number")
		}
		limit = min(n, 100)
	}
	status := r.URL.Query().Get("status")
	rows := []any{}
	for _, e := range slices.Backward(shown(w.evaluations, now)) {
		if at, _ := e.stage(now); len(rows) < limit && (status == "" || status == at.Status) {
			rows = append(rows, e.show(now))
		}
	}
	return rows, nil
}

func oneEvaluation(brief bool) view {
	return func(w *World, r *http.Request, now time.Time) (any, error) {
		e, ok := find(w.evaluations, r.PathValue("id"), now)
		if !ok {
			return nil, unknown(r.PathValue("id"))
		}
		if at, _ := e.stage(now); brief {
			return row{"status": at.Status, "results": e.results(at.Status)}, nil
		}
		return e.show(now), nil
	}
}

func listFiles(w *World, _ *http.Request, now time.Time) (any, error) {
	rows := []any{}
	for _, f := range append(shown(w.files, now), w.artefacts(now)...) {
		rows = append(rows, f.show(now))
	}
	return row{"data": rows}, nil
}

func oneFile(content bool) view {
	return func(w *World, r *http.Request, now time.Time) (any, error) {
		f, ok := find(append(shown(w.files, now), w.artefacts(now)...), r.PathValue("id"), now)
		switch {
		case !ok:
			return nil, unknown(r.PathValue("id"))
		case content:
			return f.Content, nil
		}
		return f.show(now), nil
	}
}

func listModels(w *World, r *http.Request, now time.Time) (any, error) {
	product := "PRODUCT_SERVERLESS"
	if r.URL.Query().Get("dedicated") == "true" {
		product = "PRODUCT_DEDICATED"
	}
	all := !r.URL.Query().Has("dedicated") && !r.URL.Query().Has("serverless")
	rows := []any{}
	for _, m := range w.models {
		if m.there(now) && (all || slices.Contains(m.products(), product)) {
			rows = append(rows, m.basic())
		}
	}
	return rows, nil
}

// supportedModels lists page by page: the cursor is how many have been shown.
func supportedModels(w *World, r *http.Request, now time.Time) (any, error) {
	query := r.URL.Query()
	limit, after := 100, 0
	for name, n := range map[string]*int{"limit": &limit, "after": &after} {
		text := strings.TrimPrefix(query.Get(name), "cur_")
		if text == "" {
			continue
		}
		var err error
		if *n, err = strconv.Atoi(text); err != nil || *n < 0 {
			return nil, refuse(http.StatusBadRequest, "invalid_value", name+" is wrong")
		}
	}
	rows := []any{}
	next := ""
	for i, m := range w.models {
		if i < after || !m.there(now) || query.Has("product") && !slices.Contains(m.products(), query.Get("product")) {
			continue
		}
		if len(rows) == max(limit, 1) {
			next = "cur_" + strconv.Itoa(i)
			break
		}
		rows = append(rows, m.supported(now))
	}
	return row{"data": rows, "next_cursor": next}, nil
}

func listHooks(w *World, r *http.Request, _ time.Time) (any, error) {
	if !w.faults.Webhooks {
		return nil, unknown(r.URL.Path)
	}
	rows := []any{}
	for _, h := range w.hooks {
		rows = append(rows, h)
	}
	return row{"data": rows}, nil
}

func addHook(w *World, r *http.Request, now time.Time) (any, error) {
	if !w.faults.Webhooks {
		return nil, unknown(r.URL.Path)
	}
	var asked struct {
		URL    string   `json:"url"`
		Events []string `json:"events"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&asked); err != nil || asked.URL == "" {
		return nil, refuse(http.StatusBadRequest, "invalid_value", "url is missing")
	}
	w.made++
	h := row{"id": "wh_" + strconv.Itoa(w.made), "url": asked.URL, "events": asked.Events, "created_at": stamp(now)}
	w.hooks = append(w.hooks, h)
	return h, nil
}

func removeHook(w *World, r *http.Request, _ time.Time) (any, error) {
	n := len(w.hooks)
	w.hooks = slices.DeleteFunc(w.hooks, func(h row) bool { return h["id"] == r.PathValue("id") })
	if !w.faults.Webhooks || n == len(w.hooks) {
		return nil, unknown(r.PathValue("id"))
	}
	return row{"message": "deleted"}, nil
}
