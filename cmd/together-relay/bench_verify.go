package main

import (
	"context"
	"time"

	"together-relay/adapters/jetstream"
)

// A ledger keeps what is known of each event, in a byte.
type ledger struct {
	chunks []*[ledgerChunk]byte
}

const ledgerChunk = 1 << 16

const (
	wasStored = 1 << iota // answered 200
	wasUnsure             // an answer was lost, or said that nobody knows
	wasFound              // in the stream
	wasFoundTwice
)

func (l *ledger) mark(event int64, bit byte) {
	for int64(len(l.chunks)) <= event/ledgerChunk {
		l.chunks = append(l.chunks, new([ledgerChunk]byte))
	}
	l.chunks[event/ledgerChunk][event%ledgerChunk] |= bit
}

// of is what is known of an event; 0 is nothing.
func (l *ledger) of(event int64) byte {
	if event < 0 || event/ledgerChunk >= int64(len(l.chunks)) {
		return 0
	}
	return l.chunks[event/ledgerChunk][event%ledgerChunk]
}

// A verdict compares the answers of a run with the stream.
type verdict struct {
	Answered200 int64 `json:"answered_200"` // events, however often they were sent
	Once        int64 `json:"stored_once"`  // of those
	Missing     int64 `json:"missing"`      // of those
	Twice       int64 `json:"stored_twice"` // or more often, of all events
	Besides     int64 `json:"besides"`      // messages that no answer accounts for
	Unsure      int64 `json:"stored_without_200"`
	// Some of the ids that are missing, there twice or there besides.
	Wrong []string `json:"wrong"`
}

func (v *verdict) good() bool { return v.Missing == 0 && v.Twice == 0 && v.Besides == 0 }

// maxWrong is how many ids are named.
const maxWrong = 10

func (v *verdict) wrong(id string) {
	if len(v.Wrong) < maxWrong {
		v.Wrong = append(v.Wrong, id)
	}
}

// found takes a message of the stream into account.
func (v *verdict) found(l *ledger, event int64, id string) {
	known := l.of(event)
	switch {
	case known&(wasStored|wasUnsure) == 0:
		v.Besides++
		v.wrong(id)
	case known&wasFound == 0:
		l.mark(event, wasFound)
	case known&wasFoundTwice == 0:
		l.mark(event, wasFoundTwice)
		v.Twice++
		v.wrong(id)
	}
}

// close counts what is known when all messages are through.
func (v *verdict) close(l *ledger, run string) {
	for c, chunk := range l.chunks {
		for i, known := range chunk {
			switch {
			case known&wasStored == 0:
				if known&wasFound != 0 {
					v.Unsure++
				}
				continue
			case known&wasFound == 0:
				v.Missing++
				v.wrong(string(appendDigits([]byte(run), int64(c)*ledgerChunk+int64(i))))
			case known&wasFoundTwice == 0:
				v.Once++
			}
			v.Answered200++
		}
	}
}

// verify reads the stream and compares it with the answers.
func (r *benchRun) verify(ctx context.Context, s *settings) (*verdict, error) {
	reader, err := s.reader()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	v := &verdict{Wrong: []string{}}
	err = reader.Events(ctx, jetstream.Query{Since: r.start.Add(-time.Minute)}, func(m jetstream.Message) error {
		if m.Broken != nil {
			return nil // nothing that this run sent looks so
		}
		id := m.CloudEvent.ID()
		if event, ok := benchEvent(r.id, id); ok {
			v.found(r.tally.ledger, event, id)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	v.close(r.tally.ledger, r.id)
	return v, nil
}
