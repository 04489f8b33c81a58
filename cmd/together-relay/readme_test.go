package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
