package natsd

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// mostWaysBack is how many answers may be waited for at the same time, or have come lately: NATS
// keeps a way back to the team's account for each request, and forgets it after longestPull
// without an answer. Each takes about 320 bytes.
const mostWaysBack = 1_000_000

// What a team may have over all its connections. What it is sent goes to each subscription that hears
// it, and whatever else a stream sends waits as long. What it does not read stays in memory, up
// to 64 MiB for each connection.
const (
	mostSubscriptions = 10_000
	mostUnread        = 512 << 20 // bytes
)

// A team that has more is put out, and stays out for a while.
const (
	thinEvery   = 50 * time.Millisecond // a million subscriptions can be made in a second
	unreadEvery = 5                     // times that: to list all connections takes longer
	thinFor     = 10 * time.Second
)

// thin puts out teams that have too much, until ctx is done.
func (g *gate) thin(ctx context.Context) {
	defer g.tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-g.tick.C:
		}
		crowds := g.crowds()
		if len(crowds) == 0 && (n%unreadEvery > 0 || g.ns.NumClients() <= int(g.unread.Load()/server.MAX_PENDING_SIZE)) {
			continue
		}
		all, err := g.connections()
		if err != nil {
			g.log.Error().Err(err).Msg("the connections of teams cannot be listed")
			continue
		}
		unread, most := map[string]int{}, int(g.unread.Load())
		for _, c := range all.Conns {
			unread[c.Account] += c.Pending
		}
		for _, c := range all.Conns {
			team, ok := strings.CutPrefix(c.Account, accountOf)
			if !ok || !crowds[team] && unread[c.Account] <= most {
				continue
			}
			if !crowds[team] {
				crowds[team] = true
				g.putOut(team, "unread bytes", unread[c.Account], most)
			}
			_ = g.ns.DisconnectClientByID(c.Cid) // it may be gone
		}
	}
}

// connections lists all that there are.
func (g *gate) connections() (*server.Connz, error) {
	return g.ns.Connz(&server.ConnzOptions{Username: true, Limit: g.ns.NumClients() + 1000})
}

// crowds names the teams that have too many subscriptions, and puts them out.
func (g *gate) crowds() map[string]bool {
	g.mu.Lock()
	counts := map[string]int{}
	for name, one := range g.logins {
		if one.team {
			if n := one.user.Account.TotalSubs(); n > mostSubscriptions {
				counts[name] = n
			}
		}
	}
	g.mu.Unlock()
	crowds := map[string]bool{}
	for name, n := range counts {
		crowds[name] = true
		g.putOut(name, "subscriptions", n, mostSubscriptions)
	}
	return crowds
}

// putOut keeps a team from coming in for a while, and says why.
func (g *gate) putOut(team, what string, n, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.logins[team]
	if one == nil {
		return
	}
	if now := time.Now(); now.After(one.out) {
		g.log.Warn().Str("team", team).Str("of", what).Int("has", n).Int("most", most).Stringer("for", thinFor).
			Msg("a team has more than it may have; its connections are closed, and it does not come in for a while")
	}
	one.out = time.Now().Add(thinFor)
}

// relieve keeps a team that sends request after request from taking all memory. Above the most ways
// back it counts what each team sends until the next call, and closes the connections of the one that
// sent most; the ways back to them go with them.
func (g *gate) relieve() error {
	if g.ns.GlobalAccount().NumPendingAllResponses() <= g.waysBack {
		g.sent = nil
		return nil
	}
	all, err := g.connections()
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
