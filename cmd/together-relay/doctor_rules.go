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

func judgeServer(f facts) []finding {
	if f.nats.Disabled != "" {
		return one(levelError, "jetstream", "JetStream cannot be used: "+f.nats.Disabled, "the events are kept by JetStream; without it nothing is stored",
			"put jetstream { store_dir: … } into the server's configuration, and jetstream: enabled into the account's")
	}
	if older(f.nats.Version, 2, 12) {
		return one(levelWarning, "version", "NATS "+f.nats.Version, "servers before 2.12 have known ways to lose acknowledged messages, and no batches", "upgrade NATS to 2.12 or later")
	}
	return one(levelOK, "version", "NATS "+f.nats.Version+" with JetStream")
}

// older says whether a version such as 2.11.3 comes before another. One that cannot be read does.
func older(version string, major, minor int) bool {
	var x, y int
	if _, err := fmt.Sscanf(version, "%d.%d", &x, &y); err != nil {
		return true
	}
	return x < major || x == major && y < minor
}

// effect says why a drift of a setting matters.
func effect(setting string) string {
	switch setting {
	case "storage":
		return "what lies in memory is gone when the server ends"
	case "subjects":
		return "an event whose subject is not among them cannot be stored"
	case "retention":
		return "events go when consumers have taken them; later readers miss them, and ids are forgotten"
	case "discard", "max_msgs_per_subject":
		return "a full stream drops the oldest events silently, instead of telling the sender"
	case "duplicate_window":
		return "an event that is sent again after it is stored twice"
	case "replicas":
		return "the events survive the loss of fewer nodes than configured"
	case "no_ack", "sealed":
		return "nothing is acknowledged, so nothing is answered 200"
	case "persist_mode":
		return "an event is acknowledged before it is written, whatever the server's sync_interval says"
	case "subject_transform":
		return "events lie under other subjects than subscribers expect"
	case "max_age":
		return "events are kept for another time than configured"
	case "max_bytes", "max_msgs":
		return "a full stream is a 503 for the sender"
	case "max_msg_size":
		return "a larger event becomes a dead letter"
	case "allow_direct":
		return "looking up an event burdens the stream's leader"
	case "allow_atomic":
		return "events cannot be stored in batches; it is only slower"
	}
	return "it is not what is configured"
}

func judgeStreams(f facts) []finding {
	var all []finding
	for _, s := range []jetstream.StreamSeen{f.nats.Events, f.nats.Dead} {
		switch {
		case f.nats.Disabled != "":
			return nil
		case s.Trouble != "":
			all = append(all, one(levelError, "streams", "stream "+s.Name+" cannot be looked at: "+s.Trouble, "it has no leader, or this user may not ask; the relay could not store either",
				"look at nats stream info "+s.Name+", and at the user's permissions")...)
		case !s.Exists:
			all = append(all, one(levelError, "streams", "stream "+s.Name+" is not there", "nothing can be stored", "start the relay, which makes it unless provision is check")...)
		default:
			all = append(all, one(levelOK, "streams", "stream "+s.Name+" is there, "+storageOf(s)+", duplicate window "+span(s.Window)+", max age "+span(s.Age))...)
		}
	}
	for _, d := range f.nats.Drifts {
		do := "run serve --provision=apply, or configure what is there"
		if d.Setting == "storage" {
			do = "copy the events elsewhere, delete the stream and let the relay make it: NATS does not change the storage"
		}
		drift := one(levelWarning, d.Setting, d.String(), effect(d.Setting), do)
		if d.Breaks || d.Setting == "replicas" && d.Have < d.Want {
			drift = breaking(d.Setting, d.String(), effect(d.Setting), do)
		}
		all = append(all, drift...)
	}
	return all
}

func storageOf(s jetstream.StreamSeen) string {
	if s.Memory {
		return "in memory"
	}
	return "on file"
}

func span(d time.Duration) string {
	if d == 0 {
		return "unlimited"
	}
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// copies is how many replicas of the events there are, or would be.
func (f facts) copies() int {
	if f.nats.Events.Exists {
		return f.nats.Events.Replicas
	}
	return f.replicas
}

func judgeReplicas(f facts) []finding {
	n, s := f.copies(), f.nats.Events
	switch {
	case s.Exists && n > 1 && s.Alive < n:
		return one(levelWarning, "replicas", fmt.Sprintf("%d of %d replicas are there", s.Alive, n), "the next loss may leave no majority, and then nothing is stored", "bring the missing NATS nodes back")
	case n == 1 && f.nats.Cluster != "":
		return one(levelWarning, "replicas", "one replica, though NATS is a cluster", "all events lie on one node; while it is away nothing is stored, and with its disk they are gone", "set RELAY_REPLICAS=3 and run serve --provision=apply")
	case n == 1:
		return one(levelNote, "replicas", "one replica", "all events lie on one node's disk", "for the loss of a node or its disk: three NATS nodes and RELAY_REPLICAS=3; else take back-ups")
	case n%2 == 0:
		return one(levelWarning, "replicas", fmt.Sprintf("%d replicas", n), fmt.Sprintf("a majority is needed to store, so %d survive no more lost nodes than %d", n, n-1), fmt.Sprintf("set RELAY_REPLICAS=%d", min(n+1, 5)))
	}
	return one(levelOK, "replicas", fmt.Sprintf("%d replicas: the loss of %s is survived", n, several(n/2, "node")))
}

// synced says whether an acknowledged event is on disk: yes, no, or unknown.
func (f facts) synced() answerWord {
	if f.nats.Events.Async {
		return no
	}
	if f.embedded {
		if f.sync == natsd.SyncNever {
			return no
		}
		return yes
	}
	known := 0
	for _, m := range f.monitors {
		if m.Err != nil {
			continue
		}
		if !m.SyncAlways {
			return no
		}
		known++
	}
	if known == 0 || known < f.copies() {
		return unknown
	}
	return yes
}

func judgeSync(f facts) []finding {
	const why = "a power cut loses what was answered 200 and not flushed yet"
	var all []finding
	if f.nats.Disabled != "" {
		return nil
	}
	if f.embedded {
		if f.sync == natsd.SyncNever {
			return breaking("sync", "nats_sync is never", why, "set RELAY_NATS_SYNC=group, or leave it out")
		}
		return one(levelOK, "sync", "every event is flushed to disk before the answer (nats_sync: "+f.sync+")")
	}
	known := 0
	for _, m := range f.monitors {
		switch {
		case m.Err != nil:
			all = append(all, one(levelWarning, "sync", m.Err.Error(), "so it is not known whether this server flushes", "set http: or http_port: in the server's configuration, and RELAY_MONITOR to where this machine reaches it")...)
		case !m.SyncAlways:
			all = append(all, breaking("sync", fmt.Sprintf("server %s flushes every %s, not each message", m.Server, span(m.SyncInterval)), why, "set jetstream { sync_interval: always } on every NATS server and restart it")...)
		default:
			known++
			all = append(all, one(levelOK, "sync", "server "+m.Server+" flushes each message (sync_interval: always)")...)
		}
	}
	switch {
	case len(f.monitors) == 0:
		all = append(all, one(levelWarning, "sync", "it is not known whether the NATS server flushes each message",
			"a server tells that on its monitoring port alone; the default is every two minutes, and then "+why,
			"give --monitor http://HOST:8222, or look for sync_interval: always in the server's configuration")...)
	case f.synced() == unknown && known > 0:
		all = append(all, one(levelWarning, "sync", fmt.Sprintf("%d of %d replicas are known to flush each message", known, f.copies()), why+" on the others", "name the monitoring port of every NATS server in --monitor, separated by commas")...)
	}
	return all
}

// retryHorizon is how long senders of webhooks try again.
const retryHorizon = 72 * time.Hour

func judgeWindow(f facts) []finding {
	s := f.nats.Events
	switch {
	case !s.Exists:
		return nil
	case s.Age > 0 && s.Window > s.Age:
		return breaking("window", fmt.Sprintf("the duplicate window is %s, longer than the max age of %s", span(s.Window), span(s.Age)),
			"an id is remembered no longer than its event is kept", "set RELAY_MAX_AGE to more than RELAY_DEDUP_WINDOW and run serve --provision=apply")
	case s.Window < retryHorizon:
		return one(levelWarning, "window", "the duplicate window is "+span(s.Window), "senders may try again for "+span(retryHorizon)+"; what comes after the window is stored twice",
			"set RELAY_DEDUP_WINDOW=72h and run serve --provision=apply")
	}
	return one(levelOK, "window", "an id is remembered for "+span(s.Window))
}

func judgePayload(f facts) []finding {
	limit, name := f.nats.Room, "max_payload"
	if most := f.nats.Events.MaxMessage; most > 0 && most-jetstream.HeaderRoom < limit {
		limit, name = max(most-jetstream.HeaderRoom, most/2), "max_msg_size"
	}
	if limit < f.maxBody {
		return one(levelWarning, "max_payload", fmt.Sprintf("NATS has room for bodies of %s (%s less headers), max_body is %s", size(limit), name, size(f.maxBody)),
			"larger deliveries are turned away, or become dead letters", fmt.Sprintf("set %s on NATS to %s or more, or RELAY_MAX_BODY to %d", name, size(f.maxBody+jetstream.HeaderRoom), limit))
	}
	return one(levelOK, "max_payload", "the largest body of "+size(f.maxBody)+" fits into a message")
}

func size(n int64) string {
	b := byteSize(n)
	return b.String()
}

func judgeClock(f facts) []finding {
	if !f.nats.SkewKnown {
		return nil
	}
	off := max(f.nats.Skew.Abs()-f.nats.SkewError, 0)
	says := fmt.Sprintf("NATS's clock differs from ours by %s", f.nats.Skew.Abs().Round(time.Millisecond))
	switch {
	case off > f.tolerance:
		return one(levelError, "clock", says, "it is more than the timestamp tolerance of "+span(f.tolerance)+": one of the clocks is wrong, and signed deliveries may be refused", "set the clocks by NTP on both machines")
	case off > time.Second:
		return one(levelWarning, "clock", says, "times of arrival and of storing do not agree, and looking back by time misses events", "set the clocks by NTP on both machines")
	}
	return one(levelOK, "clock", "NATS's clock agrees with ours")
}

func judgeAccess(f facts) []finding {
	var all []finding
	add := func(more []finding) { all = append(all, more...) }
	if f.embedded {
		for _, address := range f.natsListen {
			if !loopback(address) {
				add(one(levelWarning, "access", "the embedded NATS server listens on "+address+" and asks for no password", "whoever reaches it may read every event and write what looks like one",
					"set RELAY_NATS_LISTEN to 127.0.0.1:4222, or run a NATS server with users and set NATS_URL"))
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
	switch near := loopback(net.JoinHostPort(f.natsHost, "0")); {
	case !f.nats.Auth && near:
		add(one(levelNote, "access", "the NATS server asks for no password, and is reached on this machine", "whoever reaches it may read every event and write what looks like one", "give it users before others can reach it"))
	case !f.nats.Auth:
		add(one(levelWarning, "access", "the NATS server asks for no password", "whoever reaches it may read every event and write what looks like one", "give it users, and set NATS_USER and NATS_PASSWORD or NATS_CREDS"))
	case f.nats.Hears || f.nats.Speaks:
		var may []string
		if f.nats.Hears {
			may = append(may, "subscribe to everything")
		}
		if f.nats.Speaks {
			may = append(may, "publish anywhere")
		}
		add(one(levelWarning, "access", "the relay's user may "+strings.Join(may, " and "), "who takes its credentials has all of the account", "allow it no more than its streams' subjects, the JetStream API and its inbox, _INBOX_relay.>"))
	default:
		add(one(levelOK, "access", "the relay's user may not subscribe to everything or publish anywhere"))
	}
	return all
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

type answerWord string

const (
	yes     answerWord = "yes"
	no      answerWord = "no"
	unknown answerWord = "unknown"
)

// A survival says what is left of what was answered 200 after a failure.
type survival struct {
	Failure  string     `json:"failure"`
	Survives answerWord `json:"survives"`
	Why      string     `json:"why"`
}

// survivals say which failures the set-up survives: no event that was answered 200 is lost.
func survivals(f facts) []survival {
	n, memory, async := f.copies(), f.nats.Events.Memory || f.embedded && f.disk.InMemory, f.nats.Events.Async
	alive := n
	if f.nats.Events.Exists {
		alive = f.nats.Events.Alive
	}
	spare := n > 2 && alive-1 > n/2
	say := func(failure string, w answerWord, why string) survival { return survival{failure, w, why} }
	crash := say("crash of the broker", yes, "what was answered is on its file; senders get 503 until it is back")
	switch {
	case f.nats.Events.Memory && spare:
		crash.Why = "the other replicas hold the events in memory, and store on after an election"
	case f.nats.Events.Memory:
		crash = say(crash.Failure, no, "the events lie in memory")
	case async:
		crash = say(crash.Failure, no, "events are acknowledged before they are written")
	case spare:
		crash.Why = "the other nodes store on after an election of some seconds"
	}
	process := say("crash of the relay", yes, "what was answered is with NATS; the senders of the rest try again")
	if f.embedded {
		process.Survives, process.Why = crash.Survives, "broker and relay are one process: "+crash.Why
	}
	power := say("power cut", yes, "every event is flushed before the answer")
	switch {
	case memory:
		power = say(power.Failure, no, "the events lie in memory")
	case f.synced() == no && n > 2 && !async:
		power = say(power.Failure, no, "if it hits a majority of the nodes at once: what was not flushed yet is lost")
	case f.synced() == no:
		power = say(power.Failure, no, "what was answered and not flushed yet is lost")
	case f.synced() == unknown:
		power = say(power.Failure, unknown, "it is not known whether NATS flushes each message; see sync above")
	}
	disk := say("loss of a disk", no, "there is one copy of the events: what is not in a back-up is lost")
	node := say("loss of a node", no, "there is one copy of the events, on that node; nothing is stored until it is back")
	switch {
	case spare:
		disk = say(disk.Failure, yes, fmt.Sprintf("each event lies on %d nodes; the node is filled again from the others", n))
		node = say(node.Failure, yes, fmt.Sprintf("%d of %d nodes are a majority and store on; it holds if the nodes do not share a host", alive-1, n))
	case n > 1:
		disk.Why = fmt.Sprintf("%d of %d nodes are no majority: nothing is stored until somebody mends the stream", alive-1, n)
		node.Why = disk.Why
	}
	return []survival{process, crash, power, disk, node}
}
