package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"together-relay/adapters/natsd"
)

// diagnosis reads what doctor printed as JSON: level and check of each finding above a note,
// and which failures are survived: y, n or u for each.
func diagnosis(t *testing.T, r result) (found []string, left string) {
	t.Helper()
	var words []string
	for line := range strings.Lines(r.stdout) {
		var one struct{ Level, Check, Failure, Survives string }
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		switch {
		case one.Failure != "":
			words = append(words, one.Survives[:1])
		case one.Check == "filesystem" || one.Check == "disk": // this machine's business
		case one.Level == levelError || one.Level == levelWarning:
			found = append(found, one.Level+" "+one.Check)
		}
	}
	return found, strings.Join(words, "")
}

// onDisk skips a test that needs a store on a real disk.
func onDisk(t *testing.T) {
	t.Helper()
	if d, err := natsd.LookAtDisk(t.TempDir()); err == nil && d.InMemory {
		t.Skipf("temporary files lie on %s; set TMPDIR to a directory on a disk", d.FileSystem)
	}
}

func TestDoctorOnEmbedded(t *testing.T) {
	t.Parallel()
	onDisk(t)
	p := launch{env: withSecret, args: []string{"--strict"}}.start(t).waitReady(t)
	r := p.verb(t, "doctor", "-o", "json")
	if found, left := diagnosis(t, r); len(found) > 0 || left != "yyynn" || r.code != exitDone {
		t.Errorf("exit code %d, findings %v, survives %s:\n%s%s", r.code, found, left, r.stdout, r.stderr)
	}
}

// What the relay that runs was started with counts, not what is configured here.
func TestDoctorAsksTheRunningRelay(t *testing.T) {
	t.Parallel()
	onDisk(t)
	p := launch{env: withSecret, args: []string{"--nats-sync=never", "--public-url=http://localhost:1"}}.start(t).waitReady(t)
	r := p.verb(t, "doctor", "-o", "json")
	if found, left := diagnosis(t, r); !slices.Equal(found, []string{"error sync"}) || left != "yynnn" || r.code != exitFailed {
		t.Errorf("exit code %d, findings %v, survives %s:\n%s%s", r.code, found, left, r.stdout, r.stderr)
	}
}

func monitorURL(ns *server.Server) string { return "http://" + ns.MonitorAddr().String() }

func TestDoctorOnAServerOutside(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		sync  bool
		asked bool
		found []string
		left  string
	}{
		{"flushes", true, true, nil, "yyynn"},
		{"flushes, nobody knows", true, false, []string{"warning sync"}, "yyunn"},
		{"does not flush", false, true, []string{"error sync"}, "yynnn"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ns := runNATS(t, server.Options{SyncAlways: test.sync, HTTPHost: "127.0.0.1", HTTPPort: -1})
			p := launch{env: append([]string{"NATS_URL=" + ns.ClientURL()}, withSecret...)}.start(t).waitReady(t)
			args := []string{"doctor", "-o", "json", "--listen=" + strings.TrimPrefix(p.url, "http://")}
			if test.asked {
				args = append(args, "--monitor="+monitorURL(ns))
			}
			r := p.verb(t, args...)
			if found, left := diagnosis(t, r); !slices.Equal(found, test.found) || left != test.left {
				t.Errorf("findings %v, survives %s:\n%s%s", found, left, r.stdout, r.stderr)
			}
			if strict := p.verb(t, append(args, "--strict")...); (strict.code == exitDone) != (test.found == nil) {
				t.Errorf("with --strict the exit code is %d: %s", strict.code, strict.stderr)
			}
		})
	}
}

func TestDoctorOnABadSetUp(t *testing.T) {
	t.Parallel()
	ns := runNATS(t, server.Options{MaxPayload: 4096, HTTPHost: "127.0.0.1", HTTPPort: -1})
	js := connect(t, ns.ClientURL())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "TOGETHER", Subjects: []string{"together.>"}, Storage: jetstream.MemoryStorage, Discard: jetstream.DiscardOld, MaxMsgs: 10,
		MaxAge: time.Hour, Duplicates: time.Minute, AllowDirect: true,
	}); err != nil {
		t.Fatal(err)
	}
	env := append([]string{"NATS_URL=" + ns.ClientURL(), "RELAY_MONITOR=" + monitorURL(ns)}, withSecret...)
	p := launch{env: env}.start(t)
	r := p.verb(t, "doctor", "-o", "json", "--listen="+strings.TrimPrefix(p.url, "http://"))
	found, left := diagnosis(t, r)
	for _, want := range []string{
		"error relay", "error storage", "error discard", "error duplicate_window", "warning max_msgs", "warning max_age",
		"error sync", "warning window", "warning max_payload", "error streams",
	} {
		if !slices.Contains(found, want) {
			t.Errorf("%s was not found", want)
		}
	}
	if left != "ynnnn" || r.code != exitFailed {
		t.Errorf("exit code %d, survives %s", r.code, left)
	}
	if t.Failed() {
		t.Log(r.stdout, r.stderr)
	}
}

func TestDoctorOnACluster(t *testing.T) {
	t.Parallel()
	urls, monitors := runCluster(t)
	env := append([]string{"NATS_URL=" + strings.Join(urls, ","), "RELAY_REPLICAS=3"}, withSecret...)
	p := launch{env: env, args: []string{"--strict", "--monitor=" + strings.Join(monitors, ",")}}.start(t).waitReady(t)
	listen := "--listen=" + strings.TrimPrefix(p.url, "http://")
	r := p.verb(t, "doctor", "-o", "json", listen, "--monitor="+strings.Join(monitors, ","))
	if found, left := diagnosis(t, r); len(found) > 0 || left != "yyyyy" || r.code != exitDone {
		t.Errorf("exit code %d, findings %v, survives %s:\n%s%s", r.code, found, left, r.stdout, r.stderr)
	}
	r = p.verb(t, "doctor", "-o", "json", listen, "--monitor="+monitors[0])
	if found, left := diagnosis(t, r); !slices.Equal(found, []string{"warning sync"}) || left != "yyuyy" {
		t.Errorf("with one monitor: findings %v, survives %s:\n%s%s", found, left, r.stdout, r.stderr)
	}
}

// runCluster runs three NATS servers that know one another.
func runCluster(t *testing.T) (urls, monitors []string) {
	t.Helper()
	stores := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	for _, b := range (&rig{t: t}).startCluster(func(i int) string { return stores[i] }).nodes {
		urls, monitors = append(urls, b.url), append(monitors, strings.TrimSuffix(b.health, "/healthz"))
	}
	return urls, monitors
}

func TestServeStrictRefuses(t *testing.T) {
	t.Parallel()
	outside := func(t *testing.T, change func(*jetstream.StreamConfig)) string {
		url, _ := driftedStream(t, change)
		return "--nats-url=" + url
	}
	for _, test := range []struct {
		name string
		args func(*testing.T) []string
		says []string
	}{
		{"no flush", func(*testing.T) []string { return []string{"--nats-sync=never"} }, []string{"nats_sync is never"}},
		{"flush known to be off", func(t *testing.T) []string {
			ns := runNATS(t, server.Options{HTTPHost: "127.0.0.1", HTTPPort: -1})
			return []string{"--nats-url=" + ns.ClientURL(), "--monitor=" + monitorURL(ns)}
		}, []string{"flushes every 2m, not each message"}},
		{"memory, short window", func(t *testing.T) []string {
			return []string{outside(t, func(cfg *jetstream.StreamConfig) {
				cfg.Storage, cfg.Duplicates = jetstream.MemoryStorage, time.Hour
			})}
		}, []string{"storage is Memory", "duplicate_window is 1h"}},
		{"async", func(t *testing.T) []string {
			return []string{outside(t, func(cfg *jetstream.StreamConfig) { cfg.PersistMode = jetstream.AsyncPersistMode })}
		}, []string{"persist_mode is Async"}},
		{"fewer replicas", func(t *testing.T) []string {
			return []string{outside(t, func(*jetstream.StreamConfig) {}), "--replicas=3"}
		}, []string{"replicas is 1, configured is 3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := launch{env: withSecret, args: append(test.args(t), "--strict")}.start(t)
			if state := p.wait(t); state.ExitCode() != exitFailed {
				t.Errorf("it ended with %s, want exit code 1", state)
			}
			for _, says := range test.says {
				told := slices.ContainsFunc(p.log.lines(), func(line map[string]any) bool {
					found, _ := line["found"].(string)
					return line["message"] == "the set-up breaks a promise" && line["level"] == "error" && strings.Contains(found, says)
				})
				if !told {
					t.Errorf("no line says %q:\n%s", says, p.log)
				}
			}
			if t.Failed() {
				return
			}
			if !strings.Contains(p.log.String(), "together-relay: the set-up is refused: ") {
				t.Errorf("the last word is not why:\n%s", p.log)
			}
		})
	}
}
