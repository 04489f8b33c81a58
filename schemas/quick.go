package schemas

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"together-relay/relay"
)

// quick is what a schema asks of a data object, as far as it can be seen from its members
// without decoding them. It only ever says yes: whatever it does not see is left to
// the validator, whose word it is what is wrong.
type quick struct {
	required [][]byte
	allowed  map[string]string // kinds of value by member: s, n, i, b, o and 0 for null
}

// newQuick reads the schema; nil if it asks for more than can be seen this way.
func newQuick(text []byte) *quick {
	var schema struct {
		Schema      json.RawMessage            `json:"$schema"`
		ID          json.RawMessage            `json:"$id"`
		Title       json.RawMessage            `json:"title"`
		Description json.RawMessage            `json:"description"`
		Type        string                     `json:"type"`
		Required    []string                   `json:"required"`
		Properties  map[string]json.RawMessage `json:"properties"`
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&schema); err != nil || schema.Type != "object" {
		return nil
	}
	q := &quick{allowed: map[string]string{}}
	for _, name := range schema.Required {
		q.required = append(q.required, []byte(name))
	}
	for name, property := range schema.Properties {
		q.allowed[name] = kindsOf(property)
	}
	return q
}

// kindsOf lists the kinds of value that a property surely allows.
func kindsOf(text []byte) string {
	var property struct {
		Description json.RawMessage   `json:"description"`
		Type        any               `json:"type"`
		Format      string            `json:"format"`
		AnyOf       []json.RawMessage `json:"anyOf"`
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if dec.Decode(&property) != nil {
		return ""
	}
	if property.Type == nil && property.AnyOf == nil {
		return "snibo0?"
	}
	if property.Type == nil {
		var kinds strings.Builder
		for _, form := range property.AnyOf {
			kinds.WriteString(kindsOf(form))
		}
		return kinds.String()
	}
	if property.AnyOf != nil {
		return ""
	}
	types, ok := property.Type.([]any)
	if !ok {
		types = []any{property.Type}
	}
	var kinds strings.Builder
	for _, typ := range types {
		switch typ {
		case "string":
			if property.Format == "" {
				kinds.WriteString("s")
			}
		case "number":
			kinds.WriteString("ni")
		case "integer":
			kinds.WriteString("i")
		case "boolean":
			kinds.WriteString("b")
		case "object":
			kinds.WriteString("o")
		case "null":
			kinds.WriteString("0")
		}
	}
	return kinds.String()
}

// fits says that the members surely keep the schema.
func (q *quick) fits(fields []relay.Field) bool {
	for _, name := range q.required {
		if !slices.ContainsFunc(fields, func(f relay.Field) bool { return bytes.Equal(f.Name, name) }) {
			return false
		}
	}
	for _, f := range fields {
		kinds, known := q.allowed[string(f.Name)]
		if known && bytes.IndexByte([]byte(kinds), kindOf(f.Value)) < 0 {
			return false
		}
	}
	return true
}

// kindOf is the kind of a JSON value; numbers with a fraction or an exponent count as n,
// also where they are whole.
func kindOf(value []byte) byte {
	switch c := value[0]; {
	case c == '"':
		return 's'
	case c == 'n':
		return '0'
	case c == 't' || c == 'f':
		return 'b'
	case c == '{':
		return 'o'
	case c == '-' || '0' <= c && c <= '9':
		if bytes.ContainsAny(value, ".eE") {
			return 'n'
		}
		return 'i'
	default:
		return '?'
	}
}
