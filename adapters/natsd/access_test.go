package natsd

import (
	"testing"
)

// newStage is the embedded server with two teams.
func newStage(t testing.TB) (*Server, *stage) {
	t.Helper()
	cfg := local(t)
	cfg.Websocket = "127.0.0.1:0"
	st := &stage{events: "TOGETHER", copies: "TOGETHER_REPLAY", letters: "TOGETHER_DLQ", reports: "TOGETHER_ADVISORIES"}
	cfg.Keys, cfg.Streams = OpenKeys(KeysDir(cfg.Dir)), []string{st.events, st.copies}
	s := startServer(t, cfg)
	setTeams(t, s, "ml", "billing")
	st.url, st.operator, st.team, st.other = s.URL(), key(t, s, OperatorUser), key(t, s, "ml"), key(t, s, "billing")
	return s, st
}

func setTeams(t testing.TB, s *Server, teams ...string) {
	t.Helper()
	if err := s.SetTeams(teams); err != nil {
		t.Fatal(err)
	}
}

// key is the user with its password.
func key(t testing.TB, s *Server, name string) user {
	t.Helper()
	password, err := s.gate.keys.Password(name)
	if err != nil {
		t.Fatal(err)
	}
	return user{name, password}
}

func TestForbidden(t *testing.T) {
	t.Parallel()
	for _, over := range []string{"TCP", "WebSocket"} {
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			s, st := newStage(t)
			if over == "WebSocket" {
				st.url = s.ns.WebsocketURL()
			}
			st.tryForbidden(t)
		})
	}
}

func TestForbiddenIsForbiddenToTeamsAlone(t *testing.T) {
	t.Parallel()
	_, st := newStage(t)
	st.tryAsOperator(t)
}
