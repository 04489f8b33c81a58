package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/together"
)

func newConfig() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the settings in force, and where each comes from",
		Long: `Prints every setting as serve would have it, in the form of relay.yaml. Secrets are masked.
It fails as serve would if a setting is wrong.`,
		Example: `  together-relay config
  together-relay config --config /etc/together-relay/relay.yaml -o json`,
		Args: cobra.NoArgs,
	}
	s := newSettings(cmd.Flags(), forAll|forNATS|forServe|forStart)
	outputFlag(cmd, &output)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(); err != nil {
			return err
		}
		show := s.print
		if output == "json" {
			show = s.printJSON
		}
		if err := show(cmd.OutOrStdout()); err != nil {
			return err
		}
		for _, warning := range s.teamWarnings() {
			fmt.Fprintf(cmd.ErrOrStderr(), "together-relay: warning: %s\n", warning)
		}
		if _, err := s.prefixes(); err != nil {
			return err
		}
		_, err := s.secretsOf()
		return err
	}
	return cmd
}

const mask = "********"

// masked is the value of a knob, for people to see.
func (s *settings) masked(f *pflag.Flag) string {
	value := f.Value.String()
	switch {
	case f.Name == "nats-url" || f.Name == "monitor" || f.Name == "api-url":
		return jetstream.Redact(value)
	case s.knobs.known[f.Name].secret && value != "":
		return mask
	}
	return value
}

func (s *settings) print(w io.Writer) error {
	s.knobs.VisitAll(func(f *pflag.Flag) {
		line := yamlKey(f.Name) + ": " + quoteIfOdd(s.masked(f))
		if f.Name == "config" {
			line = "# " + line // a file does not name itself
		}
		fmt.Fprintf(w, "%-34s # %s\n", line, s.origin[f.Name])
	})
	all := s.allSources()
	if len(all) > 0 {
		fmt.Fprintln(w, "sources:")
	}
	for _, name := range sortedNames(all) {
		lines := all[name].lines()
		if len(lines) == 0 {
			fmt.Fprintf(w, "  %s: {}\n", name)
			continue
		}
		fmt.Fprintf(w, "  %s:\n", name)
		for _, line := range lines {
			text, err := line.yaml()
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "    %s: %s\n", line.key, text)
		}
	}
	if len(s.watch.deprecations) > 0 {
		fmt.Fprintln(w, "deprecations:")
	}
	for _, d := range s.watch.deprecations {
		text, err := marshal(deprecationLine(d)) // YAML reads it as well
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "  - %s\n", text)
	}
	if len(s.teams) > 0 {
		fmt.Fprintln(w, "teams:")
	}
	for _, name := range sortedNames(s.teams) {
		fmt.Fprintf(w, "  %s:\n", name)
		for _, line := range s.teams[name].lines() {
			text, err := line.yaml()
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "    %s: %s\n", line.key, text)
		}
	}
	return nil
}

// lines are a team's settings.
func (team teamSettings) lines() []configLine {
	waits := []string{} // none is not the default
	for _, d := range team.BackOff {
		waits = append(waits, d.String())
	}
	return []configLine{{"events", team.Events}, {"max_deliver", team.MaxDeliver}, {"backoff", waits}, {"max_ack_pending", team.MaxAckPending}}
}

// deprecationLine is an entry of deprecations under the names of the file.
func deprecationLine(d together.Deprecation) map[string]string {
	line := map[string]string{"model": d.Model, "replacement": d.Replacement, "product": d.Product, "sunset": d.Sunset}
	maps.DeleteFunc(line, func(_, value string) bool { return value == "" })
	return line
}

type configLine struct {
	key   string
	value any // a string, a list of them, or a number
}

func (l configLine) yaml() (string, error) {
	if text, ok := l.value.(string); ok {
		return quoteIfOdd(text), nil
	}
	text, err := marshal(l.value) // what else there is, YAML writes as JSON does
	return string(text), err
}

// lines are what is set of a source.
func (source sourceSettings) lines() []configLine {
	var lines []configLine
	add := func(set bool, key string, value any) {
		if set {
			lines = append(lines, configLine{key, value})
		}
	}
	add(source.URI != "", "uri", source.URI)
	add(source.Prefix != "", "prefix", source.Prefix)
	add(len(source.Secrets) > 0, "secrets", slices.Repeat([]string{mask}, len(source.Secrets)))
	add(source.SecretFile != "", "secret_file", source.SecretFile)
	add(source.Timestamp != "", "timestamp", source.Timestamp)
	add(source.Tolerance != 0, "tolerance", source.Tolerance.String())
	add(source.Rate != 0, "rate", source.Rate)
	add(len(source.AllowedOrigins) > 0, "allowed_origins", source.AllowedOrigins)
	return lines
}

func (s *settings) printJSON(w io.Writer) error {
	type value struct {
		Value string `json:"value"`
		From  string `json:"from"`
	}
	out := map[string]any{}
	s.knobs.VisitAll(func(f *pflag.Flag) {
		out[yamlKey(f.Name)] = value{s.masked(f), s.origin[f.Name]}
	})
	sources := map[string]map[string]any{}
	for name, source := range s.allSources() {
		sources[name] = map[string]any{}
		for _, line := range source.lines() {
			sources[name][line.key] = line.value
		}
	}
	out["sources"] = sources
	deprecations := make([]map[string]string, len(s.watch.deprecations))
	for i, d := range s.watch.deprecations {
		deprecations[i] = deprecationLine(d)
	}
	out["deprecations"] = deprecations
	teams := map[string]map[string]any{}
	for name, team := range s.teams {
		teams[name] = map[string]any{}
		for _, line := range team.lines() {
			teams[name][line.key] = line.value
		}
	}
	out["teams"] = teams
	return writeJSON(w, out)
}

// even is text that YAML reads as it stands.
var even = regexp.MustCompile(`^[A-Za-z0-9./_]([A-Za-z0-9./_:@%+=?&,*$-]*[A-Za-z0-9./_])?$`)

// quoteIfOdd quotes what YAML would read as something else.
func quoteIfOdd(s string) string {
	if even.MatchString(s) {
		return s
	}
	return fmt.Sprintf("%q", s)
}
