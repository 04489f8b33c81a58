package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/natsd"
	"together-relay/relay"
)

// soundFacts are of an embedded relay with nothing to complain about.
func soundFacts() facts {
	stream := jetstream.StreamSeen{Name: "TOGETHER", Exists: true, Replicas: 1, Alive: 1, Window: 72 * time.Hour, Age: 720 * time.Hour}
	dead := stream
	dead.Name = "TOGETHER_DLQ"
	marks := stream
	marks.Name = "KV_TOGETHER_WATCH"
	return facts{
		embedded: true, sync: natsd.SyncGroup, disk: natsd.Disk{FileSystem: "ext4", Free: 50 << 30}, replicas: 1, maxBody: 1000 << 10, tolerance: 5 * time.Minute,
		nats:   jetstream.Inspection{Version: "2.15.2", Room: 1000 << 10, Events: stream, Dead: dead, Marks: marks, SkewKnown: true},
		listen: "127.0.0.1:8080", natsListen: []string{"127.0.0.1:4222"}, publicURL: "http://localhost:8080", key: true,
	}
}

// outside makes the facts those of a NATS server that is not the relay's own, and flushes.
func outside(f *facts) {
	f.embedded, f.sync, f.natsHost, f.disk = false, natsd.SyncGroup, "nats", natsd.Disk{}
	f.nats.Auth = true
	f.monitors = []jetstream.Monitored{{Server: "n1", SyncAlways: true}}
}

func clustered(f *facts) {
	outside(f)
	f.nats.Cluster, f.replicas = "c1", 3
	f.nats.Events.Replicas, f.nats.Events.Alive = 3, 3
	f.nats.Marks.Replicas = 3
	f.monitors = slices.Repeat(f.monitors, 3)
}

func drift(setting string, breaks bool) func(*facts) {
	return func(f *facts) {
		f.nats.Drifts = []jetstream.Drift{{Stream: "TOGETHER", Setting: setting, Want: "3", Have: "1", Breaks: breaks}}
	}
}

func TestDoctorRules(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*facts)
		want   string // level and check; empty is nothing above a note
		says   string
		breaks bool
	}{
		{"embedded", func(*facts) {}, "", "", false},
		{"outside", outside, "", "", false},
		{"cluster", clustered, "", "", false},
		{"no relay", func(f *facts) { f.readyErr = errors.New("refused") }, "", "", false},
		{"relay not ready", func(f *facts) { f.ready = "not ready: full" }, "error relay", "full", false},
		{"old server", func(f *facts) { f.nats.Version = "2.11.9" }, "warning version", "2.11.9", false},
		{"oldest server that is advised", func(f *facts) { f.nats.Version = "2.12.0" }, "", "", false},
		{"newer server", func(f *facts) { f.nats.Version = "3.0.0" }, "", "", false},
		{"no JetStream", func(f *facts) {
			f.nats.Disabled, f.nats.Events, f.nats.Dead = "not enabled", jetstream.StreamSeen{}, jetstream.StreamSeen{}
		}, "error jetstream", "not enabled", false},
		{"no stream", func(f *facts) { f.nats.Events.Exists = false }, "error streams", "TOGETHER is not there", false},
		{"no stream of copies", func(f *facts) { f.nats.Beside = []jetstream.StreamSeen{{Name: "TOGETHER_REPLAY"}} }, "warning streams", "TOGETHER_REPLAY is not there", false},
		{"fewer replicas of copies", func(f *facts) {
			f.nats.Drifts = []jetstream.Drift{{Stream: "TOGETHER_REPLAY", Setting: "replicas", Want: "3", Have: "1"}}
		}, "warning replicas", "TOGETHER_REPLAY", false},
		{"no leader", func(f *facts) { f.nats.Dead.Exists, f.nats.Dead.Trouble = false, "timeout" }, "error streams", "timeout", false},
		{"harmless drift", drift("max_age", false), "warning max_age", "max_age is 1, configured is 3", false},
		{"drift that breaks", drift("discard", true), "error discard", "", true},
		{"async", drift("persist_mode", true), "error persist_mode", "", true},
		{"memory", drift("storage", true), "error storage", "", true},
		{"fewer replicas", drift("replicas", false), "error replicas", "", true},
		{"two replicas", func(f *facts) {
			clustered(f)
			f.nats.Events.Replicas, f.nats.Events.Alive, f.nats.Marks.Replicas = 2, 2, 2
		}, "warning replicas", "2 replicas", false},
		{"a node is away", func(f *facts) { clustered(f); f.nats.Events.Alive = 2 }, "warning replicas", "2 of 3", false},
		{"one replica in a cluster", func(f *facts) { clustered(f); f.nats.Events.Replicas, f.nats.Marks.Replicas = 1, 1 }, "warning replicas", "though NATS is a cluster", false},
		{"never flushed", func(f *facts) { f.sync = natsd.SyncNever }, "error sync", "nats_sync is never", true},
		{"outside, flush not known", func(f *facts) { outside(f); f.monitors = nil }, "warning sync", "not known", false},
		{"outside, monitor away", func(f *facts) { outside(f); f.monitors[0].Err = errors.New("refused") }, "warning sync", "refused", false},
		{"outside, flushed by and by", func(f *facts) { outside(f); f.monitors[0] = jetstream.Monitored{SyncInterval: 2 * time.Minute} }, "error sync", "every 2m,", true},
		{"cluster, one of three known", func(f *facts) { clustered(f); f.monitors = f.monitors[:1] }, "warning sync", "1 of 3", false},
		{"short window", func(f *facts) { f.nats.Events.Window = time.Hour }, "warning window", "is 1h", false},
		{"window beyond age", func(f *facts) { f.nats.Events.Window = 721 * time.Hour }, "error window", "longer", true},
		{"no age", func(f *facts) { f.nats.Events.Age = 0 }, "", "", false},
		{"little room", func(f *facts) { f.nats.Room = 500 }, "warning max_payload", "bodies of 500", false},
		{"small messages", func(f *facts) { f.nats.Events.MaxMessage = 64 << 10 }, "warning max_payload", "max_msg_size", false},
		{"clock off", func(f *facts) { f.nats.Skew = -2 * time.Second }, "warning clock", "2s", false},
		{"clock far off", func(f *facts) { f.nats.Skew = 6 * time.Minute }, "error clock", "6m0s", false},
		{"slow answer", func(f *facts) { f.nats.Skew, f.nats.SkewError = 2*time.Second, 1500*time.Millisecond }, "", "", false},
		{"open embedded", func(f *facts) { f.natsListen = append(f.natsListen, ":9222") }, "warning access", ":9222", false},
		{"open embedded, with teams", func(f *facts) { f.natsListen, f.closed = append(f.natsListen, ":9222"), true }, "", "", false},
		{"open outside", func(f *facts) { outside(f); f.nats.Auth = false }, "warning access", "no password", false},
		{"open outside, near", func(f *facts) { outside(f); f.nats.Auth, f.natsHost = false, "127.0.0.1" }, "", "", false},
		{"wide rights", func(f *facts) { outside(f); f.nats.Hears, f.nats.Speaks = true, true }, "warning access", "subscribe to everything and publish anywhere", false},
		{"wider rights", func(f *facts) { outside(f); f.nats.Told, f.nats.Wider = true, []string{"a.>", "b.>", "c.>", "d.>"} }, "warning access", "use a.>, b.>, c.> and 1 more beyond", false},
		{"rights that lack something", func(f *facts) { outside(f); f.nats.Told, f.nats.Lacks = true, []string{"relay.dlq.>"} }, "warning access", "may not use relay.dlq.>", false},
		{"rights as printed", func(f *facts) { outside(f); f.nats.Told, f.nats.Account, f.teams = true, "TOGETHER", 2 }, "", "", false},
		{"operator", func(f *facts) { outside(f); f.nats.Hears, f.nats.Speaks, f.nats.User = true, true, "together-operator" }, "", "", false},
		{"teams in the global account", func(f *facts) { outside(f); f.nats.Account, f.teams = "$G", 2 }, "warning access", "nothing keeps the teams apart", false},
		{"no teams in the global account", func(f *facts) { outside(f); f.nats.Account = "$G" }, "", "", false},
		{"teams, and no password", func(f *facts) { outside(f); f.nats.Auth, f.natsHost, f.teams = false, "127.0.0.1", 2 }, "warning access", "nothing keeps the teams apart", false},
		{"system account", func(f *facts) { outside(f); f.nats.Account = "$SYS" }, "warning access", "system account", false},
		{"disk full", func(f *facts) { f.disk.Free = 1 << 20 }, "warning disk", "1.0 MiB are free", false},
		{"disk smaller than the store", func(f *facts) { f.disk.Store = 60 << 30 }, "warning disk", "60.0 GiB", false},
		{"disk not known", func(f *facts) { f.diskErr = errors.New("unsupported") }, "", "", false},
		{"memory file system", func(f *facts) { f.disk.InMemory, f.disk.FileSystem = true, "tmpfs" }, "error filesystem", "tmpfs", true},
		{"no syncfs", func(f *facts) { f.disk.NoFlush, f.disk.FileSystem = true, "fuse" }, "warning filesystem", "fuse", false},
		{"no syncfs needed", func(f *facts) { f.disk.NoFlush, f.sync = true, natsd.SyncAlways }, "", "", false},
		{"open secret", func(f *facts) { f.files = map[string]fs.FileMode{"/s/one": 0o600, "/s/two": 0o644} }, "warning secrets", "/s/two has mode 0644", false},
		{"closed secret", func(f *facts) { f.files = map[string]fs.FileMode{"/s/one": 0o640} }, "", "", false},
		{"public URL", func(f *facts) { f.listen = ":8080" }, "warning public_url", "localhost", false},
		{"true public URL", func(f *facts) { f.listen, f.publicURL = ":8080", "https://relay.example.com" }, "", "", false},
		{"no key", func(f *facts) { f.key = false }, "", "", false},
		{"refused key", func(f *facts) { f.whoami = fmt.Errorf("401: %w", relay.ErrKeyRefused) }, "error watcher", "refuses", false},
		{"API away", func(f *facts) { f.whoami = errors.New("timeout") }, "warning watcher", "timeout", false},
		{"marks with fewer copies", func(f *facts) { clustered(f); f.nats.Marks.Replicas = 1 }, "warning marks", "1 replica, the events 3", false},
		{"no marks yet", func(f *facts) { f.nats.Marks.Exists = false }, "", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := soundFacts()
			test.change(&f)
			all := diagnose(f)
			seen := false
			for _, one := range all {
				if one.Level == levelOK || one.Level == levelNote {
					continue
				}
				if one.Why == "" || one.Do == "" {
					t.Errorf("%+v does not say why it matters, or what to do", one)
				}
				is := one.Level+" "+one.Check == test.want && strings.Contains(one.Found, test.says)
				seen = seen || is
				if !is && (test.want == "" || one.Level+" "+one.Check != test.want) && test.name != "no JetStream" && test.name != "two replicas" {
					t.Errorf("too much was found: %+v", one)
				}
			}
			if !seen && test.want != "" {
				t.Errorf("%q with %q was not found in %+v", test.want, test.says, all)
			}
			if breaks := len(broken(all)) > 0; breaks != test.breaks {
				t.Errorf("a promise is broken: %v, want %v", breaks, test.breaks)
			}
		})
	}
}

func TestSurvivals(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*facts)
		want   string // relay, broker, power, disk, node: y, n or u
	}{
		{"embedded", func(*facts) {}, "yyynn"},
		{"embedded, never flushed", func(f *facts) { f.sync = natsd.SyncNever }, "yynnn"},
		{"embedded, in a memory file system", func(f *facts) { f.disk.InMemory = true }, "yynnn"},
		{"outside", outside, "yyynn"},
		{"outside, flush not known", func(f *facts) { outside(f); f.monitors = nil }, "yyunn"},
		{"outside, flushed by and by", func(f *facts) { outside(f); f.monitors[0].SyncAlways = false }, "yynnn"},
		{"outside, async", func(f *facts) { outside(f); f.nats.Events.Async = true }, "ynnnn"},
		{"memory", func(f *facts) { outside(f); f.nats.Events.Memory = true }, "ynnnn"},
		{"embedded, memory", func(f *facts) { f.nats.Events.Memory = true }, "nnnnn"},
		{"cluster", clustered, "yyyyy"},
		{"cluster, memory", func(f *facts) { clustered(f); f.nats.Events.Memory = true }, "yynyy"},
		{"cluster, a node is away", func(f *facts) { clustered(f); f.nats.Events.Alive = 2 }, "yyynn"},
		{"cluster, flushed by and by", func(f *facts) { clustered(f); f.monitors = []jetstream.Monitored{{}} }, "yynyy"},
		{"cluster without streams", func(f *facts) { clustered(f); f.nats.Events = jetstream.StreamSeen{} }, "yyyyy"},
		{"two replicas", func(f *facts) { clustered(f); f.nats.Events.Replicas, f.nats.Events.Alive = 2, 2 }, "yyynn"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := soundFacts()
			test.change(&f)
			var words []string
			for _, one := range survivals(f) {
				words = append(words, string(one.Survives[:1]))
			}
			if got := strings.Join(words, ""); got != test.want {
				t.Errorf("it survives %s, want %s: %+v", got, test.want, survivals(f))
			}
		})
	}
}
