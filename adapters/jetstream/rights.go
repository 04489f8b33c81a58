package jetstream

import (
	"slices"

	"github.com/rs/zerolog"
)

// RelayRights lists the subjects that a relay has to publish and subscribe to, and no others: a
// user with these rights can run one. It may make streams and consumers of its own, and change
// them if it may provision, but delete and empty none; and it sees no other stream.
func RelayRights(cfg Config) (publish, subscribe []string) {
	const api = "$JS.API."
	makes := cfg.Provision != ProvisionCheck
	allow := func(subjects ...string) { publish = append(publish, subjects...) }
	l := newLog(cfg, zerolog.Nop())
	allow(l.subjects()...)
	allow(deadRoot + ".dlq.>")

	for _, stream := range append(l.wanted(), l.beside()...) {
		name := stream.Name
		allow(api + "STREAM.INFO." + name)
		if makes {
			allow(api+"STREAM.CREATE."+name, api+"STREAM.UPDATE."+name)
		}
		if name != advisoryStream(cfg.Stream) {
			allow(api+"DIRECT.GET."+name, api+"STREAM.MSG.GET."+name) // from a replica, or from the leader
		}
	}

	// Consumers of teams, whatever they are called.
	for _, name := range TeamStreams(cfg.Stream) {
		allow(api+"CONSUMER.LIST."+name, api+"CONSUMER.INFO."+name+".*")
		if makes {
			allow(api+"CONSUMER.CREATE."+name+".*", api+"CONSUMER.PAUSE."+name+".*")
		}
	}

	// What NATS says of deliveries is taken by a consumer of the relay's own. The number of tokens
	// matters: a short subject of the second form would acknowledge for a team.
	own := advisoryStream(cfg.Stream) + "." + advisoryConsumer
	allow(api+"CONSUMER.INFO."+own, api+"CONSUMER.MSG.NEXT."+own)
	if makes {
		allow(api + "CONSUMER.CREATE." + own)
	}
	allow("$JS.ACK."+own+".*.*.*.*.*", "$JS.ACK.*.*."+own+".*.*.*.*.>")

	// A relay hears the same, and tells the stream what that may have missed.
	allow(advisorySubjects(cfg.Stream)...)

	// The watcher's marks are read by a consumer that is gone a moment later. To make a bucket, the
	// client asks for the account's limits.
	if makes {
		allow(api + "INFO")
	}
	marks := watchStream(cfg.Stream)
	for _, bucket := range []string{watchBucket(cfg.Stream), turnBucket(cfg.Stream)} {
		allow("$KV."+bucket+".>", api+"STREAM.INFO.KV_"+bucket, api+"DIRECT.GET.KV_"+bucket+".$KV."+bucket+".>")
		if makes {
			allow(api + "STREAM.CREATE.KV_" + bucket)
		}
	}
	allow(api+"CONSUMER.CREATE."+marks+".*.$KV."+watchBucket(cfg.Stream)+".>", api+"CONSUMER.DELETE."+marks+".*", "$JS.FC."+marks+".>")

	allow(userInfo)
	slices.Sort(publish)
	return slices.Compact(publish), append(advisorySubjects(cfg.Stream), relayInbox+".>")
}

// A may is what a user may do, as the server tells it.
type may struct {
	Publish, Subscribe struct{ Allow, Deny []string }
}

// unbound says whether a list lets through whatever is not denied.
func unbound(allow []string) bool { return len(allow) == 0 || slices.Contains(allow, ">") }

// hears says whether it may subscribe to everything. Single messages may be kept from it.
func (m may) hears() bool {
	return unbound(m.Subscribe.Allow) && !slices.Contains(m.Subscribe.Deny, ">")
}

// speaks says whether it may publish to a subject that nobody has named.
func (m may) speaks() bool {
	reaches := func(list []string) bool { return holds(list, probeSubject+".x") }
	return (unbound(m.Publish.Allow) || reaches(m.Publish.Allow)) && !reaches(m.Publish.Deny)
}

// against lists what goes beyond the rights of a relay, and what of them is not there. What is unbound
// goes beyond all, and is not listed.
func (m may) against(publish, subscribe []string) (wider, lacks []string) {
	for _, side := range []struct{ allow, deny, need []string }{{m.Publish.Allow, m.Publish.Deny, publish}, {m.Subscribe.Allow, m.Subscribe.Deny, subscribe}} {
		for _, subject := range side.allow {
			if subject != ">" && !holds(side.need, subject) {
				wider = append(wider, subject)
			}
		}
		for _, subject := range side.need {
			denied := slices.ContainsFunc(side.deny, func(pattern string) bool { return collide(subject, pattern) })
			if denied || !unbound(side.allow) && !holds(side.allow, subject) {
				lacks = append(lacks, subject)
			}
		}
	}
	return wider, lacks
}
