package main

import (
	"strings"
	"testing"

	"together-relay/adapters/together"
	"together-relay/schemas"
)

// Each type with a schema has a sample that keeps it, is about something, and has another id
// each time.
func TestSamplesAreGood(t *testing.T) {
	t.Parallel()
	set, err := schemas.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range schemas.Types() {
		smp, err := newSample(typ, triggerFlags{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ids := map[string]bool{}
		for range 2 {
			body, err := smp.body()
			if err != nil {
				t.Fatal(err)
			}
			ev, err := together.Read(body)
			if err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			if err := set.Check(typ, ev.CloudEvent.Data()); err != nil {
				t.Errorf("%s: %v", typ, err)
			}
			name, _, _ := strings.Cut(typ, ".")
			if ev.Type != typ || ev.Resource == "" || !strings.Contains(string(body), `"`+name+`_id":"`+ev.Resource+`"`) {
				t.Errorf("%s is about %q: %s", ev.Type, ev.Resource, body)
			}
			ids[ev.CloudEvent.ID()] = true
		}
		if len(ids) != 2 {
			t.Errorf("%s: two samples have one id", typ)
		}
	}
}
