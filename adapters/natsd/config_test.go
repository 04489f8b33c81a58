package natsd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// An outside is a NATS server with a configuration of its own, into which the printed one is
// included.
type outside struct {
	dir  string
	keys *Keys
	conf Outside
}

const loopbackConf = `host: 127.0.0.1
port: -1
jetstream { store_dir: "%s" }
include accounts.conf
`

func newOutside(t testing.TB, teams ...string) *outside {
	t.Helper()
	dir := t.TempDir()
	o := &outside{dir: dir, keys: OpenKeys(filepath.Join(dir, "keys")), conf: Outside{
		Account: "TOGETHER", Streams: []string{"TOGETHER", "TOGETHER_REPLAY"}, Publish: []string{"together.>"}, Subscribe: []string{"_INBOX_relay.>"},
	}}
	o.print(t, teams...)
	return o
}

// print writes the configuration for the teams.
func (o *outside) print(t testing.TB, teams ...string) {
	t.Helper()
	hashes, err := o.keys.Ensure(append([]string{RelayUser, OperatorUser}, teams...)...)
	if err != nil {
		t.Fatal(err)
	}
	o.conf.Teams, o.conf.Hashes = teams, hashes
	text, err := o.conf.Config()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.dir, "accounts.conf"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (o *outside) user(t testing.TB, name string) user {
	t.Helper()
	password, err := o.keys.Password(name)
	if err != nil {
		t.Fatal(err)
	}
	return user{name, password}
}

// start runs a server with its own configuration, named nats.conf.
func (o *outside) start(t testing.TB, name, own string) *server.Server {
	t.Helper()
	path := filepath.Join(o.dir, name)
	if err := os.WriteFile(path, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(path)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs = true
	ns, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(waitFor) {
		t.Fatal("the server did not start")
	}
	return ns
}

func (o *outside) stage(t testing.TB, url string) *stage {
	t.Helper()
	return &stage{events: "TOGETHER", copies: "TOGETHER_REPLAY", letters: "TOGETHER_DLQ", reports: "TOGETHER_ADVISORIES",
		url: url, operator: o.user(t, OperatorUser), team: o.user(t, "ml"), other: o.user(t, "billing")}
}

func TestForbiddenOutside(t *testing.T) {
	t.Parallel()
	o := newOutside(t, "ml", "billing")
	ns := o.start(t, "nats.conf", fmt.Sprintf(loopbackConf, filepath.Join(o.dir, "js")))
	o.stage(t, ns.ClientURL()).tryForbidden(t)
}

// takes is what a team does with its own, at one of the servers, with each kind of answer. No
// request is left behind: in a cluster one that nobody waits for any more takes a message, which
// comes again when the time to acknowledge it is over.
func (s *stage) takes(t testing.TB, url string, u user, js jetstream.JetStream) {
	t.Helper()
	nc := connect(t, url, u.options()...)
	for stream, subject := range map[string]string{s.events: "together.batch.done.b1", s.copies: "relay.replay." + u.name + ".together.batch.done.b1"} {
		c := consumerOf(t, nc, stream, u.name)
		if _, err := c.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
		all, err := c.FetchNoWait(1000)
		if err != nil {
			t.Fatal(err)
		}
		for msg := range all.Messages() {
			_ = msg.Ack()
		}
		next := func(what string) jetstream.Msg {
			t.Helper()
			for {
				msg, err := c.Next(jetstream.FetchMaxWait(waitFor))
				if err != nil {
					t.Fatalf("%s takes nothing from %s at %s: %s: %v", u.name, stream, url, what, err)
				}
				if string(msg.Data()) == "x" {
					return msg
				}
				_ = msg.Ack() // somebody else is busy
			}
		}
		for _, answer := range []func(jetstream.Msg) error{
			func(m jetstream.Msg) error { return m.DoubleAck(t.Context()) },
			func(m jetstream.Msg) error { return errors.Join(m.InProgress(), m.DoubleAck(t.Context())) },
			func(m jetstream.Msg) error {
				return errors.Join(m.NakWithDelay(time.Millisecond), next("what was refused").DoubleAck(t.Context()))
			},
			func(m jetstream.Msg) error { return m.TermWithReason("it is of no use") },
		} {
			if _, err := js.Publish(t.Context(), subject, []byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := answer(next("what is new")); err != nil {
				t.Fatalf("%s answers on %s at %s: %v", u.name, stream, url, err)
			}
		}
	}
}

func TestTeamsTakeTheirOwnOutside(t *testing.T) {
	t.Parallel()
	for _, ack := range []string{"", "feature_flags { js_ack_fc_v2: true }"} { // both forms of acknowledging
		o := newOutside(t, "ml", "billing")
		ns := o.start(t, "nats.conf", fmt.Sprintf(loopbackConf, filepath.Join(o.dir, "js"))+"websocket { host: 127.0.0.1, port: -1, no_tls: true }\n"+ack+"\n")
		for _, url := range []string{ns.ClientURL(), ns.WebsocketURL()} {
			o.stage(t, url).tryAllowed(t)
		}
	}
}

func TestTeamsTakeTheirOwnInACluster(t *testing.T) {
	t.Parallel()
	o := newOutside(t, "ml", "billing")
	all := o.cluster(t)
	s := o.stage(t, all[0].ClientURL())
	js := s.js(t)
	s.build(t, js)
	for _, ns := range all {
		s.takes(t, ns.ClientURL(), s.team, js)
	}
	// One more team, told to one node after the other. The others notice nothing.
	busy := s.busy(t, all[1].ClientURL())
	o.print(t, "ml", "billing", "new")
	for _, ns := range all {
		reload(t, ns)
	}
	s.other = o.user(t, "new")
	s.build(t, js)
	for _, ns := range all {
		s.takes(t, ns.ClientURL(), s.other, js)
		s.takes(t, ns.ClientURL(), s.team, js)
	}
	busy()
}

// busy publishes as the operator and takes as a team until it is called, without a single error.
// No connection of theirs ends.
func (s *stage) busy(t testing.TB, url string) (stop func()) {
	t.Helper()
	var failures []error
	var sent, taken atomic.Int64
	operator, team := connect(t, url, s.operator.options()...), connect(t, url, s.other.options()...)
	js, err := jetstream.New(operator)
	if err != nil {
		t.Fatal(err)
	}
	c := consumerOf(t, team, s.events, s.other.name)
	consuming, err := c.Consume(func(msg jetstream.Msg) { taken.Add(1); _ = msg.Ack() })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		for ctx.Err() == nil {
			if _, err := js.Publish(t.Context(), "together.batch.done.b9", []byte("busy"), jetstream.WithRetryAttempts(0)); err != nil {
				failures = append(failures, err)
			}
			sent.Add(1)
			<-time.After(5 * time.Millisecond)
		}
	})
	return func() {
		cancel()
		work.Wait()
		for end := time.Now().Add(waitFor); taken.Load() < sent.Load() && time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		}
		consuming.Stop()
		<-consuming.Closed()
		if len(failures) > 0 || sent.Load() == 0 || taken.Load() < sent.Load() || operator.Stats().Reconnects+team.Stats().Reconnects > 0 {
			t.Errorf("%d events published, %d taken, failures %v, reconnects %d and %d", sent.Load(), taken.Load(), failures, operator.Stats().Reconnects, team.Stats().Reconnects)
		}
	}
}

// A reload with another team changes nothing for those who are connected. One whose password is
// another, or who is gone, is put out.
func TestOutsideReload(t *testing.T) {
	t.Parallel()
	o := newOutside(t, "ml", "billing")
	ns := o.start(t, "nats.conf", fmt.Sprintf(loopbackConf, filepath.Join(o.dir, "js")))
	s := o.stage(t, ns.ClientURL())
	js := s.js(t)
	s.build(t, js)
	busy := s.busy(t, s.url)
	for i := range 3 {
		name := fmt.Sprintf("more-%d", i)
		o.print(t, "ml", "billing", name)
		reload(t, ns)
		s.takes(t, s.url, s.team, js)
		s.other = o.user(t, name)
		s.build(t, js)
		s.takes(t, s.url, s.other, js)
	}
	busy()
	s.other = o.user(t, "billing")

	gone, changed, stays := connect(t, s.url, o.user(t, "more-2").options()...), connect(t, s.url, s.team.options()...), connect(t, s.url, s.other.options()...)
	old := s.team
	if err := o.keys.Renew("ml"); err != nil {
		t.Fatal(err)
	}
	o.print(t, "ml", "billing")
	reload(t, ns)
	for end := time.Now().Add(waitFor); gone.IsConnected() || changed.IsConnected(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("who may not come in any more is still there")
		}
	}
	for _, u := range []user{old, {"more-2", "x"}, {}} {
		if nc, err := nats.Connect(s.url, u.options()...); err == nil {
			nc.Close()
			t.Errorf("%q comes in", u.name)
		}
	}
	s.team = o.user(t, "ml")
	s.takes(t, s.url, s.team, js)
	if !stays.IsConnected() || stays.Stats().Reconnects > 0 {
		t.Error("a team that nothing has changed for was put out")
	}
}

// A request waits as long as in the embedded server, and the server takes the whole.
func TestOutsideOfAThousandTeams(t *testing.T) {
	t.Parallel()
	o := newOutside(t)
	var teams []string
	for i := range 1000 {
		teams = append(teams, fmt.Sprintf("team-number-%03d", i))
	}
	o.conf.Hashes = map[string]string{}
	_, hash, err := newPassword()
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range append(teams, RelayUser, OperatorUser) {
		o.conf.Hashes[user] = hash
	}
	o.conf.Teams = teams
	text, err := o.conf.Config()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.dir, "accounts.conf"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ns := o.start(t, "nats.conf", fmt.Sprintf(loopbackConf, filepath.Join(o.dir, "js")))
	started := time.Since(began)
	began = time.Now()
	if err := ns.Reload(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d teams are %d bytes; the server starts in %s and reloads in %s", len(teams), len(text), started, time.Since(began))
	streams, err := ns.LookupAccount("TOGETHER")
	if err != nil {
		t.Fatal(err)
	}
	for _, export := range slices.Concat(rightsOf("*", o.conf.Streams).Info, rightsOf("*", o.conf.Streams).Next) {
		if wait, err := streams.ServiceExportResponseThreshold(export); err != nil || wait != longestPull {
			t.Errorf("%s waits %s, %v; want %s", export, wait, err, longestPull)
		}
	}
}

// reload is what the text at the top of the configuration says: once makes the accounts that are
// new, and only once more lets through what they import.
func reload(t testing.TB, ns *server.Server) {
	t.Helper()
	for range 2 {
		if err := ns.Reload(); err != nil {
			t.Fatal(err)
		}
	}
}

func consumerOf(t testing.TB, nc *nats.Conn, stream, name string) jetstream.Consumer {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(t.Context(), stream, name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// free are ports of the loopback interface that nobody listens on.
func free(t testing.TB, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// cluster runs three servers with the printed configuration.
func (o *outside) cluster(t testing.TB) []*server.Server {
	t.Helper()
	ports := free(t, 3)
	var routes []string
	for _, port := range ports {
		routes = append(routes, fmt.Sprintf(`"nats://127.0.0.1:%d"`, port))
	}
	var all []*server.Server
	for i, port := range ports {
		name := fmt.Sprintf("n%d", i+1)
		own := fmt.Sprintf(loopbackConf, filepath.Join(o.dir, name)) +
			fmt.Sprintf("server_name: %s\ncluster { name: relay, listen: \"127.0.0.1:%d\", routes: [%s] }\n", name, port, strings.Join(routes, ", "))
		all = append(all, o.start(t, name+".conf", own))
	}
	for end := time.Now().Add(3 * waitFor); !slices.ContainsFunc(all, (*server.Server).JetStreamIsLeader) || all[0].NumRoutes() == 0 || !all[2].JetStreamIsCurrent() || !all[1].JetStreamIsCurrent() || !all[0].JetStreamIsCurrent(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the cluster has no leader")
		}
	}
	return all
}

func TestForbiddenInACluster(t *testing.T) {
	t.Parallel()
	o := newOutside(t, "ml", "billing")
	all := o.cluster(t)
	s := o.stage(t, all[1].ClientURL())
	s.try(t, slices.DeleteFunc(s.acts(), func(a act) bool { // between nodes, answers matter
		return !strings.HasPrefix(a.name, "answer of") && !strings.Contains(a.name, "next of") && !strings.Contains(a.name, "hear _")
	}))
}

// A team comes as a client. A server that poses as one, which could bring subjects of its own, is
// not let in.
func TestTeamsBringNoServers(t *testing.T) {
	t.Parallel()
	o := newOutside(t, "ml", "billing")
	port := free(t, 1)[0]
	ns := o.start(t, "nats.conf", fmt.Sprintf(loopbackConf, filepath.Join(o.dir, "js"))+fmt.Sprintf("leafnodes { listen: \"127.0.0.1:%d\" }\n", port))
	leaf := func(name string, u user) *server.Server {
		return o.start(t, name, fmt.Sprintf("host: 127.0.0.1\nport: -1\nleafnodes { reconnect: \"50ms\", remotes: [{ url: \"nats://%s:%s@127.0.0.1:%d\" }] }\n", u.name, u.password, port))
	}
	leaf("team.conf", o.user(t, "ml"))
	leaf("operator.conf", o.user(t, OperatorUser))
	for end := time.Now().Add(waitFor); ns.NumLeafNodes() == 0; <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the operator's server does not get in either: that the team's does not proves nothing")
		}
	}
	leafz, err := ns.Leafz(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range leafz.Leafs {
		if one.Account != "TOGETHER" {
			t.Errorf("a server is in account %s", one.Account)
		}
	}
}
