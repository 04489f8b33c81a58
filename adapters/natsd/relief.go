package natsd

import (
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// mostWaysBack is how many answers may be waited for at the same time, or have come lately: NATS
// keeps a way back to the team's account for each request, and forgets it after LongestPull
// without an answer. Each takes about 320 bytes.
const mostWaysBack = 1_000_000

// relieve keeps a team that sends request after request from taking all memory. Above the most ways
// back it counts what each team sends until the next call, and closes the connections of the one that
// sent most; the ways back to them go with them.
func (g *gate) relieve() error {
	if g.ns.GlobalAccount().NumPendingAllResponses() <= g.waysBack {
		g.sent = nil
		return nil
	}
	all, err := g.ns.Connz(&server.ConnzOptions{Username: true, Limit: g.ns.NumClients() + 1000})
	if err != nil {
		return err
	}
	sent, of, most := map[uint64]int64{}, map[string]int64{}, ""
	for _, c := range all.Conns {
		team, ok := strings.CutPrefix(c.Account, accountOf)
		if !ok {
			continue
		}
		sent[c.Cid] = c.InMsgs
		if of[team] += c.InMsgs - g.sent[c.Cid]; of[team] > of[most] {
			most = team
		}
	}
	first := g.sent == nil
	g.sent = sent
	if first || most == "" {
		return nil
	}
	g.log.Warn().Str("team", most).Int64("requests", of[most]).
		Msg("a team sends requests faster than they can be forgotten, and fills the memory; its connections are closed. It should ask for more events at a time")
	for _, c := range all.Conns {
		if c.Account == accountOf+most {
			_ = g.ns.DisconnectClientByID(c.Cid) // it may be gone
		}
	}
	return nil
}
