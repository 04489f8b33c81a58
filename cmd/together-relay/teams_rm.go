package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
	"together-relay/relay"
)

func newTeamsRm() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Delete the consumers of a team that is not in the file any more",
		Long: `Deletes the team's consumers, and with them the place that the team has got to, the copies of
replays that were for it alone, and its key: a team of that name, made again, begins with all that is
stored, and with another password. Nothing is asked, so --yes has to say that it is meant. A team that is
in the file is refused, since a relay would make it again; and so is a consumer that no relay has made.`,
		Example: `  together-relay teams rm billing --yes`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "it is meant")
	s := newSettings(cmd.Flags(), forAll|forNATS)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		switch err := s.asClient(); {
		case err != nil:
			return err
		case !relay.ValidTeamName(name):
			return usagef("%q is no name of a team", name)
		case s.teams[name] != nil:
			return usagef("%s: team %s is in the file; take it out first, or a relay makes it again, from the beginning", s.teams[name].at, name)
		case !yes:
			return usagef("this deletes the consumers of team %s, the place it has got to, the copies that are for it alone and its key; if it is meant, add --yes", name)
		}
		reader, err := s.reader()
		if err != nil {
			return err
		}
		defer reader.Close()
		keyed, err := s.keys().Teams()
		if err != nil {
			return err
		}
		// A team that no relay has made a consumer for may have a key all the same.
		if err := reader.RemoveTeam(cmd.Context(), name); err != nil && (!errors.Is(err, jetstream.ErrNoTeam) || !slices.Contains(keyed, name)) {
			return err
		}
		if slices.Contains(keyed, name) {
			if err := s.keys().Remove(name); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\tremoved\n", name)
		return err
	}
	return cmd
}
