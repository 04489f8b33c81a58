// Package schemas is the contract that others build on: the JSON Schema of each
// known event type, an example delivery for each, and the AsyncAPI document of all
// channels. The files are compiled into the binary.
package schemas

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"together-relay/relay"
)

// Files holds <type>.json, examples/<type>.json and asyncapi.yaml.
//
//go:embed *.json examples/*.json asyncapi.yaml
var Files embed.FS

// A Set is the compiled schemas. It is safe for concurrent use.
type Set struct {
	byType map[string]*jsonschema.Schema
	quick  map[string]*quick
}

// Load compiles the embedded schemas. Formats are asserted.
func Load() (*Set, error) {
	files, err := fs.Glob(Files, "*.json")
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	set := &Set{byType: map[string]*jsonschema.Schema{}, quick: map[string]*quick{}}
	for _, file := range files {
		text, err := Files.ReadFile(file)
		if err != nil {
			return nil, err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("schema %s: %w", file, err)
		}
		url := "schema:///" + file
		if err := c.AddResource(url, doc); err != nil {
			return nil, fmt.Errorf("schema %s: %w", file, err)
		}
		typ := strings.TrimSuffix(file, ".json")
		if set.byType[typ], err = c.Compile(url); err != nil {
			return nil, fmt.Errorf("schema %s: %w", file, err)
		}
		set.quick[typ] = newQuick(text)
	}
	return set, nil
}

// Types lists the types that have a schema, in order.
func Types() []string {
	files, _ := fs.Glob(Files, "*.json") // the pattern is good
	for i, file := range files {
		files[i] = strings.TrimSuffix(file, ".json")
	}
	return files
}

// Has says whether the type has a schema.
func (s *Set) Has(typ string) bool { return s.byType[typ] != nil }

// Binds says whether the type's schema holds for whoever sends the event. The schemas of the
// other types say what the relay itself makes of the watched API; a sender's own event of
// such a type is relayed as it is.
func Binds(typ string) bool {
	switch typ {
	case "fine_tune.completed", "fine_tune.failed", "fine_tune.checkpoint", "model.deprecated", "batch.done":
		return true
	}
	return false
}

// CheckSent is [Set.CheckEvent] for an event that somebody has sent.
func (s *Set) CheckSent(ev relay.Event) error {
	if !Binds(ev.Type) {
		return nil
	}
	return s.CheckEvent(ev)
}

// CheckEvent holds an event's data against the schema of its type. It is [Set.Check],
// after a quick look at the members that spares most events the decoding.
func (s *Set) CheckEvent(ev relay.Event) error {
	if q := s.quick[ev.Type]; q != nil && q.fits(ev.Fields) {
		return nil
	}
	return s.Check(ev.Type, ev.CloudEvent.DataEncoded)
}

// Check holds data, which must be JSON, against the schema of the type. A type
// without one is always right. The error is a [*relay.Unusable] that names places and
// rules, never a value.
func (s *Set) Check(typ string, data []byte) error {
	schema := s.byType[typ]
	if schema == nil {
		return nil
	}
	instance, err := decode(data)
	if err == nil {
		err = schema.Validate(instance)
	}
	if err == nil {
		return nil
	}
	detail := "data is not JSON"
	if broken, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		detail = strings.Join(explain(broken), "; ")
	}
	return &relay.Unusable{Reason: relay.ReasonSchema, Detail: detail}
}

// Schema returns the type's schema as it is served.
func Schema(typ string) ([]byte, error) { return Files.ReadFile(typ + ".json") }

// Example returns a good delivery of the type, as a sender would write it.
func Example(typ string) ([]byte, error) { return Files.ReadFile("examples/" + typ + ".json") }

func decode(data []byte) (any, error) {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return tame(v), nil
}

// tame replaces numbers that are too long or too large to be looked at exactly, since
// the validator would write them out in full: 1e1000000000 is a short text and a
// gigabyte of digits. The stand-ins are a number and, where the original was one, an
// integer, which is all that the schemas ask.
func tame(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = tame(v[k])
		}
	case []any:
		for i := range v {
			v[i] = tame(v[i])
		}
	case json.Number:
		_, exponent, _ := strings.Cut(strings.ToLower(v.String()), "e")
		switch {
		case len(v) <= 400 && len(strings.TrimLeft(exponent, "+-0")) < 3:
			return v
		case whole(v):
			return json.Number("1")
		default:
			return json.Number("0.5")
		}
	}
	return v
}

// whole says whether the number is an integer.
func whole(n json.Number) bool {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(n.String()), "e")
	before, after, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimRight(before+after, "0")
	if strings.Trim(digits, "-") == "" {
		return true // zero, whatever its exponent
	}
	fraction := len(digits) - len(before)       // digits after the point that count
	e, _ := strconv.Atoi(cmp.Or(exponent, "0")) // the largest or the least there is, if it is beyond
	return fraction <= e
}

// explain lists the broken rules, one a line, without repeating what the data says.
func explain(e *jsonschema.ValidationError) []string {
	at := "data"
	if len(e.InstanceLocation) > 0 {
		at += "." + strings.Join(e.InstanceLocation, ".")
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		return []string{fmt.Sprintf("%s: missing %s", at, strings.Join(k.Missing, ", "))}
	case *kind.Type:
		return []string{fmt.Sprintf("%s: got %s, want %s", at, k.Got, strings.Join(k.Want, " or "))}
	case *kind.Format:
		return []string{fmt.Sprintf("%s: is no %s", at, k.Want)}
	case *kind.AnyOf, *kind.OneOf:
		var wants []string
		for _, cause := range e.Causes {
			for _, line := range explain(cause) {
				wants = append(wants, strings.TrimPrefix(line, at+": "))
			}
		}
		return []string{fmt.Sprintf("%s: fits no form: %s", at, strings.Join(wants, ", "))}
	}
	var lines []string
	for _, cause := range e.Causes {
		lines = append(lines, explain(cause)...)
	}
	if len(lines) == 0 {
		lines = []string{fmt.Sprintf("%s: breaks %s", at, strings.Join(e.ErrorKind.KeywordPath(), "/"))}
	}
	return lines
}
