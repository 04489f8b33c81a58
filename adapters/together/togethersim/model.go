package togethersim

import (
	"slices"
	"strings"
	"time"
)

// A Model is the script of a model in the catalogue.
type Model struct {
	ID         string
	Spans      []Span    // when it is there, in order of time; none: from now on
	Deprecated time.Time // from when on it is marked so, until it goes; zero for never
	Products   []string  // PRODUCT_SERVERLESS and so on; none: that one
	Trainable  bool      // it can be fine-tuned
}

// A Span is a time from one moment up to another; zero for always.
type Span struct{ From, Until time.Time }

func (s Span) holds(now time.Time) bool {
	return !now.Before(s.From) && (s.Until.IsZero() || now.Before(s.Until))
}

func (m *Model) there(now time.Time) bool {
	return slices.ContainsFunc(m.Spans, func(s Span) bool { return s.holds(now) })
}

func (m *Model) deprecated(now time.Time) bool {
	return !m.Deprecated.IsZero() && !now.Before(m.Deprecated) &&
		slices.ContainsFunc(m.Spans, func(s Span) bool { return s.holds(m.Deprecated) && s.holds(now) })
}

func (m *Model) products() []string {
	if len(m.Products) == 0 {
		return []string{"PRODUCT_SERVERLESS"}
	}
	return m.Products
}

// AddModel adds a model to the catalogue.
func (w *World) AddModel(m Model) {
	now := w.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(m.Spans) == 0 {
		m.Spans = []Span{{From: now}}
	}
	w.models = append(w.models, &m)
}

func (m *Model) move(now time.Time, status string) {
	m.Spans = slices.DeleteFunc(m.Spans, func(s Span) bool { return s.From.After(now) })
	n := len(m.Spans)
	switch status {
	case "added":
		if !m.there(now) {
			m.Spans = append(m.Spans, Span{From: now})
		}
	case "removed":
		if m.there(now) {
			m.Spans[n-1].Until = now
		}
	case "deprecated":
		if m.Deprecated.IsZero() || m.Deprecated.After(now) {
			m.Deprecated = now
		}
	default:
		panic("togethersim: a model is added, removed or deprecated, not " + status)
	}
}

func (m *Model) display() string { return m.ID[strings.Index(m.ID, "/")+1:] }

// basic is the model as /v1/models shows it.
func (m *Model) basic() row {
	organization, _, _ := strings.Cut(m.ID, "/")
	return row{
		"id": m.ID, "object": "model", "created": int64(1700000000), "type": "chat", "display_name": m.display(),
		"organization": organization, "link": "", "license": "apache-2.0", "context_length": 131072,
		"pricing": row{"hourly": 0, "input": 0.2, "output": 0.2, "base": 0, "finetune": 0},
	}
}

// supported is the model as /v2/supported-models shows it.
func (m *Model) supported(now time.Time) row {
	status, updated := "SUPPORTED", m.Spans[0].From
	switch {
	case m.deprecated(now):
		status, updated = "DEPRECATED", m.Deprecated
	case len(m.ID)%5 == 0:
		status = "RECOMMENDED"
	case len(m.ID)%11 == 0:
		status = "HIDDEN"
	}
	return row{
		"id": "sm_" + strings.ReplaceAll(m.ID, "/", "_"), "name": m.ID, "status": "SUPPORTED_MODEL_STATUS_" + status, "products": m.products(),
		"serverlessEndpoint": m.ID, "familyId": "fam_1",
		"createdAt": stamp(m.Spans[0].From), "updatedAt": stamp(updated),
	}
}

// truth are the facts of a model. The first span of a model that was always there begins
// before all clocks, so that nobody sees it added.
func (m *Model) truth() []Fact {
	var facts []Fact
	for i, s := range m.Spans {
		if !s.From.IsZero() {
			facts = append(facts, Fact{Type: "model.added", Resource: m.ID, At: s.From, Since: s.From, Until: s.Until, Data: row{
				"model_id": m.ID, "model_type": "chat", "display_name": m.display(),
			}})
		}
		if s.Until.IsZero() {
			continue
		}
		gone := Fact{Type: "model.removed", Resource: m.ID, At: s.Until, Since: s.Until, Data: row{"model_id": m.ID}}
		if i+1 < len(m.Spans) {
			gone.Until = m.Spans[i+1].From
		}
		facts = append(facts, gone)
	}
	for _, p := range m.products() {
		facts = append(facts, m.deprecations(strings.ToLower(strings.TrimPrefix(p, "PRODUCT_")))...)
	}
	return facts
}

// deprecations are the fact that a model is marked as deprecated, or else that it is gone.
// Both have one id, so that the first to come is the one.
func (m *Model) deprecations(product string) []Fact {
	tell := "product=" + product + ";sunset=none"
	fact := func(at, until time.Time, confidence string) Fact {
		return Fact{
			Type: "model.deprecated", Resource: m.ID, Discriminator: tell, ID: ID("model.deprecated", m.ID, tell),
			At: at, Since: at, Until: until,
			Data: row{
				"model_id": m.ID, "replacement_model": nil, "sunset_date": nil,
				"product": product, "source": nil, "confidence": confidence,
			},
			Vague: []string{"source"}, // its words are free
		}
	}
	for i, s := range m.Spans {
		if !m.Deprecated.IsZero() && s.holds(m.Deprecated) {
			return []Fact{fact(m.Deprecated, s.Until, "catalog_flag")}
		}
		if product == "serverless" && !s.Until.IsZero() {
			var back time.Time
			if i+1 < len(m.Spans) {
				back = m.Spans[i+1].From
			}
			return []Fact{fact(s.Until, back, "disappeared")}
		}
	}
	return nil
}

func firstModels(c Config) []*Model {
	d := roll(c.Seed, 900, 0)
	var models []*Model
	for i := range c.Models {
		m := &Model{ID: modelName(d), Spans: []Span{{}}}
		if i < len(baseModels) {
			m.ID, m.Trainable = baseModels[i], true
		}
		if d.chance(0.3) {
			m.Products = []string{"PRODUCT_SERVERLESS", "PRODUCT_DEDICATED"}
		}
		models = append(models, m)
	}
	return models
}

func modelName(d dice) string {
	return pick(d, []string{"Qwen/Qwen3-", "meta-llama/Llama-4-", "mistralai/Mistral-", "deepseek-ai/DeepSeek-V"}) + d.short()
}

// moveModels plans a change of the catalogue: a model that comes and stays, one that comes,
// is deprecated and goes, one that goes and comes back, or one that has always been there
// and is used, and is deprecated now.
func (w *World) moveModels(d dice) {
	if n := min(w.config.Models, len(baseModels)); n > 0 && d.chance(0.25) {
		if m := w.models[d.IntN(n)]; m.Deprecated.IsZero() {
			m.Deprecated = d.at
		}
		return
	}
	m := &Model{ID: modelName(d), Spans: []Span{{From: d.at}}}
	life := d.span(2*time.Hour, 8*time.Hour)
	switch n := d.Float64(); {
	case n < 0.5:
		m.Deprecated = d.at.Add(life / 2).Truncate(time.Millisecond)
		m.Spans[0].Until = d.at.Add(life)
	case n < 0.75:
		m.Spans[0].Until = d.at.Add(life)
		m.Spans = append(m.Spans, Span{From: d.at.Add(life + d.span(time.Hour, 30*time.Hour))})
	}
	w.models = append(w.models, m)
}
