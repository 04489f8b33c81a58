package schemas

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"together-relay/adapters/together"
	"together-relay/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func load(t testing.TB) *Set {
	t.Helper()
	set, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// exampleData is the data of the type's example.
func exampleData(t testing.TB, typ string) map[string]any {
	t.Helper()
	text, err := Example(typ)
	if err != nil {
		t.Fatal(err)
	}
	var example struct{ Data map[string]any }
	if err := json.Unmarshal(text, &example); err != nil {
		t.Fatal(err)
	}
	return example.Data
}

// with is the example's data with another value for one member; an empty value leaves it out.
func with(t testing.TB, typ, member, value string) []byte {
	t.Helper()
	data := exampleData(t, typ)
	delete(data, member)
	if value != "" {
		data[member] = json.RawMessage(value)
	}
	text, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// wantUnusable checks that the error is a broken schema, and returns what it says of it.
func wantUnusable(t testing.TB, err error) string {
	t.Helper()
	unusable, ok := errors.AsType[*relay.Unusable](err)
	if !ok || unusable.Reason != relay.ReasonSchema || unusable.Detail == "" || strings.ContainsAny(unusable.Detail, "\r\n") {
		t.Fatalf("error = %#v, want a broken schema in one line", err)
	}
	return unusable.Detail
}

func TestTypes(t *testing.T) {
	t.Parallel()
	set := load(t)
	want := []string{
		"batch.cancelled", "batch.created", "batch.done", "batch.expired", "batch.failed", "batch.in_progress", "batch.overdue",
		"evaluation.completed", "evaluation.failed", "file.failed", "file.invalid", "file.processed", "fine_tune.cancelled",
		"fine_tune.checkpoint", "fine_tune.completed", "fine_tune.created", "fine_tune.early_stopped", "fine_tune.failed", "fine_tune.restarted",
		"fine_tune.running", "model.added", "model.deprecated", "model.removed",
		"queue_job.canceled", "queue_job.done", "queue_job.failed", "video.cancelled", "video.completed", "video.failed",
	}
	if diff := cmp.Diff(want, Types()); diff != "" {
		t.Errorf("types (-want +got):\n%s", diff)
	}
	for _, typ := range want {
		if _, err := Schema(typ); err != nil || !set.Has(typ) {
			t.Errorf("%s: %v, Has = %v", typ, err, set.Has(typ))
		}
	}
	if _, err := Schema("deployment.ready"); !errors.Is(err, fs.ErrNotExist) || set.Has("deployment.ready") {
		t.Errorf("there is a schema for a type that has none: %v", err)
	}
}

// A schema says which draft it is, what it is about, and what each member means.
func TestSchemasAreWhole(t *testing.T) {
	t.Parallel()
	for _, typ := range Types() {
		text, err := Schema(typ)
		if err != nil {
			t.Fatal(err)
		}
		var schema struct {
			Schema      string `json:"$schema"`
			ID          string `json:"$id"`
			Title       string
			Description string
			Properties  map[string]struct{ Description string }
		}
		if err := json.Unmarshal(text, &schema); err != nil {
			t.Fatal(err)
		}
		if schema.Schema != "https://json-schema.org/draft/2020-12/schema" || schema.ID != typ+".json" || schema.Title != typ || schema.Description == "" {
			t.Errorf("%s: %+v", typ, schema)
		}
		for name, property := range schema.Properties {
			if property.Description == "" {
				t.Errorf("%s: %s has no description", typ, name)
			}
		}
	}
}

// An example is a whole delivery, as the relay itself would take it.
func TestExamples(t *testing.T) {
	t.Parallel()
	set := load(t)
	for _, typ := range Types() {
		text, err := Example(typ)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := together.Read(text)
		if err != nil {
			t.Fatalf("%s: %v", typ, err)
		}
		if ev.Type != typ || ev.Resource == "" || ev.CloudEvent.ID() == "" || ev.CloudEvent.Time().IsZero() || ev.Members != nil {
			t.Errorf("%s: %+v", typ, ev)
		}
		if err := errors.Join(set.Check(typ, ev.CloudEvent.Data()), set.CheckEvent(ev)); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
	}
}

// An example has the id that the fact has when the relay finds it by itself: the same for
// everybody who looks.
func TestExampleIDs(t *testing.T) {
	t.Parallel()
	discriminators := map[string]string{
		"fine_tune.checkpoint": "step=48;kind=intermediate",
		"fine_tune.restarted":  "at=2026-07-01T09:31:05Z;n=1",
		"model.added":          "day=2026-07-02",
		"model.deprecated":     "product=serverless;sunset=2026-08-31",
		"model.removed":        "day=2026-09-01",
	} // all others happen once
	id := func(typ, subject, discriminator string) string {
		sum := sha256.Sum256([]byte(strings.Join([]string{"v1", "together", typ, subject, discriminator}, "\x1f")))
		return "evt_" + hex.EncodeToString(sum[:16])
	}
	if got := id("fine_tune.completed", "ft-01234567-89ab-cdef-0123-456789abcdef", ""); got != "evt_84928c052917763b9bee147fab0926d1" {
		t.Fatalf("the recipe gives %s", got)
	}
	for _, typ := range Types() {
		text, err := Example(typ)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := together.Read(text)
		if err != nil {
			t.Fatal(err)
		}
		if want := id(typ, ev.Resource, discriminators[typ]); ev.CloudEvent.ID() != want {
			t.Errorf("%s: id %s, want %s", typ, ev.CloudEvent.ID(), want)
		}
	}
}

func TestFurtherMembersAreAllowed(t *testing.T) {
	t.Parallel()
	set := load(t)
	for _, typ := range Types() {
		for _, value := range []string{`1`, `null`, `"x"`, `{"a":[{}]}`, `1e1000000000`} {
			if err := set.Check(typ, with(t, typ, "some_further_member", value)); err != nil {
				t.Errorf("%s: %s: %v", typ, value, err)
			}
		}
	}
}

func TestUnknownTypesAlwaysPass(t *testing.T) {
	t.Parallel()
	set := load(t)
	for _, typ := range []string{"deployment.ready", "Batch.Done", "batch", "batch.done.json", "examples/batch.done", "../go", ""} {
		for _, data := range []string{`{}`, `{"batch_id":1}`, `null`, `no JSON`, ``} {
			if err := errors.Join(set.Check(typ, []byte(data)), set.CheckEvent(relay.Event{Type: typ})); err != nil {
				t.Errorf("%q %s: %v", typ, data, err)
			}
		}
	}
}

func TestDataIsAnObject(t *testing.T) {
	t.Parallel()
	set := load(t)
	for _, data := range []string{`null`, `[]`, `"x"`, `1`, `true`, `{}`, ``, `{`, `no JSON`, `{"a":1}{}`, "\xff", strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 100_000)} {
		wantUnusable(t, set.Check("batch.done", []byte(data)))
	}
}

func TestDeeplyNestedData(t *testing.T) {
	t.Parallel()
	set := load(t)
	deep := strings.Repeat("[", 9000) + "1e1000000000" + strings.Repeat("]", 9000)
	if err := set.Check("batch.done", with(t, "batch.done", "deep", deep)); err != nil {
		t.Error(err)
	}
	if detail := wantUnusable(t, set.Check("batch.done", with(t, "batch.done", "batch_id", deep))); detail != "data.batch_id: got array, want string" {
		t.Errorf("detail = %q", detail)
	}
}

func TestDetailsNameEveryRule(t *testing.T) {
	t.Parallel()
	set := load(t)
	for data, want := range map[string]string{
		`{"output_url":null}`:                                    "data: missing batch_id, total_tokens",
		`{"batch_id":1,"output_url":"x","total_tokens":1.5}`:     "data.batch_id: got number, want string|data.output_url: is no uri|data.total_tokens: got number, want null or integer",
		`{"batch_id":null,"output_url":null,"total_tokens":"1"}`: "data.batch_id: got null, want string|data.total_tokens: got string, want null or integer",
	} {
		got := strings.Split(wantUnusable(t, set.Check("batch.done", []byte(data))), "; ")
		slices.Sort(got)
		if diff := cmp.Diff(strings.Split(want, "|"), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", data, diff)
		}
	}
}

func TestDetailsNeverRepeatAValue(t *testing.T) {
	t.Parallel()
	const marker = "do-not-repeat"
	set := load(t)
	for _, m := range members {
		for _, value := range []string{`"` + marker + `"`, `["` + marker + `"]`, `{"` + marker + `":"` + marker + `"}`, `"2026-08-31T` + marker + `"`, `"http://` + marker + ` x/"`} {
			if err := set.Check(m.typ, with(t, m.typ, m.name, value)); err != nil && strings.Contains(err.Error(), marker) {
				t.Errorf("%s %s: %v", m.typ, m.name, err)
			}
		}
	}
	for _, data := range []string{`"` + marker + `"`, `{"` + marker + `":1}`, marker, `{"batch_id":` + marker} {
		if err := set.Check("batch.done", []byte(data)); err == nil || strings.Contains(err.Error(), marker) {
			t.Errorf("%s: %v", data, err)
		}
	}
}

func TestWholeNumbers(t *testing.T) {
	t.Parallel()
	for _, mantissa := range []string{"0", "-0", "1", "-1", "10", "100", "0.0", "1.0", "1.5", "0.1", "0.01", "1.10", "-12.3400", "100.001"} {
		for _, exponent := range []string{"", "e0", "e1", "E+2", "e3", "e-0", "e-1", "E-2", "e-3", "e007"} {
			rat, ok := new(big.Rat).SetString(mantissa + exponent)
			if got := whole(json.Number(mantissa + exponent)); !ok || got != rat.IsInt() {
				t.Errorf("%s%s: whole = %v", mantissa, exponent, got)
			}
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	set := load(t)
	good, bad := with(t, "batch.done", "total_tokens", "1"), with(t, "batch.done", "total_tokens", "1.5")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if set.Check("batch.done", good) != nil || set.Check("batch.done", bad) == nil {
					t.Error("the checks disturb one another")
				}
			}
		})
	}
	wg.Wait()
}

// wild are numbers that the validator itself had better not see.
var wild = regexp.MustCompile(`[eE][+-]?0*[0-9]{3}|[0-9.]{300}`)

// FuzzCheck holds the check against the validator without our own precautions.
func FuzzCheck(f *testing.F) {
	set := load(f)
	plain := jsonschema.NewCompiler()
	plain.AssertFormat()
	direct := map[string]*jsonschema.Schema{}
	for _, typ := range Types() {
		text, err := Schema(typ)
		if err != nil {
			f.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			f.Fatal(err)
		}
		if err := plain.AddResource("plain:///"+typ, doc); err != nil {
			f.Fatal(err)
		}
		if direct[typ], err = plain.Compile("plain:///" + typ); err != nil {
			f.Fatal(err)
		}
	}
	for _, m := range members {
		f.Add(m.typ, with(f, m.typ, m.name, ""))
		for _, value := range []string{"null", "1", "1.5", "1e400", "-0", `"x"`, `"2026-08-31T12:00:00Z"`, `"a:b"`, `{"a":[]}`} {
			f.Add(m.typ, with(f, m.typ, m.name, value))
		}
	}
	f.Add("deployment.ready", []byte(`{"deployment_id":"d-1"}`))
	f.Fuzz(func(t *testing.T, typ string, data []byte) {
		err := set.Check(typ, data)
		if direct[typ] == nil {
			if err != nil {
				t.Fatalf("%q has no schema, and yet: %v", typ, err)
			}
			return
		}
		if err != nil {
			wantUnusable(t, err)
		}
		if ev, readErr := together.Read(envelope(typ, data)); readErr == nil && json.Valid(data) {
			if quick := set.CheckEvent(ev); (quick == nil) != (err == nil) {
				t.Errorf("CheckEvent = %v, Check = %v", quick, err)
			}
		}
		if wild.Match(data) {
			return
		}
		instance, want := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if want == nil {
			want = direct[typ].Validate(instance)
		}
		if (err == nil) != (want == nil) {
			t.Errorf("Check = %v, the validator says %v", err, want)
		}
	})
}

func envelope(typ string, data []byte) []byte {
	return slices.Concat([]byte(`{"id":"evt_1","type":"`+typ+`","data":`), data, []byte("}"))
}
