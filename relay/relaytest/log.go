// Package relaytest holds an in-memory log with failure dials, and the suite of promises
// that every log must keep.
package relaytest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"together-relay/relay"
)

// A Log is a [relay.Log] in memory. The zero value is ready to use, by many goroutines.
type Log struct {
	mu      sync.Mutex
	fail    error
	limit   int
	events  []relay.Event
	letters []relay.DeadLetter
	places  map[string]uint64 // by source and id
}

// Fail makes every call fail with a [*relay.NotStored] of this cause; nil ends that.
func (l *Log) Fail(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = cause
}

// Limit makes an event with more data than that too large; 0 is no limit.
func (l *Log) Limit(bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit = bytes
}

// Append implements [relay.Log].
func (l *Log) Append(_ context.Context, ev relay.Event) (relay.Stored, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return relay.Stored{}, &relay.NotStored{Cause: l.fail, RetryAfter: time.Second}
	}
	if l.limit > 0 && len(ev.CloudEvent.DataEncoded) > l.limit {
		return relay.Stored{}, &relay.Unusable{Reason: relay.ReasonSize, Detail: "too large"}
	}
	key := ev.Source + ":" + ev.CloudEvent.ID()
	subject := ev.Source + "." + ev.Type + "." + ev.Resource
	if seq, ok := l.places[key]; ok {
		return relay.Stored{Subject: subject, Sequence: seq, Duplicate: true}, nil
	}
	if seq := l.twin(ev); ev.Shared && seq > 0 {
		return relay.Stored{Subject: subject, Sequence: seq, Duplicate: true}, nil
	}
	// The body is on loan, and the data is part of it.
	ev.CloudEvent = ev.CloudEvent.Clone()
	ev.Head, ev.Tail = bytes.Clone(ev.Head), bytes.Clone(ev.Tail)
	l.events = append(l.events, ev)
	if l.places == nil {
		l.places = map[string]uint64{}
	}
	l.places[key] = uint64(len(l.events))
	return relay.Stored{Subject: subject, Sequence: l.places[key]}, nil
}

// twin is where an event of the same fact lies that came by another ingress, or 0.
func (l *Log) twin(ev relay.Event) uint64 {
	ingress := func(ev relay.Event) any { return ev.CloudEvent.Extensions()["ingress"] }
	at := slices.IndexFunc(l.events, func(other relay.Event) bool {
		return other.Source == ev.Source && other.Type == ev.Type && other.Resource == ev.Resource &&
			relay.SameFact(other.Fact, ev.Fact) && ingress(other) != ingress(ev)
	})
	return uint64(at + 1)
}

// Bury implements [relay.Log].
func (l *Log) Bury(_ context.Context, letter relay.DeadLetter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return &relay.NotStored{Cause: l.fail, RetryAfter: time.Second}
	}
	same := func(other relay.DeadLetter) bool {
		return other.Source == letter.Source && bytes.Equal(other.Body, letter.Body)
	}
	if !slices.ContainsFunc(l.letters, same) {
		letter.Body = bytes.Clone(letter.Body)
		l.letters = append(l.letters, letter)
	}
	return nil
}

// Events are the stored events in order.
func (l *Log) Events() []relay.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

// Letters are the dead letters in order.
func (l *Log) Letters() []relay.DeadLetter {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.letters)
}

// ErrAway is a cause to fail with.
var ErrAway = errors.New("the stream is away")
