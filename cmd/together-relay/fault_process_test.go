package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// within is eventually with a time of its own.
func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	end := time.NewTimer(limit)
	defer end.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("did not happen within %s: %s", limit, what)
		}
	}
}

// hold waits for as long as a fault is to last.
func hold(d time.Duration) { <-time.After(d) }

// brokerMain is nats-server: the test binary runs it under the name of test-nats-server, so
// that the tests need no other program.
func brokerMain() {
	go endWithParent()
	opts, err := server.ProcessConfigFile(os.Args[1])
	if err == nil {
		var ns *server.Server
		if ns, err = server.NewServer(opts); err == nil {
			ns.ConfigureLogger()
			if err = server.Run(ns); err == nil {
				ns.WaitForShutdown()
				os.Exit(0)
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// endWithParent ends this process when the test that started it has gone without ending it.
func endWithParent() {
	for parent := os.Getppid(); os.Getppid() == parent; {
		hold(time.Second)
	}
	os.Exit(1)
}

// A broker is a NATS server in a process of its own, which can be started again and again with
// the same configuration.
type broker struct {
	name, config, log string
	url, health       string

	cmd   *exec.Cmd
	ended chan struct{}
}

// A node says how a broker is configured.
type node struct {
	name    string
	store   string // its directory
	sync    string // sync_interval; empty is the one that is shipped: always
	port    int
	room    string // max_file_store; empty is 1GB
	cluster string // the block of that name
}

// startBroker writes the configuration, starts the broker and waits until it is healthy,
// unless it belongs to a cluster: alone it would never be.
func (n node) startBroker(t testing.TB) *broker {
	t.Helper()
	if n.name == "" {
		n.name = "n1"
	}
	if n.sync == "" {
		n.sync = "always"
	}
	if n.room == "" {
		n.room = "1GB"
	}
	if n.port == 0 {
		n.port = fixedPort(t)
	}
	monitor := fixedPort(t)
	dir := t.TempDir()
	b := &broker{
		name: n.name, config: filepath.Join(dir, "nats.conf"), log: filepath.Join(dir, "nats.log"),
		url:    fmt.Sprintf("nats://127.0.0.1:%d", n.port),
		health: fmt.Sprintf("http://127.0.0.1:%d/healthz", monitor),
	}
	writeFile(t, b.config, fmt.Sprintf(`
server_name: %s
listen: "127.0.0.1:%d"
http: "127.0.0.1:%d"
log_file: %q
jetstream { store_dir: %q, sync_interval: %q, max_file_store: %s }
%s
`, n.name, n.port, monitor, b.log, n.store, n.sync, n.room, n.cluster))
	t.Cleanup(func() {
		b.end(t, syscall.SIGKILL)
		if text, err := os.ReadFile(b.log); err == nil && t.Failed() {
			t.Logf("end of the log of %s:\n%s", b.name, text[max(0, len(text)-4000):])
		}
	})
	b.start(t)
	if n.cluster == "" {
		b.waitHealthy(t)
	}
	return b
}

// start runs the broker. It does not wait.
func (b *broker) start(t testing.TB) {
	t.Helper()
	path, err := exec.LookPath("test-nats-server")
	if err != nil {
		t.Fatal(err)
	}
	b.cmd, b.ended = exec.Command(path, b.config), make(chan struct{})
	b.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GORACE=" + os.Getenv("GORACE")}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // it is killed most of the time
		close(ended)
	}(b.cmd, b.ended)
}

// end ends the broker by the signal, and blocks until it has ended. One that has is left alone.
func (b *broker) end(t testing.TB, s syscall.Signal) {
	t.Helper()
	b.signal(t, s)
	select {
	case <-b.ended:
	case <-time.After(patience):
		t.Errorf("%s did not end by %s", b.name, s)
		b.signal(t, syscall.SIGKILL)
		<-b.ended
	}
}

func (b *broker) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := b.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal %s to %s: %v", s, b.name, err)
	}
}

func (b *broker) waitHealthy(t testing.TB) {
	t.Helper()
	within(t, 2*patience, b.name+" is healthy", func() bool { return isOK(b.health) })
}

// isOK says whether the page is there now.
func isOK(url string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	req.Close = true
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return false
	}
	closeQuietly(resp.Body)
	return resp.StatusCode == http.StatusOK
}

// waitStopped blocks until each thread of the processes stands still.
func waitStopped(t testing.TB, pids ...int) {
	t.Helper()
	within(t, patience, "the processes stand still", func() bool {
		for _, pid := range pids {
			stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
			if err != nil || len(stats) == 0 {
				return false
			}
			for _, stat := range stats {
				text, err := os.ReadFile(stat)
				_, state, ok := strings.Cut(string(text), ") ")
				if err != nil || !ok || state[0] != 'T' {
					return false
				}
			}
		}
		return true
	})
}
