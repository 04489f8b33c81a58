package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"together-relay/adapters/jetstream"
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
	s := newSettings(cmd.Flags(), forAll|forNATS|forServe)
	outputFlag(cmd, &output)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(); err != nil {
			return err
		}
		if output == "json" {
			return s.printJSON(cmd.OutOrStdout())
		}
		return s.print(cmd.OutOrStdout())
	}
	return cmd
}

const mask = "********"

// masked is the value of a knob, for people to see.
func (s *settings) masked(f *pflag.Flag) string {
	value := f.Value.String()
	switch {
	case f.Name == "nats-url":
		return jetstream.Redact(value)
	case s.knobs.known[f.Name].secret && value != "":
		return mask
	}
	return value
}

func (s *settings) print(w io.Writer) error {
	s.knobs.VisitAll(func(f *pflag.Flag) {
		fmt.Fprintf(w, "%-34s # %s\n", yamlKey(f.Name)+": "+quoteIfOdd(s.masked(f)), s.origin[f.Name])
	})
	all := s.allSources()
	if len(all) > 0 {
		fmt.Fprintln(w, "sources:")
	}
	for _, name := range sortedNames(all) {
		source := all[name]
		fmt.Fprintf(w, "  %s:\n", name)
		for _, line := range source.lines() {
			fmt.Fprintf(w, "    %s: %v\n", line.key, line.value)
		}
	}
	_, err := s.secretsOf()
	return err
}

type configLine struct {
	key   string
	value any
}

// lines are what is set of a source.
func (source sourceSettings) lines() []configLine {
	var lines []configLine
	add := func(set bool, key string, value any) {
		if set {
			lines = append(lines, configLine{key, value})
		}
	}
	add(source.URI != "", "uri", quoteIfOdd(source.URI))
	add(source.Prefix != "", "prefix", source.Prefix)
	add(len(source.Secrets) > 0, "secrets", fmt.Sprintf("[%q] # %d", mask, len(source.Secrets)))
	add(source.SecretFile != "", "secret_file", quoteIfOdd(source.SecretFile))
	add(source.Timestamp != "", "timestamp", source.Timestamp)
	add(source.Tolerance != 0, "tolerance", source.Tolerance)
	add(source.Rate != 0, "rate", source.Rate)
	add(len(source.AllowedOrigins) > 0, "allowed_origins", fmt.Sprintf("%q", source.AllowedOrigins))
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
	text, err := marshal(out)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", text)
	return err
}

// quoteIfOdd quotes what YAML would read as something else.
func quoteIfOdd(s string) string {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || c == '#' || c == '"' || c == '\'' || i == 0 && (c == '*' || c == '[' || c == '{' || c == '&' || c == '!' || c == ':' || c == '%' || c == '@') {
			return fmt.Sprintf("%q", s)
		}
	}
	if s == "" {
		return `""`
	}
	return s
}
