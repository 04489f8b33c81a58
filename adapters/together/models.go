package together

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"together-relay/relay"
)

// A Deprecation is what the operator knows of a model that is to go: the provider writes
// dates and replacements into its documentation, and not into its API.
type Deprecation struct {
	Model       string
	Replacement string // empty if there is none
	Product     string // ProductServerless if empty
	Sunset      string // a date such as 2026-06-22; empty if it is not known
}

// The products that a model can be a part of.
const (
	ProductServerless = "serverless"
	ProductDedicated  = "dedicated"
	ProductFineTuning = "fine_tuning"
)

// Models are the models in the provider's catalogue, a [relay.Resource]. A look costs one
// request, and one for each page of the supported models.
//
// A job is a model. One that is not in the catalogue, but marked as deprecated elsewhere,
// is a job of its own whose id begins with [unlisted].
type Models struct {
	api   *API
	table map[string][]Deprecation
}

const unlisted = "~"

// Models are the models that the provider offers, with what the operator knows of them. The
// error says what of that cannot be.
func (a *API) Models(known []Deprecation) (*Models, error) {
	m := &Models{a, map[string][]Deprecation{}}
	for i, d := range known {
		if d.Product == "" {
			d.Product = ProductServerless
		}
		d.Product = strings.ToLower(d.Product)
		switch {
		case d.Model == "":
			return nil, fmt.Errorf("deprecation %d: it names no model", i+1)
		case !KnownProduct(d.Product):
			return nil, fmt.Errorf("deprecation of %s: the product is none of %s, %s, %s",
				d.Model, ProductServerless, ProductDedicated, ProductFineTuning)
		}
		if _, err := time.Parse(time.DateOnly, d.Sunset); d.Sunset != "" && err != nil {
			return nil, fmt.Errorf("deprecation of %s: the sunset is no date such as 2026-06-22", d.Model)
		}
		m.table[d.Model] = append(m.table[d.Model], d)
	}
	return m, nil
}

// KnownProduct says whether it is one of the products, in lower case.
func KnownProduct(of string) bool {
	return of == ProductServerless || of == ProductDedicated || of == ProductFineTuning
}

// asProduct is the product that the provider means by a name such as PRODUCT_DEDICATED.
func asProduct(name string) string { return strings.TrimPrefix(strings.ToLower(name), "product_") }

// A model is what is known of one at a look.
type model struct {
	ID      string `json:"id"`
	Listed  bool   `json:"listed"` // in the catalogue
	Type    string `json:"type,omitempty"`
	Name    string `json:"name,omitempty"`
	Flagged []flag `json:"flagged,omitempty"` // the products that it is deprecated for
}

type flag struct {
	Product string    `json:"product"`
	At      time.Time `json:"at"`
}

// List asks for the catalogue and the supported models. It fails if the catalogue has lost
// so much at once that it is more likely broken.
func (m *Models) List(ctx context.Context, known int) ([]relay.Job, error) {
	type listing struct {
		ID   word `json:"id"`
		Type word `json:"type"`
		Name word `json:"display_name"`
	}
	all, err := list(ctx, m.api, "/v1/models", nil, func(l *listing) string { return string(l.ID) })
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("GET /v1/models: 200, the catalogue is empty")
	}
	inCatalogue := make(map[word]bool, len(all))
	for i := range all {
		inCatalogue[all[i].is.ID] = true
	}
	flags, err := m.flags(ctx, inCatalogue)
	if err != nil {
		return nil, err
	}
	var jobs, others []relay.Job
	listed := map[string]bool{}
	for i := range all {
		l := &all[i].is
		id := string(l.ID)
		if !listed[id] {
			listed[id] = true
			jobs = append(jobs, m.job(model{id, true, string(l.Type), sentence(string(l.Name)), flags[id]}))
		}
	}
	for id := range m.table {
		if !listed[id] {
			listed[id] = true
			others = append(others, m.job(model{ID: id, Flagged: flags[id]}))
		}
	}
	for id, flagged := range flags {
		if !listed[id] {
			others = append(others, m.job(model{ID: id, Flagged: flagged}))
		}
	}
	slices.SortFunc(others, func(a, b relay.Job) int { return strings.Compare(a.ID, b.ID) })
	jobs = append(jobs, others...)
	if len(jobs)*10 < known*7 {
		return nil, fmt.Errorf("GET /v1/models: 200, %d models where %d were known is not believed", len(jobs), known)
	}
	return jobs, nil
}

// Find finds nothing: the list has shown all there is.
func (m *Models) Find(context.Context, string) (relay.Job, error) {
	return relay.Job{}, fmt.Errorf("it is not in the catalogue: %w", relay.ErrGone)
}

func (m *Models) job(t model) relay.Job {
	id := t.ID
	if !t.Listed {
		id = unlisted + id
	}
	var change strings.Builder
	fmt.Fprint(&change, t.Type)
	for _, n := range m.notices(t) {
		fmt.Fprint(&change, "|", n.discriminator())
	}
	raw, err := json.Marshal(t)
	if err != nil {
		panic("a model: " + err.Error()) // not reached: it is made of texts and times
	}
	// That it was there at the first look is no news, however far that looks back.
	return relay.Job{ID: id, Change: change.String(), Updated: time.Unix(0, 0), Row: raw}
}

// maxPages is how many pages of the supported models are read.
const maxPages = 50

// flags are the products that models are deprecated for, by model. There are none where
// the key may not ask, or the provider does not tell.
func (m *Models) flags(ctx context.Context, inCatalogue map[word]bool) (map[string][]flag, error) {
	const path = "/v2/supported-models"
	flags := map[string][]flag{}
	query := url.Values{"limit": {"100"}}
	for range maxPages {
		body, err := m.api.get(ctx, path, query, maxList)
		switch status(err) {
		case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
			return flags, nil
		}
		if err != nil {
			return nil, err
		}
		raw, err := rows(body)
		if err != nil {
			return nil, fmt.Errorf("GET %s: 200, %w", path, err)
		}
		for _, s := range each[supported](raw) {
			m.flag(flags, &s, inCatalogue)
		}
		next := cursor(body)
		if next == "" || next == query.Get("after") {
			return flags, nil
		}
		query.Set("after", next)
	}
	m.api.odd("GET %s: there are more than %d pages, and the rest is left out", path, maxPages)
	return flags, nil
}

func cursor(body []byte) string {
	var page struct {
		Next  word `json:"next_cursor"`
		Next2 word `json:"nextCursor"`
	}
	if body, err := object(body); err == nil {
		_ = json.Unmarshal(body, &page) // a list need not have pages
	}
	if page.Next == "" {
		return string(page.Next2)
	}
	return string(page.Next)
}

// A supported is a row of the supported models. It stands for several products.
type supported struct {
	Name      word         `json:"name"`
	Endpoint  word         `json:"serverlessEndpoint"` // may be its name in the catalogue
	Status    state        `json:"status"`
	Products  maybe[[]any] `json:"products"`
	UpdatedAt instant      `json:"updatedAt"`
}

func (m *Models) flag(flags map[string][]flag, s *supported, inCatalogue map[word]bool) {
	if s.Name == "" {
		m.api.odd("supported model: a row has no name and is left out")
		return
	}
	switch strings.TrimPrefix(string(s.Status), "supported_model_status_") {
	case "deprecated":
	case "recommended", "supported", "hidden":
		return
	default:
		m.api.oddState("supported model", s.Status)
		return
	}
	id := string(s.Name)
	if s.Endpoint != "" && inCatalogue[s.Endpoint] && !inCatalogue[s.Name] {
		id = string(s.Endpoint)
	}
	for _, of := range s.Products.is {
		from, _ := of.(string)
		from = asProduct(from)
		if !KnownProduct(from) {
			m.api.odd("supported model: the product %.60q is not known and passed over", from)
			continue
		}
		known := slices.ContainsFunc(flags[id], func(f flag) bool { return f.Product == from })
		if !known {
			flags[id] = append(flags[id], flag{from, s.UpdatedAt.Time})
		}
	}
}
