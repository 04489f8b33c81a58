package main

import (
	"fmt"

	"together-relay/adapters/natsd"
)

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
