package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"together-relay/adapters/together"
)

// A file is what relay.yaml says: values of knobs, by flag name, and the lists.
type file struct {
	name    string
	values  map[string]fileValue
	sources map[string]*sourceSettings
	// models that their maker has announced to withdraw
	deprecations []together.Deprecation
	teams        map[string]*teamSettings
}

type fileValue struct{ text, at string } // at is file:line

// sourceSettings is an entry of sources.
type sourceSettings struct {
	URI            string
	Prefix         string
	Secrets        []string
	SecretFile     string
	Timestamp      string // required, or empty
	Tolerance      time.Duration
	Rate           float64
	AllowedOrigins []string

	at string // file:line
}

var sourceKeys = []string{"uri", "prefix", "secrets", "secret_file", "timestamp", "tolerance", "rate", "allowed_origins"}

// field is where the key's value goes, and what it has to be.
func (source *sourceSettings) field(key string) (into any, what string) {
	switch key {
	case "uri":
		return &source.URI, "a text"
	case "prefix":
		return &source.Prefix, "a text"
	case "secrets":
		return &source.Secrets, "a list of texts"
	case "secret_file":
		return &source.SecretFile, "a text"
	case "timestamp":
		return &source.Timestamp, "a text"
	case "tolerance":
		return &source.Tolerance, "a length of time, such as 5m"
	case "rate":
		return &source.Rate, "a number"
	default:
		return &source.AllowedOrigins, "a list of texts"
	}
}

// parseFile reads relay.yaml. Its errors name the file and the line.
func parseFile(name string, text []byte, env func(string) (string, bool)) (*file, error) {
	f := &file{name: name, values: map[string]fileValue{}}
	root, err := f.root(text)
	if root == nil || err != nil {
		return f, err
	}
	if err := f.resolve(root, env); err != nil {
		return nil, err
	}
	known := (&settings{}).declare().known
	keys := []string{"sources", "deprecations", "teams"}
	for flag := range known {
		if flag != "config" {
			keys = append(keys, yamlKey(flag))
		}
	}
	return f, f.each(root, keys, func(key string, value *yaml.Node) error {
		switch key {
		case "sources":
			return f.readSources(value)
		case "deprecations":
			return f.readDeprecations(value)
		case "teams":
			return f.readTeams(value)
		}
		if value.Kind != yaml.ScalarNode {
			return f.errorf(value, "%s must be a single value", key)
		}
		f.values[strings.ReplaceAll(key, "_", "-")] = fileValue{value.Value, f.at(value)}
		return nil
	})
}

// root is the file's one document; nil if there is nothing in it.
func (f *file) root(text []byte) (*yaml.Node, error) {
	documents := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	switch err := documents.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	switch err := documents.Decode(&more); {
	case err == nil:
		return nil, f.errorf(&more, "a second document begins here; all settings must stand in one")
	case !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	return doc.Content[0], nil
}

// yamlKey is a flag's name in the file.
func yamlKey(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

func (f *file) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", f.name, n.Line) }

func (f *file) errorf(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s: %w", f.at(n), fmt.Errorf(format, args...))
}

// each calls read for the members of a mapping, all of which must be known and stand once.
func (f *file) each(n *yaml.Node, keys []string, read func(key string, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return f.errorf(n, "a mapping is expected here: lines such as name: value, no list")
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		if keys != nil && !slices.Contains(keys, key) {
			return f.errorf(n.Content[i], "unknown key %q%s", key, nearest(key, keys))
		}
		if seen[key] {
			return f.errorf(n.Content[i], "%q stands here twice", key)
		}
		seen[key] = true
		if n.Content[i+1].ShortTag() == "!!null" {
			return f.errorf(n.Content[i+1], "%s has no value; write one, indent below it what belongs to it, or leave the line out", key)
		}
		if err := read(key, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (f *file) readSources(n *yaml.Node) error {
	f.sources = map[string]*sourceSettings{}
	return f.each(n, nil, func(name string, value *yaml.Node) error {
		if !sourceName.MatchString(name) {
			return f.errorf(value, "source %q: a name is made of a-z, 0-9, - and _, 64 characters at most", name)
		}
		s := &sourceSettings{at: f.at(value)}
		err := f.each(value, sourceKeys, func(key string, v *yaml.Node) error {
			into, what := s.field(key)
			if v.Decode(into) != nil { // it would say the value, which may be a secret
				return f.errorf(v, "source %s: %s must be %s", name, key, what)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if s.Timestamp != "" && s.Timestamp != "required" {
			return f.errorf(value, `source %s: timestamp is %q; it is "required" or left out`, name, s.Timestamp)
		}
		if math.IsNaN(s.Rate) || s.Rate > 1e6 {
			return f.errorf(value, "source %s: rate is beyond 1000000 deliveries a second; leave it out for no limit", name)
		}
		if s.Rate < 0 || s.Tolerance < 0 {
			return f.errorf(value, "source %s: rate and tolerance must not be negative", name)
		}
		f.sources[name] = s
		return nil
	})
}

// readDeprecations reads the operator's own table of models that will be withdrawn.
func (f *file) readDeprecations(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return f.errorf(n, "deprecations must be a list")
	}
	for _, entry := range n.Content {
		var d together.Deprecation
		err := f.each(entry, []string{"model", "replacement", "product", "sunset"}, func(key string, v *yaml.Node) error {
			if v.Kind != yaml.ScalarNode {
				return f.errorf(v, "%s must be a single value", key)
			}
			switch key {
			case "model":
				d.Model = v.Value
			case "replacement":
				d.Replacement = v.Value
			case "product":
				if d.Product = strings.ToLower(v.Value); !together.KnownProduct(d.Product) {
					return f.errorf(v, "product is %q; write serverless, dedicated or fine_tuning", v.Value)
				}
			case "sunset":
				if _, err := time.Parse(time.DateOnly, v.Value); err != nil {
					return f.errorf(v, "sunset is %q; write a date, such as 2026-06-22", v.Value)
				}
				d.Sunset = v.Value
			}
			return nil
		})
		if err != nil {
			return err
		}
		if d.Model == "" {
			return f.errorf(entry, "a deprecation names no model")
		}
		f.deprecations = append(f.deprecations, d)
	}
	return nil
}

var sourceName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

var variable = regexp.MustCompile(`\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{[^}]*\}?`)

// resolve replaces ${VAR} in every value; $$ is a dollar sign.
func (f *file) resolve(n *yaml.Node, env func(string) (string, bool)) (err error) {
	for _, child := range n.Content {
		if err := f.resolve(child, env); err != nil {
			return err
		}
	}
	if n.Kind != yaml.ScalarNode {
		return nil
	}
	replaced := variable.ReplaceAllStringFunc(n.Value, func(found string) string {
		if found == "$$" {
			return "$"
		}
		name := variable.FindStringSubmatch(found)[1]
		value, ok := env(name)
		switch {
		case err != nil:
		case name == "":
			err = f.errorf(n, "%s is no variable; write ${NAME}, or $$ for a dollar sign", found)
		case !ok:
			err = f.errorf(n, "${%s} is not set in the environment", name)
		}
		return value
	})
	if replaced != n.Value {
		n.Value = replaced
		if n.Style == 0 {
			n.Tag = "" // an unquoted ${N} may be a number
		}
	}
	return err
}

// nearest suggests the key that was probably meant: one with few letters changed.
func nearest(key string, keys []string) string {
	best, distance := "", min(4, len(key)/2+1)
	for _, k := range slices.Sorted(slices.Values(keys)) {
		if d := editDistance(key, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(row[j+1]+1, row[j]+1, cost)
		}
	}
	return row[len(b)]
}
