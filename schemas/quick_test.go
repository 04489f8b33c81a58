package schemas

import (
	"bytes"
	"encoding/json"
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
	types := set.Types()
	values := []string{`"x"`, `""`, `1`, `-7`, `1.0`, `1.5`, `1e3`, `-0`, `null`, `true`, `{}`, `[]`, `"2026-07-01"`, `"https://a.b/c"`}
	names := []string{"fine_tune_id", "model_name", "eval_loss", "error_message", "step", "loss", "model_id", "replacement_model", "sunset_date",
		"batch_id", "output_url", "total_tokens", "other"}
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom(types).Draw(t, "type")
		data := []byte("{")
		var fields []relay.Field
		for i, name := range rapid.SliceOf(rapid.SampledFrom(names)).Draw(t, "names") {
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

// Every schema is simple enough for the quick look, which takes the examples without a URL
// or a date.
func TestQuickTakes(t *testing.T) {
	t.Parallel()
	set, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range set.Types() {
		q := set.quick[typ]
		if q == nil {
			t.Fatalf("%s has no quick look", typ)
		}
		text, err := Example(typ)
		if err != nil {
			t.Fatal(err)
		}
		var example struct{ Data map[string]json.RawMessage }
		if err := json.Unmarshal(text, &example); err != nil {
			t.Fatal(err)
		}
		var fields []relay.Field
		for name, value := range example.Data {
			if name == "output_url" || name == "sunset_date" {
				value = []byte("null")
			}
			fields = append(fields, relay.Field{Name: []byte(name), Value: bytes.TrimSpace(value)})
		}
		if !q.fits(fields) {
			t.Errorf("the example of %s is not taken quickly", typ)
		}
		if q.fits(fields[:len(fields)-1]) && len(q.required) == len(fields) {
			t.Errorf("%s is taken without all that is required", typ)
		}
	}
	if newQuick([]byte(`{"type":"object","additionalProperties":false}`)) != nil {
		t.Error("a schema that asks for more was taken for a simple one")
	}
}
