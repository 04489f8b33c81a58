package schemas

import (
	"slices"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"pgregory.net/rapid"

	"together-relay/relay"
)

// The quick look and the validator never disagree: what is taken quickly, the validator
// takes too.
func TestQuickAgrees(t *testing.T) {
	t.Parallel()
	set, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	types := Types()
	values := []string{`"x"`, `""`, `1`, `-7`, `1.0`, `1.5`, `1e3`, `-0`, `null`, `true`, `false`, `{}`, `{"a":[1]}`, `[]`, `"2026-07-01"`,
		`"2026-07-01T00:00:00Z"`, `"https://a.b/c"`}
	names := map[string][]string{}
	for _, m := range members {
		names[m.typ] = append(names[m.typ], m.name)
	}
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom(types).Draw(t, "type")
		data := []byte("{")
		var fields []relay.Field
		for i, name := range rapid.SliceOf(rapid.SampledFrom(append(names[typ], "other"))).Draw(t, "names") {
			value := rapid.SampledFrom(values).Draw(t, "value")
			if i > 0 {
				data = append(data, ',')
			}
			data = append(append(append(data, '"'), name...), `":`...)
			data = append(data, value...)
			fields = append(fields, relay.Field{Name: []byte(name), Value: []byte(value)})
		}
		data = append(data, '}')
		quickly, slowly := set.quick[typ].fits(fields), set.Check(typ, data)
		if quickly {
			taken++
		}
		// Of a member that stands twice only the last counts, and the quick look is stricter.
		if quickly && slowly != nil {
			t.Fatalf("%s: %s is taken, but %v", typ, data, slowly)
		}
		ev := relay.Event{Type: typ, Fields: fields, CloudEvent: event.Event{Context: &event.EventContextV1{}, DataEncoded: data}}
		if err := set.CheckEvent(ev); (err == nil) != (slowly == nil) {
			t.Fatalf("%s: %s: CheckEvent = %v, Check = %v", typ, data, err, slowly)
		}
	})
}

// unseen are the members that the quick look cannot judge, unless they are null or left out. Events
// that have one go to the validator; all others are taken quickly.
var unseen = map[string][]string{
	"batch.cancelled":  {"output_url"},
	"batch.done":       {"output_url"},
	"batch.expired":    {"output_url"},
	"batch.failed":     {"output_url"},
	"batch.overdue":    {"deadline"},
	"model.deprecated": {"sunset_date"},
}

// Every schema is simple enough for the quick look, which judges all members but those with a
// format.
func TestQuickTakes(t *testing.T) {
	t.Parallel()
	set := load(t)
	samples := map[string]string{"string": `"x"`, "number": `1.5`, "integer": `1`, "boolean": `false`, "object": `{"a":1}`,
		"uri": `"https://a.b/c"`, "date": `"2026-07-01"`, "date-time": `"2026-07-01T00:00:00Z"`}
	for _, typ := range Types() {
		q := set.quick[typ]
		if q == nil {
			t.Fatalf("%s has no quick look", typ)
		}
		fields := map[string]string{} // all members, those that cannot be judged as null
		always := true                // whether an event of the type can be taken at all
		for _, m := range members {
			if m.typ != typ {
				continue
			}
			fields[m.name] = samples[m.kind]
			if slices.Contains(unseen[typ], m.name) {
				fields[m.name] = "null"
				always = always && m.nullable
			}
		}
		fits := func(name, value string) bool { // with another value for one of them, or without it
			var list []relay.Field
			for n, v := range fields {
				if n == name {
					v = value
				}
				if v != "" {
					list = append(list, relay.Field{Name: []byte(n), Value: []byte(v)})
				}
			}
			return q.fits(list)
		}
		if fits("", "") != always {
			t.Errorf("%s is taken quickly: %v, want %v", typ, !always, always)
		}
		for _, m := range members {
			if m.typ != typ {
				continue
			}
			if fits(m.name, "") != (always && !m.required) {
				t.Errorf("%s without %s is taken: %v", typ, m.name, m.required)
			}
			if slices.Contains(unseen[typ], m.name) && fits(m.name, samples[m.kind]) {
				t.Errorf("%s is taken with a value of %s", typ, m.name)
			}
			if m.kind != "any" && fits(m.name, "[]") {
				t.Errorf("%s is taken with a list for %s", typ, m.name)
			}
		}
	}
	if newQuick([]byte(`{"type":"object","additionalProperties":false}`)) != nil {
		t.Error("a schema that asks for more was taken for a simple one")
	}
}
