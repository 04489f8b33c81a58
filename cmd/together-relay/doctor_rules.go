package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strings"
	"time"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/natsd"
	"together-relay/relay"
)

// Facts are what was gathered of a set-up. The rules below judge them and ask nothing.
type facts struct {
	embedded   bool
	sync       string // of the embedded server
	disk       natsd.Disk
	diskErr    error
	nats       jetstream.Inspection
	monitors   []jetstream.Monitored
	natsHost   string // of an outside server
	replicas   int    // as configured
	maxBody    int64
	tolerance  time.Duration // the smallest of the sources
	listen     string
	natsListen []string // of the embedded server
	closed     bool     // the embedded server asks for passwords
	teams      int      // in the file
	publicURL  string
	files      map[string]fs.FileMode // of secrets, by path

	key      bool  // the relay watches the API
	whoami   error // nil if the API took the key
	ready    string
	readyErr error // nobody answers
}

const (
	levelOK      = "ok"
	levelNote    = "note"
	levelWarning = "warning"
	levelError   = "error"
)

// A finding is what one rule says of the facts.
type finding struct {
	Level string `json:"level"`
	Check string `json:"check"`
	Found string `json:"found"`
	Why   string `json:"why,omitempty"`
	Do    string `json:"do,omitempty"`
	// Breaks says that a promise does not hold: serve --strict does not start.
	Breaks bool `json:"breaks_promise,omitempty"`
}

// diagnose lists what is to be said of a set-up: one finding for each rule, or more.
func diagnose(f facts) []finding {
	var all []finding
	for _, rule := range []func(facts) []finding{
		judgeRelay, judgeServer, judgeStreams, judgeReplicas, judgeSync, judgeWindow, judgePayload, judgeClock,
		judgeAccess, judgeDisk, judgeSecrets, judgePublicURL, judgeWatcher,
	} {
		all = append(all, rule(f)...)
	}
	return all
}

// broken are the findings with which a promise does not hold.
func broken(all []finding) []finding {
	var some []finding
	for _, one := range all {
		if one.Breaks {
			some = append(some, one)
		}
	}
	return some
}

func one(level, check, found string, why ...string) []finding {
	f := finding{Level: level, Check: check, Found: found}
	if len(why) > 0 {
		f.Why = why[0]
	}
	if len(why) > 1 {
		f.Do = why[1]
	}
	return []finding{f}
}

// breaking is an error with which a promise does not hold.
func breaking(check, found, why, do string) []finding {
	return []finding{{Level: levelError, Check: check, Found: found, Why: why, Do: do, Breaks: true}}
}

func judgeRelay(f facts) []finding {
	switch {
	case f.readyErr != nil:
		return one(levelNote, "relay", "no relay answers here: "+f.readyErr.Error(), "only the configuration and NATS are looked at", "start the relay, or run doctor beside it")
	case f.ready != "":
		return one(levelError, "relay", f.ready, "senders are answered 503 until it is ready", "mend what it names; the findings below may say how")
	}
	return one(levelOK, "relay", "the relay is ready")
}

func judgeAccess(f facts) []finding {
	var all []finding
	add := func(more []finding) { all = append(all, more...) }
	if f.embedded && f.closed {
		add(one(levelOK, "access", "the embedded NATS server asks for passwords, and each team has an account of its own"))
		return all
	}
	if f.embedded {
		for _, address := range f.natsListen {
			if !loopback(address) {
				add(one(levelWarning, "access", "the embedded NATS server listens on "+address+" and asks for no password", "whoever reaches it may read every event and write what looks like one",
					"set RELAY_NATS_LISTEN to 127.0.0.1:4222, or name teams in relay.yaml: then it asks for passwords"))
			}
		}
		if all == nil {
			add(one(levelNote, "access", "the embedded NATS server asks for no password, and only this machine reaches it", "every user of this machine may read and write events"))
		}
		return all
	}
	if f.nats.Account == jetstream.SystemAccount {
		add(one(levelWarning, "access", "the relay's user belongs to the system account", "it may look into every account and shut servers down", "give the relay a user of an account of its own"))
	}
	if f.teams > 0 && (!f.nats.Auth || f.nats.Account == jetstream.GlobalAccount) {
		add(one(levelWarning, "access", "nothing keeps the teams apart: the streams are in the global account", "a team may read, and write, what is there for others", moved))
	}
	switch near := loopback(net.JoinHostPort(f.natsHost, "0")); {
	case !f.nats.Auth && near:
		add(one(levelNote, "access", "the NATS server asks for no password, and is reached on this machine", "whoever reaches it may read every event and write what looks like one", "give it users before others can reach it: "+printed))
	case !f.nats.Auth:
		add(one(levelWarning, "access", "the NATS server asks for no password", "whoever reaches it may read every event and write what looks like one", "give it users: "+printed+"; then set NATS_USER and NATS_PASSWORD_FILE"))
	case f.nats.User == natsd.OperatorUser:
		add(one(levelNote, "access", "doctor runs as "+natsd.OperatorUser+", who may do everything in the account", "what the relay's own user may do is not seen so", "run doctor with the relay's NATS_USER, too"))
	default:
		add(judgeRights(f))
	}
	return all
}

// What to do about users whose rights are too wide.
const (
	printed = "together-relay teams nats-config prints what is enough"
	moved   = printed + "; An outside NATS server in the README tells how events move to another account"
)

// judgeRights is about the relay's own user at an outside server.
func judgeRights(f facts) []finding {
	var all []finding
	var may []string
	if f.nats.Hears {
		may = append(may, "subscribe to everything")
	}
	if f.nats.Speaks {
		may = append(may, "publish anywhere")
	}
	if len(f.nats.Wider) > 0 {
		may = append(may, "use "+few(f.nats.Wider)+" beyond what a relay needs")
	}
	if len(may) > 0 {
		all = append(all, one(levelWarning, "access", "the relay's user may "+strings.Join(may, " and "), "who takes its credentials has all of that, too", printed)...)
	}
	if len(f.nats.Lacks) > 0 {
		all = append(all, one(levelWarning, "access", "the relay's user may not use "+few(f.nats.Lacks), "what needs them fails, and the log says so", printed)...)
	}
	switch {
	case all != nil:
		return all
	case !f.nats.Told:
		return one(levelOK, "access", "the relay's user may not subscribe to everything or publish anywhere")
	}
	return one(levelOK, "access", "the relay's user may do what a relay needs, and no more")
}

// few names some of the subjects.
func few(subjects []string) string {
	const some = 3
	if len(subjects) <= some {
		return strings.Join(subjects, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(subjects[:some], ", "), len(subjects)-some)
}

// loopback says whether an address that is listened on, or asked, is for this machine alone.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

const leastFree = 1 << 30

func judgeDisk(f facts) []finding {
	if !f.embedded {
		return nil
	}
	if f.diskErr != nil {
		return one(levelNote, "disk", f.diskErr.Error())
	}
	var all []finding
	switch d := f.disk; {
	case d.InMemory:
		all = breaking("filesystem", "the data directory lies on "+d.FileSystem+", in memory", "a power cut, or a restart of the machine, loses every event", "set RELAY_DATA_DIR to a directory on a disk")
	case d.NoFlush && f.sync == natsd.SyncGroup:
		all = one(levelWarning, "filesystem", "the data directory lies on "+d.FileSystem, "the flush of a whole file system may do nothing there and say that all is well", "set RELAY_DATA_DIR to a directory on a local disk, or RELAY_NATS_SYNC=always")
	default:
		all = one(levelOK, "filesystem", "the data directory lies on "+cmp.Or(d.FileSystem, "a local file system"))
	}
	if free := f.disk.Free; free < max(f.disk.Store, leastFree) {
		return append(all, one(levelWarning, "disk", fmt.Sprintf("%s are free, the store takes %s", about(free), about(f.disk.Store)), "a full disk is a 503 for every sender, until there is room and a restart", "make room, or set RELAY_MAX_BYTES or a shorter RELAY_MAX_AGE")...)
	}
	return append(all, one(levelOK, "disk", fmt.Sprintf("%s are free, the store takes %s", about(f.disk.Free), about(f.disk.Store)))...)
}

func about(n int64) string {
	for _, u := range units[:3] {
		if n < u.size<<10 {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%.1f TiB", float64(n)/(1<<40))
}

func judgeSecrets(f facts) []finding {
	var all []finding
	for _, path := range sortedNames(f.files) {
		if mode := f.files[path].Perm(); mode&0o004 != 0 {
			all = append(all, one(levelWarning, "secrets", fmt.Sprintf("%s has mode %04o", path, mode), "every user of this machine may read the secret", "chmod o-rwx "+path)...)
		}
	}
	if all == nil && len(f.files) > 0 {
		return one(levelOK, "secrets", "the files with secrets are closed to others")
	}
	return all
}

func judgePublicURL(f facts) []finding {
	u, err := url.Parse(f.publicURL)
	if err != nil || !loopback(net.JoinHostPort(u.Hostname(), "0")) || loopback(f.listen) {
		return one(levelOK, "public_url", f.publicURL)
	}
	return one(levelWarning, "public_url", "public_url is "+f.publicURL+", though the relay listens on "+f.listen, "dataschema of every event points there, and no other machine can follow it", "set RELAY_PUBLIC_URL to where the outside reaches the relay")
}

func judgeWatcher(f facts) []finding {
	var all []finding
	switch {
	case !f.key && f.nats.Marks.Exists:
		all = one(levelNote, "watcher", "no API key is set here, but there are a watcher's marks, so a relay may watch the Together API", "whether its key is good is not known", "set TOGETHER_API_KEY here, too")
	case !f.key:
		all = one(levelNote, "watcher", "no API key is set, so the Together API is not watched", "Together's documented API sends no webhooks", "set TOGETHER_API_KEY, unless only your own senders matter")
	case errors.Is(f.whoami, relay.ErrKeyRefused):
		all = one(levelError, "watcher", "the Together API refuses the key", "nothing of it is seen", "set another TOGETHER_API_KEY and restart")
	case f.whoami != nil:
		all = one(levelWarning, "watcher", "the Together API does not say what the key belongs to: "+f.whoami.Error(), "it may be away, or the key may not ask that; the log of the relay shows whether its looks succeed", "look for the relay's log lines of the part watch")
	default:
		all = one(levelOK, "watcher", "the Together API takes the key")
	}
	switch marks := f.nats.Marks; {
	case !marks.Exists && f.key && f.nats.Disabled == "":
		all = append(all, one(levelNote, "marks", "the watcher has no marks yet", "its first look sets a baseline, and publishes nothing that was over before")...)
	case marks.Exists && marks.Replicas != f.copies():
		all = append(all, one(levelWarning, "marks", fmt.Sprintf("the watcher's marks have %s, the events %d", several(marks.Replicas, "replica"), f.copies()), "without its marks the watcher begins with a new baseline, and misses what happened in between",
			fmt.Sprintf("nats stream edit %s --replicas %d", marks.Name, f.copies()))...)
	}
	return all
}
