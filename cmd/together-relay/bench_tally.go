package main

import (
	"net/http"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A tally counts what becomes of deliveries. It is safe for concurrent use.
type tally struct {
	mu       sync.Mutex
	latency  *hdrhistogram.Histogram // of answers 200, in microseconds
	statuses map[int]int64           // of every attempt
	begun    int64                   // deliveries
	stored   int64                   // deliveries answered 200
	dead     int64                   // deliveries answered 202
	lost     int64                   // deliveries answered otherwise in the end
	retries  int64
	repeated int64 // answers that said duplicate
	last     time.Time
	lastErr  error   // why there was no answer
	ledger   *ledger // nil without --verify
}

const longestLatency = time.Hour

func newTally(verify bool) *tally {
	t := &tally{latency: hdrhistogram.New(1, longestLatency.Microseconds(), 3), statuses: map[int]int64{}}
	if verify {
		t.ledger = &ledger{}
	}
	return t
}

// begin counts a delivery.
func (t *tally) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun++
}

// answered counts an attempt that ended that long after its delivery was due. Unless the
// answer says again it settles the delivery.
func (t *tally) answered(event int64, a benchAnswer, took time.Duration) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = now
	t.statuses[a.status]++
	if a.err != nil {
		t.lastErr = a.err
	}
	switch {
	case a.again:
		t.retries++
	case a.status == http.StatusOK:
		t.stored++
		// It cannot fail: the value lies within the bounds.
		_ = t.latency.RecordValue(min(max(took, time.Microsecond), longestLatency).Microseconds())
	case a.status == http.StatusAccepted:
		t.dead++
	default:
		t.lost++
	}
	if a.duplicate {
		t.repeated++
	}
	if t.ledger == nil {
		return
	}
	switch {
	case a.status == http.StatusOK:
		t.ledger.mark(event, wasStored)
	case a.status == statusNone || a.status == statusMixedUp || a.status == http.StatusRequestTimeout || a.status >= 500:
		t.ledger.mark(event, wasUnsure)
	}
}

// cut takes back that a delivery was going to be sent again.
func (t *tally) cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retries--
	t.lost++
}
