package schemas

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"together-relay/adapters/together"
)

// A document is asyncapi.yaml as a tree of maps, lists and values.
type document struct{ root any }

func readDocument(t *testing.T) document {
	t.Helper()
	text, err := Files.ReadFile("asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	// As JSON, so that numbers are what the validator expects.
	if text, err = json.Marshal(tree); err != nil {
		t.Fatal(err)
	}
	root, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return document{root}
}

// at is the value at the path, such as "channels/batchDone/address"; nil if there is none.
func (d document) at(path string) any {
	v := d.root
	for name := range strings.SplitSeq(path, "/") {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// names lists the members at the path in order.
func (d document) names(path string) []string {
	m, _ := d.at(path).(map[string]any)
	return slices.Sorted(maps.Keys(m))
}

func TestAsyncAPIReferencesLeadSomewhere(t *testing.T) {
	t.Parallel()
	d := readDocument(t)
	refs := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, value := range v {
				if ref, ok := value.(string); ok && name == "$ref" {
					refs++
					file, isFile := strings.CutPrefix(ref, "./")
					if _, err := Files.ReadFile(file); isFile && err != nil {
						t.Error(err)
					}
					if !isFile && d.at(strings.TrimPrefix(ref, "#/")) == nil {
						t.Errorf("%s leads nowhere", ref)
					}
				}
				walk(value)
			}
		case []any:
			for _, value := range v {
				walk(value)
			}
		}
	}
	walk(d.root)
	if refs < 50 || d.at("asyncapi") != "3.0.0" {
		t.Errorf("AsyncAPI %v with %d references", d.at("asyncapi"), refs)
	}
}

// Each type has a channel of its own, an operation on it and a message with its schema.
func TestAsyncAPINamesEveryType(t *testing.T) {
	t.Parallel()
	d := readDocument(t)
	for _, typ := range Types() {
		name := strings.NewReplacer(".", " ", "_", " ").Replace(typ)
		upper := ""
		for word := range strings.FieldsSeq(name) {
			upper += strings.ToUpper(word[:1]) + word[1:]
		}
		lower := strings.ToLower(upper[:1]) + upper[1:]
		address, _ := d.at("channels/" + lower + "/address").(string)
		if !strings.HasPrefix(address, "together."+typ+".{") {
			t.Errorf("%s: the address of channel %s is %q", typ, lower, address)
		}
		for path, want := range map[string]any{
			"channels/" + lower + "/messages/" + lower + "/$ref": "#/components/messages/" + upper,
			"operations/send" + upper + "/action":                "send",
			"operations/send" + upper + "/channel/$ref":          "#/channels/" + lower,
			"components/messages/" + upper + "/title":            typ,
			"components/messages/" + upper + "/payload/$ref":     "./" + typ + ".json",
			"components/messages/" + upper + "/contentType":      "application/json",
			"channels/" + lower + "/servers":                     []any{map[string]any{"$ref": "#/servers/nats"}},
			"components/messages/" + upper + "/headers/type":     "object",
		} {
			if diff := cmp.Diff(want, d.at(path)); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", typ, path, diff)
			}
		}
		if headers := fmt.Sprint(d.at("components/messages/" + upper + "/headers")); !strings.Contains(headers, "const:ai.together."+typ+"]") {
			t.Errorf("%s: headers are %s", typ, headers)
		}
	}
}

func TestAsyncAPINamesEveryHeader(t *testing.T) {
	t.Parallel()
	d := readDocument(t)
	for schema, want := range map[string][]string{
		"EventHeaders": {"Nats-Msg-Id", "Relay-Envelope", "Relay-Head", "Relay-Tail", "ce-datacontenttype", "ce-dataschema", "ce-id", "ce-ingress",
			"ce-recordedtime", "ce-source", "ce-specversion", "ce-subject", "ce-time", "ce-traceparent", "ce-tracestate", "ce-type"},
		"CopyHeaders":       {"Relay-Replayed", "ce-replay"},
		"DeadLetterHeaders": {"Nats-Msg-Id", "Relay-Detail", "Relay-Reason", "Relay-Received", "Relay-Source", "X-Together-Signature", "X-Together-Timestamp"},
		"DeliveryHeaders":   {"Content-Type", "X-Together-Signature", "X-Together-Timestamp"},
		"Stored":            {"duplicate", "id", "received", "sequence", "subject"},
		"DeadLettered":      {"dead_lettered", "detail", "reason", "received"},
		"Problem":           {"detail", "error", "status", "title", "type"},
		"Envelope":          {"created", "created_at", "data", "id", "type"},
	} {
		if diff := cmp.Diff(want, d.names("components/schemas/"+schema+"/properties")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", schema, diff)
		}
	}
}

func TestAsyncAPIExamplesFit(t *testing.T) {
	t.Parallel()
	d := readDocument(t)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	err := c.AddResource("schema:///asyncapi.yaml", d.root)
	for _, typ := range Types() {
		text, readErr := Schema(typ)
		doc, docErr := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		err = errors.Join(err, readErr, docErr, c.AddResource("schema:///"+typ+".json", doc))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range d.names("components/messages") {
		path := "components/messages/" + message
		examples, _ := d.at(path + "/examples").([]any)
		if len(examples) == 0 {
			t.Errorf("%s has no example", message)
		}
		for _, part := range []string{"headers", "payload"} {
			if d.at(path+"/"+part) == nil {
				continue
			}
			schema, err := c.Compile("schema:///asyncapi.yaml#/" + path + "/" + part)
			if err != nil {
				t.Fatal(err)
			}
			for _, example := range examples {
				if err := schema.Validate(example.(map[string]any)[part]); err != nil {
					t.Errorf("%s: %v", message, err)
				}
			}
		}
	}
}

// A message's example is the event that the example delivery of its type becomes.
func TestAsyncAPIExamplesAreTheExamples(t *testing.T) {
	t.Parallel()
	d := readDocument(t)
	for _, message := range d.names("components/messages") {
		typ, _ := d.at("components/messages/" + message + "/title").(string)
		text, err := Example(typ)
		if err != nil {
			continue // no event of a known type
		}
		ev, err := together.Read(text)
		if err != nil {
			t.Fatal(err)
		}
		examples, _ := d.at("components/messages/" + message + "/examples").([]any)
		for _, example := range examples {
			e := document{example}
			if diff := cmp.Diff(exampleData(t, typ), plain(t, e.at("payload"))); diff != "" {
				t.Errorf("%s: payload (-want +got):\n%s", typ, diff)
			}
			at, _ := e.at("headers/ce-time").(string)
			when, err := time.Parse(time.RFC3339, at)
			if err != nil || !when.Equal(ev.CloudEvent.Time()) {
				t.Errorf("%s: ce-time %s, want %s", typ, at, ev.CloudEvent.Time())
			}
			for name, want := range map[string]any{
				"ce-id": ev.CloudEvent.ID(), "ce-subject": ev.Resource, "Nats-Msg-Id": "together:" + ev.CloudEvent.ID(),
				"ce-dataschema": "http://localhost:8080/schemas/" + typ + ".json",
			} {
				if got := e.at("headers/" + name); got != want {
					t.Errorf("%s: %s is %v, want %v", typ, name, got, want)
				}
			}
		}
	}
}

// plain is the value as encoding/json reads it by itself.
func plain(t *testing.T, v any) map[string]any {
	t.Helper()
	text, err := json.Marshal(v)
	var m map[string]any
	if err = errors.Join(err, json.Unmarshal(text, &m)); err != nil {
		t.Fatal(err)
	}
	return m
}

// The example says what it was signed with, and over what.
func TestAsyncAPIExampleIsSigned(t *testing.T) {
	t.Parallel()
	text, err := Example("fine_tune.completed")
	if err != nil {
		t.Fatal(err)
	}
	var body bytes.Buffer
	if err := json.Compact(&body, text); err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, []byte("my-secret"))
	mac.Write(body.Bytes())
	examples := fmt.Sprint(readDocument(t).at("components/messages/Delivery/examples"))
	if want := hex.EncodeToString(mac.Sum(nil)); !strings.Contains(examples, want) {
		t.Errorf("%s does not carry the signature %s", examples, want)
	}
}
