package main

import (
	"fmt"
	"strings"
	"time"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/natsd"
)

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
	for _, s := range f.nats.Beside {
		if !s.Exists && f.nats.Disabled == "" {
			all = append(all, one(levelWarning, "streams", "stream "+s.Name+" is not there", "events are stored, but the teams lack what lies on it; see Teams in the README",
				"start the relay, which makes it unless provision is check")...)
		}
	}
	for _, d := range f.nats.Drifts {
		do := "run serve --provision=apply, or configure what is there"
		if d.Setting == "storage" {
			do = "copy the events elsewhere, delete the stream and let the relay make it: NATS does not change the storage"
		}
		drift := one(levelWarning, d.Setting, d.String(), effect(d.Setting), do)
		promised := d.Stream == f.nats.Events.Name || d.Stream == f.nats.Dead.Name
		if d.Breaks || promised && d.Setting == "replicas" && d.Have < d.Want {
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
