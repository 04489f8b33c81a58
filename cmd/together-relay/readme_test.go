package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"together-relay/schemas"
)

// The README's table of settings has every setting, by its key and its variable, with its
// default, and no other.
func TestReadmeListsTheSettings(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{} // row by variable
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 {
			continue
		}
		for _, env := range regexp.MustCompile("`([A-Z]+_[A-Z_]+)`").FindAllStringSubmatch(cells[2], -1) {
			listed[env[1]] = line
		}
	}
	knobs := (&settings{}).declare()
	knobs.VisitAll(func(f *pflag.Flag) {
		env := knobs.known[f.Name].env
		row := listed[env]
		delete(listed, env)
		switch {
		case !strings.Contains(row, "`"+yamlKey(f.Name)+"`"):
			t.Errorf("%s (%s) is not in the table", yamlKey(f.Name), env)
		case f.DefValue != "" && !sameDefault(row, f.DefValue):
			t.Errorf("%s: the default %s is not in its row: %s", yamlKey(f.Name), f.DefValue, row)
		}
	})
	for env := range listed {
		t.Errorf("%s is in the table, and no setting", env)
	}
}

// sameDefault finds a default in a row, a duration also without its zero minutes and seconds.
func sameDefault(row, value string) bool {
	short := strings.TrimSuffix(strings.TrimSuffix(value, "0s"), "0m")
	return strings.Contains(row, "`"+value+"`") || strings.Contains(row, "`"+short+"`")
}

// The README's tables of events have every type that has a schema, and no other: all its
// members in the order of the schema, in bold those that are required; where they come from; and
// what makes the id.
func TestReadmeListsTheTypes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Events\n")
	section, _, _ = strings.Cut(section, "\n## ")
	required, members := map[string][]string{}, map[string][]string{} // cells by type
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		typ := regexp.MustCompile("^ `([a-z_]+(\\.[a-z_]+)+)` $").FindStringSubmatch(cells[0])
		switch {
		case typ == nil:
		case len(cells) == 3:
			required[typ[1]] = cells[1:]
		case members[typ[1]] != nil:
			t.Errorf("%s has two rows", typ[1])
		default:
			members[typ[1]] = cells[1:]
		}
	}
	for _, typ := range schemas.Types() {
		row := members[typ]
		delete(members, typ)
		if len(row) != 3 || strings.TrimSpace(row[1]) == "" || strings.TrimSpace(row[2]) == "" {
			t.Errorf("%s has no whole row: %q", typ, row)
			continue
		}
		names, needed := schemaMembers(t, typ)
		for i, name := range names {
			names[i] = "`" + name + "`"
			if slices.Contains(needed, name) {
				names[i] = "**" + names[i] + "**"
			}
		}
		if diff := cmp.Diff(strings.Join(names, ", "), strings.TrimSpace(row[0])); diff != "" {
			t.Errorf("%s (-want +got):\n%s", typ, diff)
		}
		if row, ok := required[typ]; ok {
			var listed []string
			for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[0], -1) {
				listed = append(listed, name[1])
			}
			if diff := cmp.Diff(needed, listed); diff != "" {
				t.Errorf("%s requires (-want +got):\n%s", typ, diff)
			}
			if strings.TrimSpace(row[1]) != "`"+needed[0]+"`" {
				t.Errorf("%s: the resource is %s", typ, row[1])
			}
		}
	}
	if len(required) != 5 {
		t.Errorf("the first table has %d types", len(required))
	}
	for typ := range members {
		t.Errorf("%s is in the table, and has no schema", typ)
	}
	if more := fmt.Sprintf("These and %d more types", len(schemas.Types())-len(required)); !strings.Contains(section, more) {
		t.Errorf("the section does not say %q", more)
	}
}

// schemaMembers lists the members that a schema describes, in its order, and those that it
// requires.
func schemaMembers(t *testing.T, typ string) (names, required []string) {
	t.Helper()
	text, err := schemas.Schema(typ)
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Required   []string
		Properties jsontext.Value
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	dec := jsontext.NewDecoder(bytes.NewReader(schema.Properties))
	if _, err := dec.ReadToken(); err != nil {
		t.Fatal(err)
	}
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name.String())
		if err := dec.SkipValue(); err != nil {
			t.Fatal(err)
		}
	}
	return names, schema.Required
}

// Every verb is in the README, and its help has an example.
func TestVerbsAreShown(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range newRoot().Commands() {
		if cmd.Hidden || cmd.Name() == "help" {
			continue
		}
		if !strings.Contains(string(text), "`"+cmd.Name()+"`") {
			t.Errorf("%s is not in the README", cmd.Name())
		}
		walk(cmd, func(c *cobra.Command) {
			if c.Name() != "completion" && c.Example == "" {
				t.Errorf("the help of %s has no example", c.CommandPath())
			}
		})
	}
}

func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, visit)
	}
}
