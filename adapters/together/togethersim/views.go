package togethersim

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

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
		return nil, refusal{status: http.StatusNotFound, body: row{"error": "batch not found"}}
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
		case content && w.faults.Redirect != "":
			return nil, refusal{status: http.StatusFound, body: row{}, location: w.faults.Redirect + "/storage/" + f.ID + "?X-Amz-Signature=LEAK"}
		case content:
			return f.Content, nil
		}
		return f.show(now), nil
	}
}

// storage is where a redirect leads to. Like other storages it refuses a request that is
// signed and brings a key as well.
func storage(w *World, r *http.Request, now time.Time) (any, error) {
	if r.Header.Get("Authorization") != "" {
		return nil, refuse(http.StatusBadRequest, "invalid_argument", "Only one auth mechanism allowed")
	}
	f, ok := find(append(shown(w.files, now), w.artefacts(now)...), r.PathValue("id"), now)
	if !ok {
		return nil, unknown(r.PathValue("id"))
	}
	return f.Content, nil
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
