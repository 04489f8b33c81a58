package natsd

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// mostWaysBack is how many answers may be waited for at the same time, or have come lately: NATS
// keeps a way back to the team's account for each request, and forgets it after LongestPull
// without an answer. Each takes about 320 bytes.
const mostWaysBack = 1_000_000

// mostSubscriptions is how many subscriptions a team may have, over all its connections. What it is
// sent goes to each that hears it, and whatever else a stream sends waits as long.
const mostSubscriptions = 10_000

// A team that has more is put out, and stays out for a while.
const (
	thinEvery = 50 * time.Millisecond // a million can be made in a second
	thinFor   = 10 * time.Second
)

// thin puts out teams that have too many subscriptions, until ctx is done.
func (g *gate) thin(ctx context.Context) {
	tick := time.NewTicker(thinEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, team := range g.crowds() {
			all, err := g.ns.Connz(&server.ConnzOptions{Account: accountOf + team, Limit: g.ns.NumClients() + 1000})
			if err != nil {
				g.log.Error().Err(err).Str("team", team).Msg("the connections of a team cannot be listed")
				continue
			}
			for _, c := range all.Conns {
				_ = g.ns.DisconnectClientByID(c.Cid) // it may be gone
			}
		}
	}
}

// crowds names the teams that have too many subscriptions. None of them comes in for a while.
func (g *gate) crowds() (teams []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, one := range g.logins {
		if !one.team {
			continue
		}
		if n := one.user.Account.TotalSubs(); n > mostSubscriptions {
			if time.Now().After(one.out) {
				g.log.Warn().Str("team", name).Int("subscriptions", n).Int("most", mostSubscriptions).Stringer("for", thinFor).
					Msg("a team has more subscriptions than it may have; its connections are closed, and it does not come in for a while")
			}
			one.out = time.Now().Add(thinFor)
			teams = append(teams, name)
		}
	}
	return teams
}

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
