package main

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
	"together-relay/relay"
	"together-relay/schemas"
)

func newTeamsSnippet() *cobra.Command {
	var language string
	languages := strings.Join(schemas.Languages(), ", ")
	cmd := &cobra.Command{
		Use:   "snippet NAME --lang LANGUAGE",
		Short: "Print a program that takes the team's events",
		Long: `Prints a whole program that binds to the team's two consumers, that of the events and that of what is
replayed for the team, takes from both at once, prints each event and acknowledges it; standard error says how
to run it. It asks NATS for no more than a team may do. A relay has to have made the consumers.

It has no password in it: it logs in with NATS_USER and NATS_PASSWORD of its environment, as teams creds prints
them, or with what stands in NATS_URL there. CONSUMER names another consumer.`,
		Example: `  together-relay teams snippet billing --lang python > subscriber.py
  together-relay teams snippet billing --lang shell > subscriber.sh
  (set -a; eval "$(together-relay teams creds billing)"; bash subscriber.sh)`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&language, "lang", "", "`language`: "+languages)
	s := newSettings(cmd.Flags(), forAll|forNATS)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		if err := s.asClient(); err != nil {
			return err
		}
		if !relay.ValidTeamName(name) {
			return usagef("%q is no name of a team", name)
		}
		if len(s.teams) > 0 && s.teams[name] == nil {
			return usagef("team %s is not in the file%s", name, nearest(name, sortedNames(s.teams)))
		}
		server, err := s.snippetServer()
		if err != nil {
			return err
		}
		if language == "" {
			return usagef("--lang is missing; it is one of %s", languages)
		}
		streams := jetstream.TeamStreams(s.stream.Stream)
		text, run, err := schemas.Program(language, streams[0], streams[1], name, server)
		if err != nil {
			return usagef("%w", err)
		}
		fmt.Fprintln(cmd.ErrOrStderr(), run)
		_, err = fmt.Fprint(cmd.OutOrStdout(), text)
		return err
	}
	return cmd
}

// harmless is text that ends no string of any language.
var harmless = regexp.MustCompile(`^[A-Za-z0-9._:/\[\]-]+$`)

// snippetServer is the first server as it may stand in a program: without a password.
func (s *settings) snippetServer() (string, error) {
	all, err := s.natsURL()
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(all, ",")
	first = strings.TrimSpace(first)
	if !strings.Contains(first, "://") {
		first = "nats://" + first
	}
	server, err := url.Parse(first)
	if err != nil {
		return "", usagef("NATS_URL is no URL")
	}
	server.User = nil
	for _, text := range []string{server.String(), s.stream.Stream} {
		if !harmless.MatchString(text) {
			return "", usagef("%q cannot be written into a program", text)
		}
	}
	return server.String(), nil
}
