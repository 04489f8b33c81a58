package together

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"together-relay/relay"
)

// A notice is that a model is to go, or has gone, from a product.
type notice struct {
	Deprecation
	source     string
	confidence string
	at         time.Time // zero if it is not known
}

func (n *notice) discriminator() string {
	return "product=" + n.Product + ";sunset=" + cmp.Or(n.Sunset, "none")
}

// notices are what the operator knows, and what the provider marks beyond that. They are
// in the same order at each look.
func (m *Models) notices(t model) (all []notice) {
	table := m.table[t.ID]
	covered := map[string]bool{}
	for _, d := range table {
		n := notice{Deprecation: d, source: "operator", confidence: "documented"}
		if day, err := time.Parse(time.DateOnly, d.Sunset); err == nil && !n.ahead() {
			n.at = day
		}
		all = append(all, n)
		covered[d.Product] = true
	}
	for _, f := range t.Flagged {
		if covered[f.Product] {
			continue
		}
		all = append(all, notice{Deprecation{Model: t.ID, Product: f.Product}, "supported_models", "catalog_flag", f.At})
	}
	slices.SortStableFunc(all, func(a, b notice) int {
		return cmp.Or(strings.Compare(a.Product, b.Product), strings.Compare(a.Sunset, b.Sunset))
	})
	return all
}

// ahead says whether the operator speaks of what is to come.
func (n *notice) ahead() bool {
	return n.source == "operator" && (n.Sunset == "" || n.Sunset >= day(time.Now()))
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

type deprecatedData struct {
	ID          string  `json:"model_id"`
	Replacement *string `json:"replacement_model"`
	Sunset      *string `json:"sunset_date"`
	Product     *string `json:"product"`
	Source      string  `json:"source"`
	Confidence  string  `json:"confidence"`
}

type addedData struct {
	ID   string  `json:"model_id"`
	Type *string `json:"model_type"`
	Name *string `json:"display_name"`
}

type removedData struct {
	ID   string  `json:"model_id"`
	Type *string `json:"model_type"`
}

const typeAdded = "model.added"

// Tell needs no request.
func (m *Models) Tell(_ context.Context, job relay.Job, mark relay.Mark) ([]relay.Fact, error) {
	if job.Gone {
		return m.gone(job.ID, mark), nil
	}
	var t model
	if err := json.Unmarshal(job.Row, &t); err != nil {
		return nil, errors.New("read the row: it is no model")
	}
	var facts []relay.Fact
	if t.Listed {
		at := mark.First
		if job.Brief { // it was there before
			at = job.Updated
		}
		facts = append(facts, m.api.origin.fact(typeAdded, t.ID, "day="+day(mark.First), at,
			addedData{t.ID, or(word(t.Type)), or(word(t.Name))}))
	}
	for _, n := range m.notices(t) {
		facts = append(facts, m.deprecated(n))
	}
	return facts, nil
}

func (m *Models) deprecated(n notice) relay.Fact {
	fact := m.api.origin.fact(typeDeprecated, n.Model, n.discriminator(), n.at, deprecatedData{
		n.Model, or(word(n.Replacement)), or(word(n.Sunset)), or(word(n.Product)), n.source, n.confidence})
	fact.Ahead = n.ahead()
	return fact
}

// gone tells of a model that has left the catalogue.
func (m *Models) gone(id string, mark relay.Mark) (facts []relay.Fact) {
	if !hasType(mark, typeAdded) { // it was never there
		return nil
	}
	if !hasType(mark, typeDeprecated) {
		facts = append(facts, m.deprecated(notice{Deprecation{Model: id, Product: ProductServerless},
			"catalogue", "disappeared", mark.Gone}))
	}
	return append(facts, m.api.origin.fact("model.removed", id, "day="+day(mark.Gone), mark.Gone, removedData{ID: id}))
}

func hasType(mark relay.Mark, typ string) bool {
	return slices.ContainsFunc(mark.Told, func(key string) bool { return strings.HasPrefix(key, typ+" ") })
}
