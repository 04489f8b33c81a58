package natsd

import (
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
)

// teamRights is what a team may do: ask for the state of its consumers and for their next
// messages, acknowledge, and hear the answers. On each of the streams its consumer has the team's
// name. Nothing else is needed to take events, and nothing else is allowed.
type teamRights struct {
	Info, Next []string // one subject for each stream
	Ack        []string // both forms of each: a server may use the second one
	Hear       []string // inboxes, in the team's own account
}

// rightsOf lists what the team may do.
func rightsOf(team string, streams []string) teamRights {
	r := teamRights{Hear: []string{"_INBOX.>", "_INBOX_" + team + ".>"}}
	for _, stream := range streams {
		own := stream + "." + team
		r.Info = append(r.Info, "$JS.API.CONSUMER.INFO."+own)
		r.Next = append(r.Next, "$JS.API.CONSUMER.MSG.NEXT."+own)
		// The number of tokens matters. A short subject of the second form would be one of the first
		// form as well, with another team's name in it: that team's next message could be asked for.
		r.Ack = append(r.Ack, "$JS.ACK."+own+".*.*.*.*.*", "$JS.ACK.*.*."+own+".*.*.*.*.>")
	}
	return r
}

// Send lists the subjects that the team may publish to, in its account. The requests to the API
// stand there twice: permissions are looked at before a subject is mapped, and after.
func (r teamRights) Send() []string {
	var all []string
	for _, api := range slices.Concat(r.Info, r.Next) {
		all = append(all, api, imported(api))
	}
	return append(all, r.Ack...)
}

// imported is the name that a request to the API has in the team's account. NATS answers what is
// sent below $JS.API in the account of who asks, and no stream is there. So the account imports
// the subject by another name, and maps what every client sends to it.
func imported(api string) string { return "TEAM" + api[len("$JS"):] }

// longestPull is how long the way back to a team's account is kept open for a request that is not
// answered. A message that is found later for it has nowhere to go, and is delivered again.
const longestPull = 10 * time.Minute

// accountOf begins the name of a team's account.
const accountOf = "team-"

// limit gives the account of a team the same limits as Config writes. It wants to be called first: it
// takes away what the account imports. How many connections there are the gate looks at.
func (g *gate) limit(acc *server.Account) {
	claims := &jwt.AccountClaims{Account: jwt.Account{Limits: jwt.OperatorLimits{
		NatsLimits:    jwt.NatsLimits{Subs: maxSubscriptions, Payload: maxPayload, Data: jwt.NoLimit},
		AccountLimits: jwt.AccountLimits{Conn: jwt.NoLimit},
	}}}
	g.ns.UpdateAccountClaims(acc, claims)
}

// account returns the account of the team, and makes it the first time: with the imports that let
// its requests through to the account of the streams, and nothing else.
func (g *gate) account(team string) (*server.Account, error) {
	if acc := g.accounts[team]; acc != nil {
		return acc, nil
	}
	streams := g.ns.GlobalAccount()
	acc, _ := g.ns.LookupOrRegisterAccount(accountOf + team)
	g.limit(acc)
	let := func(export string, answer server.ServiceRespType, from, to string) error {
		// One export serves all teams: each import names the team's own consumer.
		if err := streams.AddServiceExportWithResponse(export, answer, []*server.Account{acc}); err != nil {
			return err
		}
		if err := streams.SetServiceExportResponseThreshold(export, longestPull); err != nil {
			return err
		}
		return acc.AddServiceImport(streams, from, to)
	}
	rights, all := rightsOf(team, g.streams), rightsOf("*", g.streams)
	for i, info := range rights.Info {
		if err := let(all.Info[i], server.Singleton, imported(info), info); err != nil {
			return nil, err
		}
	}
	for i, next := range rights.Next {
		if err := let(all.Next[i], server.Streamed, imported(next), next); err != nil {
			return nil, err
		}
	}
	for i, ack := range rights.Ack {
		if err := let(all.Ack[i], server.Singleton, ack, ack); err != nil {
			return nil, err
		}
	}
	for _, api := range slices.Concat(rights.Info, rights.Next) {
		if err := acc.AddMapping(api, imported(api)); err != nil {
			return nil, err
		}
	}
	g.accounts[team] = acc
	return acc, nil
}
