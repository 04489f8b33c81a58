package main

import (
	"errors"
	"fmt"
	"io/fs"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/natsd"
)

// keys are the passwords of NATS users, beside the store of the embedded server.
func (s *settings) keys() *natsd.Keys { return natsd.OpenKeys(natsd.KeysDir(s.embedded.Dir)) }

// auth is what a verb proves itself with: what is configured, else, to an embedded server, the
// operator's password in the data directory. Without one nobody is asked for it.
func (s *settings) auth() (jetstream.Auth, error) {
	auth := s.nats.auth
	if s.nats.url != "" || auth.User != "" || auth.Creds != "" || auth.NKey != "" || auth.Token != "" || auth.Cert != "" {
		return auth, nil
	}
	password, err := s.keys().Password(natsd.OperatorUser)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return auth, nil
	case errors.Is(err, natsd.ErrTaken):
		return auth, fmt.Errorf("the password of %s is not in %s any more; set NATS_USER and NATS_PASSWORD, or delete %[1]s.hash there while the relay is stopped, and it makes another",
			natsd.OperatorUser, natsd.KeysDir(s.embedded.Dir))
	case err != nil:
		return auth, fmt.Errorf("the password of %s: %w; run this as the relay's own user, or set NATS_USER and NATS_PASSWORD", natsd.OperatorUser, err)
	}
	auth.User, auth.Password = natsd.OperatorUser, password
	return auth, nil
}

// closed says whether the embedded server asks for passwords: there are teams, or keys of some.
func (s *settings) closed() bool {
	keyed, err := s.keys().Teams()
	return err != nil || len(keyed) > 0 || len(s.teams) > 0
}

// letIn tells the embedded server who the teams are. Without a file nothing is said about teams, so
// those that have a key may go on.
func (s *settings) letIn(server *natsd.Server) error {
	if s.text == nil {
		return server.SetTeams(nil)
	}
	return server.SetTeams(append([]string{}, sortedNames(s.teams)...))
}
