package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"together-relay/adapters/together/togethersim"
)

// An outsideNATS is a server with the printed configuration, and keeps what it says.
type outsideNATS struct {
	output
	dir, file string
	ns        *server.Server
}

func (o *outsideNATS) say(format string, v ...any) { fmt.Fprintf(o, format+"\n", v...) }

func (o *outsideNATS) Noticef(string, ...any)         {}
func (o *outsideNATS) Debugf(string, ...any)          {}
func (o *outsideNATS) Tracef(string, ...any)          {}
func (o *outsideNATS) Warnf(format string, v ...any)  { o.say(format, v...) }
func (o *outsideNATS) Errorf(format string, v ...any) { o.say(format, v...) }
func (o *outsideNATS) Fatalf(format string, v ...any) { o.say(format, v...) }

// natsOf prints the configuration for the teams of the file and runs a server with it.
func natsOf(t *testing.T, teams string) *outsideNATS {
	t.Helper()
	o := &outsideNATS{dir: t.TempDir()}
	o.file = filepath.Join(o.dir, "relay.yaml")
	o.print(t, teams)
	o.run(t)
	return o
}

func (o *outsideNATS) store() string { return filepath.Join(o.dir, "store") }

// run starts the server.
func (o *outsideNATS) run(t *testing.T) {
	t.Helper()
	conf := fmt.Sprintf("host: 127.0.0.1\nport: -1\njetstream { store_dir: %q, sync_interval: always }\ninclude accounts.conf\n", o.store())
	opts, err := server.ProcessConfigFile(writeFile(t, filepath.Join(o.dir, "nats.conf"), conf))
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs = true
	if o.ns, err = server.NewServer(opts); err != nil {
		t.Fatal(err)
	}
	o.ns.SetLoggerV2(o, false, false, false)
	o.ns.Start()
	ns := o.ns
	t.Cleanup(func() { endNATS(ns) })
	if !ns.ReadyForConnections(patience) {
		t.Fatal("NATS did not start")
	}
}

func (o *outsideNATS) print(t *testing.T, teams string) {
	t.Helper()
	writeFile(t, o.file, teams)
	r := o.cli(t, withSecret, "teams", "nats-config", "--out="+filepath.Join(o.dir, "accounts.conf"), "--relay-password="+filepath.Join(o.dir, "relay.password"))
	if r.code != exitDone || r.stdout != "" || !strings.Contains(r.stderr, "reload it twice") {
		t.Fatalf("nats-config: %+v", r)
	}
}

// cli runs the command line on the directory of keys, without a relay.
func (o *outsideNATS) cli(t *testing.T, env []string, args ...string) result {
	t.Helper()
	path, err := exec.LookPath("together-relay")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{dir: o.dir, cmd: exec.Command(path)}
	p.cmd.Dir, p.cmd.Env = o.dir, env
	return p.verb(t, append(args, "--config="+o.file)...)
}

// relay is the environment of a relay at the server.
func (o *outsideNATS) relay() []string {
	return slices.Concat(withSecret, []string{"NATS_URL=" + o.ns.ClientURL(), "NATS_USER=together-relay", "NATS_PASSWORD_FILE=" + filepath.Join(o.dir, "relay.password"), "RELAY_CONFIG=" + o.file})
}

// operator is the environment of a person.
func (o *outsideNATS) operator() []string {
	return slices.Concat(withSecret, []string{"NATS_URL=" + o.ns.ClientURL(), "NATS_USER=together-operator", "NATS_PASSWORD_FILE=" + filepath.Join(o.dir, "keys", "together-operator.password")})
}

// as is JetStream as one of the users sees it.
func (o *outsideNATS) as(t *testing.T, user string) jetstream.JetStream {
	t.Helper()
	password, err := os.ReadFile(filepath.Join(o.dir, "keys", user+".password"))
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, strings.Replace(o.ns.ClientURL(), "://", "://"+user+":"+strings.TrimSpace(string(password))+"@", 1))
}

// The relay does all that it does with the rights that are printed, and nobody is refused anything.
func TestRelayAtAnOutsideServer(t *testing.T) {
	t.Parallel()
	const both = "teams: {ml: {events: ['>'], max_deliver: 2, backoff: [100ms]}, billing: {events: [batch.done]}}"
	o := natsOf(t, both)
	d := quiet(t)
	env := append(o.relay(), d.env...)
	a := launch{env: env}.start(t).waitReady(t)
	d.baseline(t, a) // before another one could be the one that watches
	b := launch{env: env}.start(t).waitReady(t)
	operator := o.as(t, "together-operator")

	// Stored, stored twice, a dead letter.
	a.mustSend(t, newBody("evt_1"), http.StatusOK)
	if again := b.mustSend(t, newBody("evt_1"), http.StatusOK); !again.Duplicate {
		t.Errorf("sent again: %+v", again)
	}
	a.mustSend(t, []byte(`{"id":"evt_2","type":"batch.done"}`), http.StatusAccepted)

	// What is watched, and what is registered.
	batch, video := d.world.AddBatch(togethersim.Batch{}), d.world.AddVideo(togethersim.Video{})
	if r := a.verb(t, "watch", "add", video); r.code != exitDone {
		t.Errorf("watch add: %+v", r)
	}
	d.clock.Turn(time.Minute)
	d.world.Move(batch, "completed")
	d.world.Move(video, "completed")
	stored := func(part string) bool {
		r := o.cli(t, o.operator(), "events")
		if r.code != exitDone {
			t.Fatalf("events: %+v", r)
		}
		return strings.Contains(r.stdout, part)
	}
	eventually(t, "what was watched is stored", func() bool { return stored(batch) && stored(video) })
	if r := a.verb(t, "reconcile", "--since=1d", "--fix"); r.code != exitDone {
		t.Errorf("reconcile: %+v", r)
	}

	// Teams take, give up and terminate.
	ml, err := o.as(t, "ml").Consumer(t.Context(), "TOGETHER", "ml")
	if err != nil {
		t.Fatal(err)
	}
	first, err := ml.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.TermWithReason("no use"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // max_deliver
		msg, err := ml.Next()
		if err != nil {
			t.Fatal(err)
		}
		_ = msg.Nak()
	}
	eventually(t, "both are dead letters", func() bool {
		_, _ = ml.Next(jetstream.FetchMaxWait(50 * time.Millisecond)) // NATS says that deliveries are used up when it is asked for more
		letters, err := operator.Stream(t.Context(), "TOGETHER_DLQ")
		if err != nil {
			t.Fatal(err)
		}
		info, err := letters.Info(t.Context(), jetstream.WithSubjectFilter("relay.dlq.team.ml.>"))
		return err == nil && len(info.State.Subjects) == 2
	})

	// A replay is the operator's, and a team takes it.
	if r := o.cli(t, o.operator(), "replay", "--team=billing", "--type=batch.done"); r.code != exitDone {
		t.Errorf("replay: %+v", r)
	}
	billing, err := o.as(t, "billing").Consumer(t.Context(), "TOGETHER_REPLAY", "billing")
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := billing.Next(); err != nil || msg.DoubleAck(t.Context()) != nil {
		t.Errorf("billing takes no replay: %v", err)
	}

	// Changed, taken out, and back; one is new, for whom the server is told.
	settles := func(what string, is func(map[string]teamLine) bool) {
		t.Helper()
		eventually(t, what, func() bool { return is(a.teamLines(t)) })
	}
	o.print(t, "teams: {ml: {events: [batch.done], max_deliver: 3, backoff: [1s]}, new: {events: [batch.done]}}")
	for range 2 {
		if err := o.ns.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	settles("billing is paused, new is made", func(l map[string]teamLine) bool {
		return l["billing"].State == teamRemoved && l["new"].State == "" && len(l["ml"].Drift) == 0 && slices.Equal(l["ml"].Events, []string{"batch.done"})
	})
	if c, err := o.as(t, "new").Consumer(t.Context(), "TOGETHER", "new"); err != nil {
		t.Error(err)
	} else if msg, err := c.Next(); err != nil || msg.DoubleAck(t.Context()) != nil {
		t.Errorf("the new team takes nothing: %v", err)
	}
	a.mustSend(t, newBody("evt_3"), http.StatusOK)
	o.print(t, both)
	for range 2 {
		if err := o.ns.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	settles("billing is back", func(l map[string]teamLine) bool { return l["billing"].State == "" })
	a.mustSend(t, newBody("evt_4"), http.StatusOK)

	// Doctor, as the relay and as the operator.
	listen := "--listen=" + strings.TrimPrefix(a.url, "http://")
	if r := a.verb(t, "doctor", listen, "--config="+o.file); !strings.Contains(r.stdout, "the relay's user may do what a relay needs, and no more") {
		t.Errorf("doctor as the relay: %+v", r)
	}
	if r := o.cli(t, o.operator(), "doctor", listen); r.code != exitDone || !strings.Contains(r.stdout, "together-operator, who may do everything") {
		t.Errorf("doctor as the operator: %+v", r)
	}
	a.stop(t)
	b.stop(t)
	for what, text := range map[string]string{"the server": o.String(), "the relay": a.log.String(), "the other relay": b.log.String()} {
		for line := range strings.Lines(text) {
			if low := strings.ToLower(line); strings.Contains(low, "violation") || strings.Contains(low, "permission") {
				t.Errorf("%s says: %s", what, line)
			}
		}
	}
}

func TestNATSConfigIsTheSame(t *testing.T) {
	t.Parallel()
	o := natsOf(t, "teams: {ml: {events: ['>']}}")
	path := filepath.Join(o.dir, "accounts.conf")
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if r := o.cli(t, withSecret, "teams", "nats-config"); r.code != exitDone || r.stdout != string(first) || r.stderr != "" {
		t.Errorf("printed again it is another: %+v", r)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want mode 0600", info.Mode(), err)
	}
	for _, user := range []string{"together-relay", "together-operator", "ml"} {
		password, err := os.ReadFile(filepath.Join(o.dir, "keys", user+".password"))
		if err != nil || strings.Contains(string(first), strings.TrimSpace(string(password))) {
			t.Errorf("the password of %s is printed, or is not there: %v", user, err)
		}
	}
	for _, word := range []string{"no_auth_user", "websocket", "http", "system_account"} {
		for line := range strings.Lines(string(first)) {
			if !strings.HasPrefix(line, "#") && strings.Contains(line, word) {
				t.Errorf("it says %s", line)
			}
		}
	}
	for range 2 { // it stays
		if r := o.cli(t, withSecret, "teams", "creds", "together-operator"); r.code != exitDone || !strings.Contains(r.stdout, "NATS_USER=together-operator\nNATS_PASSWORD=") {
			t.Errorf("creds of the operator: %+v", r)
		}
	}
	if r := o.cli(t, withSecret, "teams", "creds", "together-relay"); r.code != exitUsage {
		t.Errorf("creds of the relay: %+v", r)
	}
	for _, args := range [][]string{{"--account=$G"}, {"--account=team-x"}, {"--account="}, {"more"}} {
		if r := o.cli(t, withSecret, append([]string{"teams", "nats-config"}, args...)...); r.code != exitUsage {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

// A password in a file is read again for each connection.
func TestNATSPasswordFile(t *testing.T) {
	t.Parallel()
	o := natsOf(t, "log_level: info")
	p := launch{env: o.relay()}.start(t).waitReady(t)
	p.mustSend(t, newBody("evt_1"), http.StatusOK)
	for _, end := range []string{".hash", ".password"} {
		if err := os.Remove(filepath.Join(o.dir, "keys", "together-relay"+end)); err != nil {
			t.Fatal(err)
		}
	}
	o.print(t, "log_level: info")
	if err := o.ns.Reload(); err != nil {
		t.Fatal(err)
	}
	p.waitLog(t, "connection to NATS lost; trying again until it is back")
	p.waitReady(t)
	p.mustSend(t, newBody("evt_2"), http.StatusOK)
	for want, env := range map[string][]string{
		"nats-password (from NATS_PASSWORD) and nats-password-file (from NATS_PASSWORD_FILE) are both set": {"NATS_PASSWORD_FILE=x", "NATS_USER=a", "NATS_PASSWORD=b"},
		"nats-password-file goes with nats-user":                                                           {"NATS_PASSWORD_FILE=x"},
	} {
		if r := o.cli(t, append(env, withSecret...), "config"); r.code != exitUsage || !strings.Contains(r.stderr, want) {
			t.Errorf("%v: %+v", env, r)
		}
	}
	gone := append([]string{"NATS_URL=" + o.ns.ClientURL(), "NATS_USER=together-relay", "NATS_PASSWORD_FILE=" + filepath.Join(o.dir, "none")}, withSecret...)
	if r := o.cli(t, gone, "serve", "--listen=127.0.0.1:0", "--admin-listen="); r.code != exitUsage || !strings.Contains(r.stderr, "read NATS password") {
		t.Errorf("a file that is not there: %+v", r)
	}
}

// What a server without accounts has stored moves to an account with its directory.
func TestStoreMovesToAnAccount(t *testing.T) {
	t.Parallel()
	const teams = "teams: {billing: {events: [batch.done]}}"
	o := natsOf(t, teams)
	endNATS(o.ns)
	plain := runNATS(t, server.Options{StoreDir: o.store()})
	p := launch{env: append([]string{"NATS_URL=" + plain.ClientURL(), "RELAY_CONFIG=" + o.file}, withSecret...)}.start(t).waitReady(t)
	p.mustSend(t, newBody("evt_1"), http.StatusOK)
	p.mustSend(t, newBody("evt_2"), http.StatusOK)
	c := p.teamConsumer(t, connect(t, plain.ClientURL()), "billing", "is there", there)
	msg, err := c.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := p.verb(t, "doctor", "--listen="+strings.TrimPrefix(p.url, "http://")); !strings.Contains(r.stdout, "nothing keeps the teams apart") {
		t.Errorf("doctor says nothing of the teams: %+v", r)
	}
	p.stop(t)
	endNATS(plain)
	if err := os.Rename(filepath.Join(o.store(), "jetstream", "$G"), filepath.Join(o.store(), "jetstream", "TOGETHER")); err != nil {
		t.Fatal(err)
	}
	o.run(t)
	p = launch{env: o.relay()}.start(t).waitReady(t)
	if again := p.mustSend(t, newBody("evt_1"), http.StatusOK); !again.Duplicate || again.Sequence != 1 {
		t.Errorf("what was stored before is answered %+v", again)
	}
	if c, err = o.as(t, "billing").Consumer(t.Context(), "TOGETHER", "billing"); err != nil {
		t.Fatal(err)
	}
	if msg, err = c.Next(); err != nil || msg.Headers().Get("ce-id") != "evt_2" {
		t.Errorf("the team goes on with %v, %v; want evt_2", msg, err)
	}
}
