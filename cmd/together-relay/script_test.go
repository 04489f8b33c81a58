package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the command line as people do. Beside the usual commands, scripts have
// those below.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		WorkdirRoot:        t.TempDir(),
		RequireUniqueNames: true,
		Deadline:           time.Now().Add(4 * patience), // for a relay that serves and should not
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":  exits,
			"occupy": occupy,
			"ready":  ready,
			"made":   made,
			"enters": enters,
		},
	})
}

// exits CODE PROGRAM ARG… runs the program, which has to end with the exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		ended, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = ended.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// occupy VAR listens on a free port until the script ends, and puts its address into VAR.
func occupy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: occupy VAR")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { closeQuietly(l) })
	ts.Setenv(args[0], l.Addr().String())
}

// enters FILE logs in at NATS with what teams creds printed, takes a look at the consumer of that team,
// and, negated, waits until that is refused.
func enters(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] enters FILE")
	}
	creds := map[string]string{}
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		creds[name] = value
	}
	try := func() error {
		nc, err := nats.Connect(creds["NATS_URL"], nats.UserInfo(creds["NATS_USER"], creds["NATS_PASSWORD"]))
		if err != nil {
			return err
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		_, err = js.Consumer(context.Background(), "TOGETHER", creds["NATS_USER"])
		return err
	}
	err := try()
	for end := time.Now().Add(patience); neg && !errors.Is(err, nats.ErrAuthorization) && time.Now().Before(end); <-time.After(5 * time.Millisecond) {
		err = try()
	}
	switch {
	case !neg:
		ts.Check(err)
	case !errors.Is(err, nats.ErrAuthorization):
		ts.Fatalf("logging in: %v", err)
	}
}

// made TEAM waits until the relay that is ready has made the team's consumers and, negated, until it has
// seen that the team is not in the file any more.
func made(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] made TEAM")
	}
	nc, err := nats.Connect(ts.Getenv("RELAY_NATS"))
	ts.Check(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	ts.Check(err)
	for end := time.Now().Add(patience); ; <-time.After(5 * time.Millisecond) {
		one, err := js.Consumer(context.Background(), "TOGETHER", args[0])
		if err == nil {
			_, err = js.Consumer(context.Background(), "TOGETHER_REPLAY", args[0])
		}
		if err == nil && one.CachedInfo().Paused == neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("team %s: %v", args[0], err)
		}
	}
}

// ready DIR waits until the relay with that data directory could store an event. It puts
// its addresses into RELAY_URL and RELAY_NATS.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready DIR")
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	var note running
	isReady := func() bool {
		text, err := os.ReadFile(runningPath(ts.MkAbs(args[0])))
		if err != nil || json.Unmarshal(text, &note) != nil {
			return false
		}
		resp, err := client.Get(note.URL + "/readyz")
		if err != nil {
			return false
		}
		closeQuietly(resp.Body)
		return resp.StatusCode == http.StatusOK
	}
	for end := time.Now().Add(patience); !isReady(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("the relay did not become ready")
		}
	}
	ts.Setenv("RELAY_URL", note.URL)
	address, err := operatorURL(note.NATSURL, ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Setenv("RELAY_NATS", address)
}
