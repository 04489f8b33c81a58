package natsd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

// withKeys is a server that has keys, and both ports.
func withKeys(t testing.TB) (*Server, Config) {
	t.Helper()
	cfg := local(t)
	cfg.Websocket = "127.0.0.1:0"
	cfg.Keys, cfg.Streams = OpenKeys(KeysDir(cfg.Dir)), []string{"S"}
	return startServer(t, cfg), cfg
}

// mayEnter says whether a client is let in.
func mayEnter(t testing.TB, url string, options ...nats.Option) bool {
	t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(url, append(options, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))...)
	if err == nil {
		nc.Close()
		<-closed
		return true
	}
	if !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("connect: %v", err)
	}
	return false
}

// waitClosed blocks until the server has closed the connection.
func waitClosed(t testing.TB, nc *nats.Conn) {
	t.Helper()
	closed := nc.StatusChanged(nats.CLOSED)
	if nc.IsClosed() {
		return
	}
	select {
	case <-closed:
	case <-time.After(waitFor):
		t.Error("the connection is not closed")
	}
}

// works says that a connection has not been disturbed.
func works(t testing.TB, name string, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(waitFor); err != nil || nc.Reconnects > 0 {
		t.Errorf("%s: %v after %d reconnects", name, err, nc.Reconnects)
	}
}

func TestOpenUntilThereIsATeam(t *testing.T) {
	t.Parallel()
	s, _ := withKeys(t)
	own := connect(t, s.URL(), s.InProcess()) // before the teams are set
	setTeams(t, s)
	var guests []*nats.Conn
	for name, url := range map[string]string{"TCP": s.URL(), "WebSocket": s.ns.WebsocketURL()} {
		guest := connect(t, url, nats.NoReconnect())
		js, _ := newStream(t, guest)
		publish(t, js, name)
		guests = append(guests, guest)
	}
	guests = append(guests, connect(t, s.URL(), nats.NoReconnect(), nats.UserInfo(OperatorUser, "guessed"))) // it is not looked at

	setTeams(t, s, "ml")
	for _, guest := range guests {
		waitClosed(t, guest)
	}
	works(t, "the relay's connection", own)
	js, _ := newStream(t, own)
	publish(t, js, "more")
	anonymous := func() bool { return mayEnter(t, s.URL()) || mayEnter(t, s.ns.WebsocketURL()) }
	if anonymous() {
		t.Error("with a team somebody is let in without a password")
	}
	setTeams(t, s)
	if anonymous() {
		t.Error("as long as there is a key somebody is let in without a password")
	}
	if err := errors.Join(s.gate.keys.Remove("ml"), s.Look()); err != nil {
		t.Fatal(err)
	}
	if !anonymous() {
		t.Error("without teams and keys nobody is let in")
	}
	works(t, "the relay's connection", own)
}

// Keys of a team that a relay finds at its start close it before anybody is let in.
func TestClosedFromTheStart(t *testing.T) {
	t.Parallel()
	s, cfg := withKeys(t)
	setTeams(t, s, "ml")
	closeServer(t, s)
	s = startServer(t, cfg)
	in := make(chan bool)
	go func() { in <- mayEnter(t, s.URL()) }()
	setTeams(t, s)
	if <-in {
		t.Error("somebody was let in without a password")
	}
}

func TestLogins(t *testing.T) {
	t.Parallel()
	s, _ := withKeys(t)
	setTeams(t, s, "ml", "billing", "gone")
	ml, billing, operator, gone := key(t, s, "ml"), key(t, s, "billing"), key(t, s, OperatorUser), key(t, s, "gone")
	setTeams(t, s, "ml", "billing")
	for _, url := range []string{s.URL(), s.ns.WebsocketURL()} {
		for range 2 { // the second time a password is known
			for _, u := range []user{ml, billing, operator} {
				if !mayEnter(t, url, u.options()...) {
					t.Errorf("%s: %s is not let in", url, u.name)
				}
			}
			hash, err := s.gate.keys.hash("ml")
			if err != nil {
				t.Fatal(err)
			}
			for what, u := range map[string]user{
				"a team with another's password":        {"ml", billing.password},
				"a team with the operator's password":   {"ml", operator.password},
				"the operator with a team's password":   {OperatorUser, ml.password},
				"the relay with a team's password":      {RelayUser, ml.password},
				"the relay with the operator's":         {RelayUser, operator.password},
				"the relay without a password":          {RelayUser, ""},
				"a team without a password":             {"ml", ""},
				"a team with its hash":                  {"ml", hash},
				"a team with part of its password":      {"ml", ml.password[:42]},
				"a team with more than its password":    {"ml", ml.password + "x"},
				"a team in other letters":               {"ML", ml.password},
				"a team's account":                      {"team-ml", ml.password},
				"the account of the streams":            {"$G", operator.password},
				"the system account":                    {"$SYS", operator.password},
				"nobody":                                {"nobody", ml.password},
				"who was let in while it was open":      {"anonymous", ""},
				"a team that is not named any more":     gone,
				"a name that is a path":                 {"../keys/ml", ml.password},
				"a password that is longer than bcrypt": {"ml", strings.Repeat("x", 200)},
			} {
				if mayEnter(t, url, nats.UserInfo(u.name, u.password)) {
					t.Errorf("%s: %s is let in", url, what)
				}
			}
			if mayEnter(t, url) || mayEnter(t, url, nats.Token(ml.password)) {
				t.Errorf("%s: without a user somebody is let in", url)
			}
		}
	}
}

func TestTeamsComeAndGo(t *testing.T) {
	t.Parallel()
	s, _ := withKeys(t)
	setTeams(t, s, "ml", "billing")
	url := s.ns.WebsocketURL()
	own, operator := connect(t, s.URL(), s.InProcess()), connect(t, s.URL(), key(t, s, OperatorUser).options()...)
	stays := connect(t, url, key(t, s, "billing").options()...)
	enter := func() *nats.Conn { return connect(t, url, append(key(t, s, "ml").options(), nats.NoReconnect())...) }
	undisturbed := func() {
		t.Helper()
		works(t, "the relay's connection", own)
		works(t, "the operator's connection", operator)
		works(t, "another team's connection", stays)
	}

	// Another password.
	first, old := enter(), key(t, s, "ml")
	if err := errors.Join(s.gate.keys.Renew("ml"), s.Look()); err != nil {
		t.Fatal(err)
	}
	waitClosed(t, first)
	if mayEnter(t, url, old.options()...) {
		t.Error("the old password is taken")
	}
	second := enter()
	undisturbed()

	// The same teams again.
	setTeams(t, s, "billing", "ml")
	if err := s.Look(); err != nil {
		t.Error(err)
	}
	works(t, "the team's connection", second)

	// Out, and in again.
	setTeams(t, s, "billing")
	waitClosed(t, second)
	if mayEnter(t, url, key(t, s, "ml").options()...) {
		t.Error("a team that is not named is let in")
	}
	setTeams(t, s, "billing", "ml", "late")
	third := enter()
	if !mayEnter(t, url, key(t, s, "late").options()...) {
		t.Error("a new team is not let in")
	}
	undisturbed()

	// A key that is gone is made again.
	if err := errors.Join(s.gate.keys.Remove("ml"), s.Look()); err != nil {
		t.Fatal(err)
	}
	waitClosed(t, third)
	enter()
	undisturbed()
}

// Where nothing is said about teams, those that have a key go on.
func TestTeamsThatNobodyNames(t *testing.T) {
	t.Parallel()
	s, cfg := withKeys(t)
	setTeams(t, s, "ml")
	closeServer(t, s)
	s = startServer(t, cfg)
	if err := s.SetTeams(nil); err != nil {
		t.Fatal(err)
	}
	nc := connect(t, s.URL(), append(key(t, s, "ml").options(), nats.NoReconnect())...)
	if err := errors.Join(s.gate.keys.Remove("ml"), s.Look()); err != nil {
		t.Fatal(err)
	}
	waitClosed(t, nc)
	if users, err := s.gate.keys.Teams(); len(users) > 0 || err != nil {
		t.Errorf("there are keys of %v, %v", users, err)
	}
	if err := s.SetTeams([]string{}); err != nil || !mayEnter(t, s.URL()) {
		t.Errorf("without teams and keys nobody is let in, %v", err)
	}
}

// What cannot be read changes nothing.
func TestKeysThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s, _ := withKeys(t)
	setTeams(t, s, "ml")
	nc := connect(t, s.URL(), key(t, s, "ml").options()...)
	if err := os.WriteFile(s.gate.keys.path("ml", hashEnd), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.SetTeams([]string{"billing", "ml"}); err == nil || !strings.Contains(err.Error(), "ml.hash") {
			t.Errorf("SetTeams = %v", err)
		}
	}
	works(t, "the team's connection", nc)
	if !mayEnter(t, s.URL(), key(t, s, OperatorUser).options()...) {
		t.Error("the operator is not let in")
	}
	if err := s.gate.keys.Renew("ml"); err != nil {
		t.Fatal(err)
	}
	setTeams(t, s, "billing", "ml")
	if !mayEnter(t, s.URL(), key(t, s, "ml").options()...) {
		t.Error("the team is not let in")
	}
}

// While somebody tries passwords, those who have been here get in.
func TestWrongPasswordsHoldUpNobody(t *testing.T) {
	t.Parallel()
	s, _ := withKeys(t)
	setTeams(t, s, "ml")
	if !mayEnter(t, s.URL(), key(t, s, "ml").options()...) {
		t.Fatal("the team is not let in")
	}
	for range cap(s.gate.slots) {
		s.gate.slots <- struct{}{}
	}
	if !mayEnter(t, s.URL(), key(t, s, "ml").options()...) || !mayEnter(t, s.URL(), s.InProcess()) {
		t.Error("who has been here is held up")
	}
	for range cap(s.gate.slots) {
		<-s.gate.slots
	}
}

func TestConnectionsOfATeam(t *testing.T) {
	t.Parallel()
	s, _ := withKeys(t)
	setTeams(t, s, "ml", "billing")
	s.gate.most = 2
	first, _ := connect(t, s.URL(), key(t, s, "ml").options()...), connect(t, s.URL(), key(t, s, "ml").options()...)
	if mayEnter(t, s.URL(), key(t, s, "ml").options()...) {
		t.Error("a third connection is let in")
	}
	if !mayEnter(t, s.URL(), key(t, s, "billing").options()...) {
		t.Error("another team is not let in")
	}
	first.Close()
	for end := time.Now().Add(waitFor); !mayEnter(t, s.URL(), key(t, s, "ml").options()...); {
		if time.Now().After(end) {
			t.Fatal("with one connection less none is let in")
		}
	}
}

// Connections that are gone are forgotten.
func TestGateForgets(t *testing.T) {
	t.Parallel()
	s, _ := withKeys(t)
	setTeams(t, s, "ml")
	for range 300 {
		mayEnter(t, s.URL(), key(t, s, "ml").options()...)
	}
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	if n := len(s.gate.in); n > 150 {
		t.Errorf("%d connections are remembered, and one at most is there", n)
	}
}

// Teams come while events are stored: each is, and the connection stays.
func TestTeamsComeWhileEventsAreStored(t *testing.T) {
	t.Parallel()
	s, _ := withKeys(t)
	setTeams(t, s)
	nc := connect(t, s.URL(), s.InProcess())
	js, stream := newStream(t, nc)
	var stop atomic.Bool
	done := make(chan int)
	go func() {
		n := 0
		for ; !stop.Load(); n++ {
			if _, err := js.Publish(context.Background(), "a", nil); err != nil {
				t.Errorf("event %d: %v", n, err)
			}
		}
		done <- n
	}()
	var teams []string
	for i := range 30 {
		teams = append(teams, fmt.Sprintf("team-%d", i))
		setTeams(t, s, teams...)
	}
	stop.Store(true)
	n := <-done
	works(t, "the relay's connection", nc)
	if info, err := stream.Info(context.Background()); err != nil || info.State.Msgs != uint64(n) || n == 0 {
		t.Errorf("%d events were stored, the stream has %+v, %v", n, info, err)
	}
}

// A store from before there were accounts opens with all that is in it, and can be opened by a
// server without accounts after that.
func TestStoreFromBeforeThereWereTeams(t *testing.T) {
	t.Parallel()
	cfg := local(t)
	s := startServer(t, cfg)
	js, _ := newStream(t, connect(t, s.URL()))
	for i := range 10 {
		publish(t, js, fmt.Sprint(i))
	}
	closeServer(t, s)

	cfg.Keys, cfg.Streams = OpenKeys(KeysDir(cfg.Dir)), []string{"S"}
	s = startServer(t, cfg)
	setTeams(t, s, "ml")
	js, stream := newStream(t, connect(t, s.URL(), s.InProcess()))
	if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != 10 {
		t.Errorf("the stream has %+v, %v", info, err)
	}
	if _, err := js.CreateConsumer(t.Context(), "S", jetstream.ConsumerConfig{Durable: "ml", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	if got := takeAll(t, s.URL(), key(t, s, "ml"), "S", 10); got[0] != "0" || got[9] != "9" {
		t.Errorf("the team got %v", got)
	}
	closeServer(t, s)

	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: cfg.Dir, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	defer func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	}()
	_, stream = newStream(t, connect(t, ns.ClientURL()))
	if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != 10 {
		t.Errorf("the stream has %+v, %v", info, err)
	}
}

// takeAll takes n messages as the team and acknowledges them.
func takeAll(t testing.TB, url string, u user, stream string, n int) (got []string) {
	t.Helper()
	js, err := jetstream.New(connect(t, url, u.options()...))
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(t.Context(), stream, u.name)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(waitFor))
	if err != nil {
		t.Fatal(err)
	}
	for msg := range batch.Messages() {
		if err := msg.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
		got = append(got, string(msg.Data()))
	}
	if len(got) != n {
		t.Fatalf("there were %d messages, want %d: %v", len(got), n, batch.Error())
	}
	return got
}

// What clients do that they may not fills no log.
func TestLogOfWhatIsForbidden(t *testing.T) {
	t.Parallel()
	var log page
	cfg := local(t)
	cfg.Keys, cfg.Streams = OpenKeys(KeysDir(cfg.Dir)), []string{"S"}
	s, err := Start(cfg, zerolog.New(&log))
	if err != nil {
		t.Fatal(err)
	}
	defer closeServer(t, s)
	setTeams(t, s, "ml")
	nc := connect(t, s.URL(), append(key(t, s, "ml").options(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
	for range 1000 {
		if err := nc.Publish("together.batch.done.forged", nil); err != nil {
			t.Fatal(err)
		}
	}
	works(t, "the team's connection", nc)
	if n := strings.Count(log.String(), "Publish Violation"); n == 0 || n > 100 {
		t.Errorf("1000 violations are %d lines", n)
	}
	<-time.After(1100 * time.Millisecond) // there may be lines again
	for range 1000 {
		msg := nats.NewMsg("$JS.ACK.S.ml.1.1.1.1.0")
		msg.Header["Nats-Trace-Dest"] = []string{"no * subject " + strings.Repeat("x", 10_000)}
		if err := nc.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
	}
	works(t, "the team's connection", nc)
	if n := strings.Count(log.String(), "won't be able to trace"); n > 100 || len(log.String()) > 100_000 || !strings.Contains(log.String(), "xxxxxxxxxx…") {
		t.Errorf("1000 words about traces are %d lines; %d bytes of log", n, len(log.String()))
	}
	if text := log.String(); strings.Contains(text, `"level":"error"`) || strings.Contains(text, key(t, s, "ml").password) {
		t.Errorf("the log says %s", text)
	}
}

// Before there are teams an open address is worth a warning, with passwords it is not.
func TestOpenAddressesWithKeys(t *testing.T) {
	t.Parallel()
	const warning = "asks for no password, and others than this machine can reach it"
	for _, teams := range [][]string{nil, {"ml"}} {
		var log page
		dir := t.TempDir()
		s, err := Start(Config{Listen: ":0", Websocket: ":0", Dir: dir, Keys: OpenKeys(KeysDir(dir))}, zerolog.New(&log))
		if err != nil {
			t.Fatal(err)
		}
		setTeams(t, s, teams...)
		closeServer(t, s)
		want := 2
		if slices.Contains(teams, "ml") {
			want = 0
		}
		if n := strings.Count(log.String(), warning); n != want {
			t.Errorf("teams %v: %d warnings, want %d", teams, n, want)
		}
	}
}

func BenchmarkThousandTeams(b *testing.B) {
	var teams []string
	for i := range 1000 {
		teams = append(teams, fmt.Sprintf("team-%d", i))
	}
	for b.Loop() {
		cfg := local(b)
		cfg.Keys, cfg.Streams = OpenKeys(KeysDir(cfg.Dir)), []string{"S", "S_REPLAY"}
		for _, what := range []string{"s/made", "s/found"} { // the second time the keys are there
			s := startServer(b, cfg)
			start := time.Now()
			setTeams(b, s, teams...)
			b.ReportMetric(time.Since(start).Seconds(), what)
			start = time.Now()
			setTeams(b, s, teams...)
			b.ReportMetric(time.Since(start).Seconds(), "s/again")
			closeServer(b, s)
		}
	}
}
