package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// An exchange is one request and what came of it. Its times are measured from the beginning
// of its history, by a clock that nobody can step.
type exchange struct {
	Delivery   int           `json:"delivery"` // the tries of one delivery share it
	Start      time.Duration `json:"start"`
	End        time.Duration `json:"end"`
	Relay      int           `json:"relay"` // which of the relays was asked
	ID         string        `json:"id"`
	Kind       string        `json:"kind"`    // one of the kinds
	Sent       string        `json:"sent"`    // the body
	Data       string        `json:"data"`    // its data, for a usable one
	Subject    string        `json:"subject"` // where the contract puts it, for a usable one
	Proven     bool          `json:"proven"`  // the signature, and its time if it has one, were right
	Status     int           `json:"status"`  // 0 for no answer
	Answer     string        `json:"answer,omitempty"`
	RetryAfter string        `json:"retry_after,omitempty"`
	Error      string        `json:"error,omitempty"`
}

// What can be delivered.
const (
	usable   = "usable"
	unusable = "unusable" // signed, but no event: a dead letter
	forged   = "forged"   // signed by somebody else
)

// A spell is a time in which a relay may leave requests without an answer, because it was
// killed or stopped itself. No other fault is an excuse for that.
type spell struct {
	Relay int           `json:"relay"`
	From  time.Duration `json:"from"`
	To    time.Duration `json:"to"`
	What  string        `json:"fault"`
}

// A history is all that was asked and answered. It goes into a file as it happens, which is
// kept if the test fails.
type history struct {
	began time.Time
	path  string

	mu         sync.Mutex
	file       *os.File
	exchanges  []exchange
	asked      map[int]exchange // by delivery: requests that have no answer yet
	spells     []spell
	deliveries int
	replaced   []time.Duration // when an empty store took the place of the old one
}

func newHistory(t testing.TB, name string) *history {
	t.Helper()
	path := filepath.Join(os.TempDir(), fmt.Sprintf("together-relay-fault-%s-%d.jsonl", name, os.Getpid()))
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	h := &history{began: time.Now(), path: path, file: file, asked: map[int]exchange{}}
	t.Cleanup(func() {
		closeQuietly(file)
		if t.Failed() {
			t.Logf("the history is kept in %s; this was seed %d", h.path, *faultSeed)
			return
		}
		_ = os.Remove(h.path)
	})
	return h
}

func (h *history) now() time.Duration { return time.Since(h.began) }

func (h *history) write(v any) {
	_ = json.NewEncoder(h.file).Encode(v) // the checker does not read it
}

// ask notes a request that is about to be made, and add what came of it.
func (h *history) ask(x exchange) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked[x.Delivery] = x
}

func (h *history) add(x exchange) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.asked, x.Delivery)
	h.exchanges = append(h.exchanges, x)
	h.write(x)
}

// delivery numbers a new delivery.
func (h *history) delivery() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deliveries++
	return h.deliveries
}

// during notes a spell of the relay: as long as do takes.
func (h *history) during(relay int, what string, do func()) {
	s := spell{Relay: relay, From: h.now(), What: what}
	do()
	s.To = h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spells = append(h.spells, s)
	h.write(s)
}

// replace notes that the store is a new, empty one from now.
func (h *history) replace() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.replaced = append(h.replaced, h.now())
	h.write(map[string]any{"replaced": h.replaced[len(h.replaced)-1]})
}

// count is how many exchanges ended in the status.
func (h *history) count(status int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, x := range h.exchanges {
		if x.Status == status {
			n++
		}
	}
	return n
}

// record is a copy to check against what is stored.
func (h *history) record(stored []stored) record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return record{
		exchanges: slices.Clone(h.exchanges), asked: slices.Collect(maps.Values(h.asked)), spells: slices.Clone(h.spells),
		replaced: slices.Clone(h.replaced), stored: stored, settled: true,
	}
}
