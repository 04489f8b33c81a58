package natsd

// TeamRights is what a team may send: requests for the state of its consumers and for their next
// messages, and acknowledgements. On each of the streams its consumer has the team's name.
// Nothing else is needed to take events, and nothing else is allowed.
type TeamRights struct {
	Info, Next []string // one subject for each stream
	Ack        []string // both forms of each: a server may use the second one
}

// RightsOf lists what the team may send.
func RightsOf(team string, streams []string) TeamRights {
	var r TeamRights
	for _, stream := range streams {
		own := stream + "." + team
		r.Info = append(r.Info, "$JS.API.CONSUMER.INFO."+own)
		r.Next = append(r.Next, "$JS.API.CONSUMER.MSG.NEXT."+own)
		r.Ack = append(r.Ack, "$JS.ACK."+own+".>", "$JS.ACK.*.*."+own+".>")
	}
	return r
}

// Imported is the name that a request to the API has in the team's account. NATS answers what is
// sent below $JS.API in the account of who asks, and no stream is there. So the account imports
// the subject by another name, and maps what every client sends to it.
func Imported(api string) string { return "TEAM" + api[len("$JS"):] }
