package natsd

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// Outside is what a NATS server that runs by itself has to be told, so that it keeps teams apart
// as the embedded one does.
type Outside struct {
	Account   string            // that of the streams
	Streams   []string          // on each of which a team has a consumer of its name
	Publish   []string          // what the relay may send
	Subscribe []string          // what the relay may hear
	Teams     []string          // in any order
	Hashes    map[string]string // of the passwords of the relay, the operator and the teams
}

// What one team may have at most, so that it takes nothing from others.
const (
	maxSubscriptions = 1000     // of one connection
	maxPayload       = 64 << 10 // bytes of a request or an acknowledgement; what it is sent may be larger
)

// connectionTypes are the protocols over which a team may come. Of the others, leaf nodes and
// gateways of MQTT bring subjects of their own.
func connectionTypes() []string { return []string{"STANDARD", "WEBSOCKET"} }

// Config is the part of the server's configuration that says who may connect and do what. It is the
// same text for the same content.
func (o Outside) Config() ([]byte, error) {
	teams := slices.Sorted(slices.Values(o.Teams))
	for _, user := range append([]string{RelayUser, OperatorUser}, teams...) {
		if o.Hashes[user] == "" {
			return nil, fmt.Errorf("write the configuration of NATS: %s has no password", user)
		}
	}
	c := &conf{}
	c.Write([]byte(header))
	c.open("accounts {")
	c.streams(o, teams)
	for _, team := range teams {
		c.team(o, team)
	}
	c.close("}")
	return c.Bytes(), nil
}

const header = `# Who may connect to NATS, and what each may do: printed by together-relay teams nats-config.
#
# Include it in the server's own configuration, on every node of a cluster:
#
#   include accounts.conf
#
# The path is relative to that file. Everything else stays there: listen, jetstream, sync_interval,
# cluster, tls. It must have no accounts of its own beside these; if you need more, put them between
# the braces below. Leave no_auth_user out: with it, whoever gives no password comes in.
# Nobody can log in to the system account, unless you give it a user.
#
# Here are bcrypt hashes alone. The passwords lie in the directory of keys, keys below the relay's
# data directory: together-relay.password is for NATS_PASSWORD_FILE of the relay,
# together-operator.password is for people and the command line, and together-relay teams creds NAME
# hands a team its own.
#
# Print it again when teams have changed, then reload twice, some seconds apart: nats-server --signal
# reload, or SIGHUP. The first makes the account of a team that is new, and only the second lets
# through what it may ask for. Who is connected notices nothing.
`

// A conf is text that is being written.
type conf struct {
	bytes.Buffer
	depth int
}

func (c *conf) line(format string, args ...any) {
	fmt.Fprintf(c, "%s%s\n", strings.Repeat("  ", c.depth), fmt.Sprintf(format, args...))
}

func (c *conf) open(format string, args ...any) {
	c.line(format, args...)
	c.depth++
}

func (c *conf) close(bracket string) {
	c.depth--
	c.line("%s", bracket)
}

// list writes one subject on a line: what changes is easy to see then.
func (c *conf) list(name string, subjects []string) {
	c.open("%s: [", name)
	for _, subject := range subjects {
		c.line("%q", subject)
	}
	c.close("]")
}

func (c *conf) user(name, hash string, publish, subscribe, types []string) {
	c.open("{")
	c.line("user: %q", name)
	c.line("password: %q", hash)
	if types != nil {
		c.line("allowed_connection_types: [%s]", strings.Join(types, ", "))
	}
	if publish != nil {
		c.open("permissions {")
		c.list("publish", publish)
		c.list("subscribe", subscribe)
		c.close("}")
	}
	c.close("}")
}

// streams writes the account of the streams, with what it lets through for the teams. One export
// serves all of them, as in the embedded server: each imports what names its own consumer.
func (c *conf) streams(o Outside, teams []string) {
	c.open("%q {", o.Account)
	c.line("jetstream: enabled")
	c.open("users: [")
	c.user(OperatorUser, o.Hashes[OperatorUser], nil, nil, nil)
	c.user(RelayUser, o.Hashes[RelayUser], o.Publish, o.Subscribe, nil)
	c.close("]")
	if len(teams) > 0 {
		accounts := make([]string, len(teams))
		for i, team := range teams {
			accounts[i] = fmt.Sprintf("%q", accountOf+team)
		}
		c.open("exports: [")
		export := func(service string, answer server.ServiceRespType) {
			c.open("{")
			c.line("service: %q", service)
			if answer == server.Streamed {
				c.line("response_type: stream")
			}
			c.line("response_threshold: %q", longestPull)
			c.line("accounts: [%s]", strings.Join(accounts, ", "))
			c.close("}")
		}
		all := rightsOf("*", o.Streams)
		for _, service := range all.Info {
			export(service, server.Singleton)
		}
		for _, service := range all.Next {
			export(service, server.Streamed)
		}
		for _, service := range all.Ack {
			export(service, server.Singleton)
		}
		c.close("]")
	}
	c.close("}")
}

// team writes the account of one team.
func (c *conf) team(o Outside, team string) {
	rights := rightsOf(team, o.Streams)
	apis := slices.Concat(rights.Info, rights.Next)
	c.open("%q {", accountOf+team)
	c.line("limits { max_connections: %d, max_subscriptions: %d, max_payload: %d, max_leafnodes: 0 }", maxConnections, maxSubscriptions, maxPayload)
	c.open("users: [")
	c.user(team, o.Hashes[team], rights.Send(), rights.Hear, connectionTypes())
	c.close("]")
	c.open("imports: [")
	for _, api := range apis {
		c.line("{ service: { account: %q, subject: %q }, to: %q }", o.Account, api, imported(api))
	}
	for _, ack := range rights.Ack {
		c.line("{ service: { account: %q, subject: %q } }", o.Account, ack)
	}
	c.close("]")
	c.open("mappings {")
	for _, api := range apis {
		c.line("%q: %q", api, imported(api))
	}
	c.close("}")
	c.close("}")
}
