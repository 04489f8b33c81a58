package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"together-relay/adapters/httpd"
	"together-relay/adapters/jetstream"
	"together-relay/adapters/together"
	"together-relay/relay"
	"together-relay/schemas"
)

// The ways in which the relays of this file are broken. They are made of the project's own
// parts, put together wrongly.
const (
	answersEarly = "answers-early" // before the stream has acknowledged
	dropsID      = "drops-id"      // the stream cannot tell that it has the event
	skipsFlush   = "skips-flush"   // the embedded store is never flushed
)

// brokenMain is a broken relay: the test binary runs it under the name of test-broken-relay,
// with its fault, its address and either the broker's URL or the store's directory.
func brokenMain() {
	go endWithParent()
	if err := serveBroken(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serveBroken(broken, address, where string) error {
	set, err := schemas.Load()
	if err != nil {
		return err
	}
	source, err := together.NewSource(together.Config{Name: defaultSource}, [][]byte{[]byte(secret)})
	if err != nil {
		return err
	}
	cfg := jetstream.Config{
		Stream: "TOGETHER", Prefixes: map[string]string{defaultSource: defaultSource}, Replicas: 1,
		MaxAge: time.Hour, Window: time.Hour, Timeout: time.Second, Provision: jetstream.ProvisionCreate,
	}
	if broken == dropsID {
		maps.Copy(cfg.Prefixes, aliases())
	}
	url := where
	if broken == skipsFlush {
		ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: where, NoSigs: true, NoLog: true})
		if err != nil {
			return err
		}
		ns.Start()
		if !ns.ReadyForConnections(patience) {
			return fmt.Errorf("the server did not start")
		}
		url = ns.ClientURL()
		if err := os.WriteFile(where+".url", []byte(url), 0o600); err != nil {
			return err
		}
	}
	log, err := jetstream.Open(url, jetstream.Auth{}, cfg, zerolog.Nop())
	if err != nil {
		return err
	}
	go func() { _ = log.Run(context.Background()) }()

	var store relay.Log = log
	if broken == dropsID {
		store = &withoutID{Log: log}
	}
	in := openIntake(map[string]*together.Source{defaultSource: source}, set, store)
	var receiver httpd.Receiver = in
	if broken == answersEarly {
		receiver = early{in, source}
	}
	web := httpd.New(httpd.Config{
		Sources:  map[string]httpd.Source{defaultSource: {Header: []string{together.SignatureHeader}}},
		Receiver: receiver, Done: func(relay.Outcome) {}, Ready: log.Ready, Schemas: fs.FS(schemas.Files),
		MaxBody: func() int64 { return 1 << 20 }, MaxInFlight: 1024, ReadTimeout: 10 * time.Second,
	})
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return web.Serve(listener)
}

// early answers what it hopes for.
type early struct {
	*relay.Intake
	source *together.Source
}

func (e early) Receive(ctx context.Context, d relay.Delivery) (relay.Receipt, error) {
	d.Body, d.Header = bytes.Clone(d.Body), maps.Clone(d.Header)
	ev, err := e.source.Open(d)
	if err != nil || e.Check(ev) != nil {
		return e.Intake.Receive(ctx, d)
	}
	go func() { _, _ = e.Intake.Receive(context.WithoutCancel(ctx), d) }()
	subject := jetstream.Subject(defaultSource, ev.Type, ev.Resource)
	return relay.Receipt{ID: ev.CloudEvent.ID(), Type: ev.Type, Stored: relay.Stored{Subject: subject, Sequence: 1}}, nil
}

// withoutID gives the message of each try an id of its own, which to the stream is none: it
// makes the source's name, which is part of the id, another one each time.
type withoutID struct {
	relay.Log
	last atomic.Int64
}

const manyAliases = 1 << 12

func aliases() map[string]string {
	all := map[string]string{}
	for i := range manyAliases {
		all[alias(i)] = defaultSource
	}
	return all
}

func alias(i int) string { return defaultSource + strconv.Itoa(i%manyAliases) }

func (w *withoutID) Append(ctx context.Context, ev relay.Event) (relay.Stored, error) {
	ev.Source = alias(int(w.last.Add(1)))
	return w.Log.Append(ctx, ev)
}

// addBroken starts a broken relay and waits until it is ready.
func (r *rig) addBroken(broken, where string) *underTest {
	r.t.Helper()
	path, err := exec.LookPath("test-broken-relay")
	if err != nil {
		r.t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", fixedPort(r.t))
	return r.add("http://"+address, func() *process {
		p := &process{url: "http://" + address, log: &output{}, out: &output{}, ended: make(chan struct{}), client: &http.Client{}}
		p.cmd = exec.Command(path, broken, address, where)
		p.cmd.Env, p.cmd.Stderr = []string{"GORACE=" + os.Getenv("GORACE")}, p.log
		if err := p.cmd.Start(); err != nil {
			r.t.Fatal(err)
		}
		go func() {
			_ = p.cmd.Wait() // it is killed
			close(p.ended)
		}()
		r.t.Cleanup(func() {
			p.kill(r.t)
			if said := strings.TrimSpace(p.log.String()); said != "" {
				r.t.Errorf("the broken relay said %s", said)
			}
		})
		return p
	})
}

// readURL is where the embedded server of a broken relay can be read.
func readURL(t testing.TB, store string) string {
	t.Helper()
	text, err := os.ReadFile(store + ".url")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
