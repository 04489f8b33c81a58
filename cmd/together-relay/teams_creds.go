package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"together-relay/adapters/natsd"
	"together-relay/relay"
)

func newTeamsCreds() *cobra.Command {
	var output string
	var renew bool
	cmd := &cobra.Command{
		Use:   "creds NAME",
		Short: "Print what a team needs to log in at NATS, once",
		Long: `Prints the address, the user and the password of a team, and deletes the password: what is kept is
its bcrypt hash, so nobody can print it again. --new makes another one; a relay with the embedded server
takes it within seconds and closes the connections that were made with the old one. An outside server
takes it once nats-config has been run again and NATS reloaded.

together-operator is the user of people. Its password stays, since the command line uses it.

The lines can be read by a shell, and by whatever reads a file of variables.`,
		Example: `  (umask 077; together-relay teams creds billing > billing.env)
  (set -a; eval "$(together-relay teams creds billing --new)"; bash subscriber.sh)
  together-relay teams creds together-operator`,
		Args: cobra.ExactArgs(1),
	}
	outputFlag(cmd, &output)
	cmd.Flags().BoolVar(&renew, "new", false, "make another password; the old one is worth nothing then")
	s := newSettings(cmd.Flags(), forAll|forNATS)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		if err := s.asClient(); err != nil {
			return err
		}
		if err := s.knowTeam(name); err != nil {
			return err
		}
		server, err := s.snippetServer()
		if err != nil {
			return err
		}
		password, err := s.takePassword(name, renew)
		if err != nil {
			return err
		}
		if renew && s.nats.url != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "together-relay: NATS at %s does not know this password yet; run together-relay teams nats-config again, then reload NATS\n", server)
		}
		if output == "json" {
			return writeJSON(cmd.OutOrStdout(), map[string]string{"nats_url": server, "nats_user": name, "nats_password": password})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "NATS_URL=%s\nNATS_USER=%s\nNATS_PASSWORD=%s\n", server, name, password)
		return err
	}
	return cmd
}

// knowTeam says whether there is a team of the name: in the file, or, without one, with a key.
func (s *settings) knowTeam(name string) error {
	keyed, err := s.keys().Teams()
	switch {
	case name == natsd.OperatorUser:
		return nil
	case !relay.ValidTeamName(name) || natsd.Reserved(name):
		return usagef("%q is no name of a team", name)
	case s.teams[name] != nil:
		return nil
	case s.text != nil:
		return usagef("team %s is not in %s%s", name, s.config, nearest(name, sortedNames(s.teams)))
	case err != nil:
		return err
	}
	if slices.Contains(keyed, name) {
		return nil
	}
	return usagef("team %s is not known%s; teams stand in relay.yaml, which is not here: name it with --config", name, nearest(name, keyed))
}

// takePassword makes the team's password, if it is asked for another or has none, and takes it.
func (s *settings) takePassword(name string, renew bool) (string, error) {
	keys := s.keys()
	var err error
	if renew {
		err = keys.Renew(name)
	} else {
		_, err = keys.Ensure(name)
	}
	if err != nil {
		return "", err
	}
	if name == natsd.OperatorUser {
		return keys.Password(name)
	}
	password, err := keys.Take(name)
	if errors.Is(err, natsd.ErrTaken) {
		return "", fmt.Errorf("team %s: %w; --new makes another, and then the old one is worth nothing", name, err)
	}
	return password, err
}
