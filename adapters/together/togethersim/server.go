package togethersim

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A view is what the API answers to a request at a moment: a JSON value, or bytes that are
// none. It is called with the world locked.
type view func(w *World, r *http.Request, now time.Time) (any, error)

// A refusal is an answer that is not 200.
type refusal struct {
	status   int
	body     any
	location string // for a redirect
}

func (e refusal) Error() string { return http.StatusText(e.status) }

// refuse has the shape that most of v1 uses.
func refuse(status int, code, message string) refusal {
	return refusal{status: status, body: row{"error": row{"message": message, "type": "invalid_request_error", "param": nil, "code": code}}}
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
		"GET /v1/queue/status":                queueStatus,
		"GET /v2/videos/{id}":                 oneVideo,
		"GET /storage/{id}":                   storage,
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
	to.Header().Set("Date", w.Now().Format(http.TimeFormat)) // the world's own clock
	trouble, body, err := w.look(r, pattern, view)
	if trouble.before(to, r) {
		return
	}
	status := http.StatusOK
	if refused, ok := errors.AsType[refusal](err); ok {
		status, body = refused.status, refused.body
		if refused.location != "" {
			to.Header().Set("Location", refused.location)
		}
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
	if open := strings.HasPrefix(r.URL.Path, "/storage/"); !open && (!ok || key == "" || w.config.Key != "" && key != w.config.Key) {
		return trouble, nil, refuse(http.StatusUnauthorized, "invalid_api_key", "Invalid API key provided")
	}
	if id := r.PathValue("id"); slices.Contains(trouble.Missing, id) {
		return trouble, nil, unknown(id)
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
