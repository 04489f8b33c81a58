package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/natsd"
)

func newTeamsNATSConfig() *cobra.Command {
	var account, out, password string
	cmd := &cobra.Command{
		Use:   "nats-config",
		Short: "Print the accounts and users for a NATS server of your own",
		Long: `Prints the part of a NATS server's configuration that says who may connect and do what: an account of
the streams, with one user for the relay, who may do what a relay needs, and one for people; and an
account for each team of the file, whose user may take the team's own events and nothing else. The text
says at its top how it is used. It is the same each time, as long as nothing changes.

Give it the settings of serve: what the relay may publish follows from its sources and its stream.
Passwords that are missing are made, in the keys directory of the data directory; what is printed are
hashes alone.`,
		Example: `  together-relay teams nats-config --out /etc/nats/accounts.conf
  together-relay teams nats-config --account EVENTS > accounts.conf`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&account, "account", "TOGETHER", "`name` of the account of the streams")
	cmd.Flags().StringVarP(&out, "out", "o", "", "write it to a `file`, readable for its owner alone, and replace that in one step")
	cmd.Flags().StringVar(&password, "relay-password", "", "write the relay's password to a `file` too, as NATS_PASSWORD_FILE wants it")
	s := newSettings(cmd.Flags(), forAll|forNATS)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		if !accountName.MatchString(account) || strings.HasPrefix(account, "team-") {
			return usagef("--account is %q; write letters, digits, - and _, and no name that begins with team-", account)
		}
		text, err := s.natsConfig(account)
		if err != nil {
			return err
		}
		if password != "" {
			word, err := s.keys().Password(natsd.RelayUser)
			if err != nil {
				return err
			}
			if err := natsd.WritePrivate(password, []byte(word+"\n")); err != nil {
				return err
			}
		}
		if out == "" {
			_, err := cmd.OutOrStdout().Write(text)
			return err
		}
		if err := natsd.WritePrivate(out, text); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s holds the accounts of %s now; if NATS runs, reload it twice, some seconds apart\n", out, several(len(s.teams), "team"))
		return nil
	}
	return cmd
}

var accountName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// natsConfig is the configuration for an outside server. It makes the passwords that are missing.
func (s *settings) natsConfig(account string) ([]byte, error) {
	var err error
	if s.stream.Prefixes, err = s.prefixes(); err != nil {
		return nil, err
	}
	outside := natsd.Outside{Account: account, Streams: jetstream.TeamStreams(s.stream.Stream), Teams: sortedNames(s.teams)}
	outside.Publish, outside.Subscribe = jetstream.RelayRights(s.stream)
	if outside.Hashes, err = s.keys().Ensure(append([]string{natsd.RelayUser, natsd.OperatorUser}, outside.Teams...)...); err != nil {
		return nil, err
	}
	return outside.Config()
}
