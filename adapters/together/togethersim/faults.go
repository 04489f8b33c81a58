package togethersim

import (
	"fmt"
	"hash/fnv"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Faults are dials for what may go wrong. The zero value is an API without faults.
type Faults struct {
	Only string  // the requests they are for, by the beginning of the path; empty: all
	Rate float64 // the share of requests that fail, each in one of the ways that pass
	Seed uint64  // which ones

	// Instead of an answer.
	Status int           // 429, 500, 401 and so on; a 502 is HTML
	Hint   Hint          // how a 429 says when to come again
	After  time.Duration // and when; 0: one second
	Slow   time.Duration // of real time that an answer takes
	Cut    bool          // the body ends too early
	Reset  bool          // the connection is reset
	Huge   int64         // the body is that many bytes long

	// In lists.
	Empty     bool     // there is nothing in them
	Null      bool     // there is null instead of them
	Swap      bool     // bare arrays for objects with data, and the other way round
	Malformed bool     // one more row, which makes no sense
	Garbled   []string // the rows of these ids have members of the wrong kind
	Hidden    []string // these ids are not in them, though they can be asked for
	Missing   []string // these ids are not in them, and nobody knows of them when asked
	Shrink    float64  // the share of the catalogue that is not shown

	// In all bodies.
	UpperCase     bool // types of log entries, with COMPRESSING_MODEL for model_compressing
	Strings       bool // numbers are strings
	Floats        bool // integers are floats
	NaN           bool // metrics have the bare word NaN
	OtherCase     bool // states are in capitals where they are not, and the other way round
	OneL          bool // states are spelt canceled and canceling
	StrangeStatus bool // states that are not the last are ones that nobody knows
	StrangeEvents bool // the log has entries of a type that nobody knows
	StrangeFields bool // objects have members that nobody knows

	Webhooks bool   // /v1/webhooks exists, which it does not at Together
	Redirect string // the base of another host that contents of files are redirected to; this handler serves there as well

	lost bool // one row is not in a list of jobs
}

// A Hint is how a 429 says when to come again.
type Hint string

// The hints that have been seen.
const (
	HintNone    Hint = ""
	HintReset   Hint = "x-ratelimit-reset"
	HintSeconds Hint = "Retry-After"
	HintMillis  Hint = "Retry-After-Ms"
	HintDate    Hint = "Retry-After as a date"
)

// Set turns the dials, from the next request on.
func (w *World) Set(f Faults) {
	f.Garbled, f.Hidden, f.Missing = slices.Clone(f.Garbled), slices.Clone(f.Hidden), slices.Clone(f.Missing)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = f
}

// on are the faults of one request, the n-th of its kind.
func (f Faults) on(r *http.Request, seed uint64, n int) Faults {
	if !strings.HasPrefix(r.URL.Path, f.Only) {
		return Faults{Webhooks: f.Webhooks, Redirect: f.Redirect}
	}
	h := fnv.New64a()
	fmt.Fprint(h, r.Method, r.URL.Path)
	d := roll(seed+f.Seed, 800, h.Sum64()>>16+uint64(n))
	if d.chance(f.Rate) {
		f.mix(d)
	}
	return f
}

// mix adds a fault that passes. None of them makes a lie of what a job by itself says.
func (f *Faults) mix(d dice) {
	f.After = 50 * time.Millisecond
	ways := []func(){
		func() { f.Status, f.Hint = http.StatusTooManyRequests, pick(d, []Hint{HintNone, HintMillis}) },
		func() { f.Status = http.StatusInternalServerError },
		func() { f.Status = http.StatusBadGateway },
		func() { f.Cut = true },
		func() { f.Reset = true },
		func() { f.Empty = true },
		func() { f.Null = true },
		func() { f.Swap = true },
		func() { f.Malformed = true },
		func() { f.lost = true },
		func() { f.Shrink = 0.5 },
		func() { f.UpperCase, f.StrangeEvents, f.StrangeFields = true, true, true },
		func() { f.Strings = true },
		func() { f.Floats = true },
		func() { f.NaN = true },
		func() { f.StrangeStatus = true },
		func() { f.OtherCase = true },
	}
	ways[d.IntN(len(ways))]()
}

// before answers instead of the API, if it is to.
func (f Faults) before(to http.ResponseWriter, r *http.Request) bool {
	if f.Slow > 0 {
		timer := time.NewTimer(f.Slow)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return true
		}
	}
	if f.Reset {
		reset(to)
		return true
	}
	switch f.Status {
	case 0:
		return false
	case http.StatusTooManyRequests:
		f.hint(to.Header())
	case http.StatusBadGateway:
		to.Header().Set("Content-Type", "text/html")
		to.WriteHeader(f.Status)
		fmt.Fprint(to, "<html><body><h1>502 Bad Gateway</h1></body></html>")
		return true
	}
	to.Header().Set("Content-Type", "application/json")
	to.WriteHeader(f.Status)
	_, _ = to.Write(encode(row{"error": row{"message": "The dial says so", "type": "server_error", "param": nil, "code": nil}}))
	return true
}

func (f Faults) hint(h http.Header) {
	after := f.After
	if after == 0 {
		after = time.Second
	}
	seconds := strconv.Itoa(int(math.Ceil(after.Seconds())))
	switch f.Hint {
	case HintReset, HintSeconds:
		h.Set(string(f.Hint), seconds)
	case HintMillis:
		h.Set(string(f.Hint), strconv.FormatInt(after.Milliseconds(), 10))
	case HintDate:
		h.Set("Retry-After", time.Now().Add(after).UTC().Format(http.TimeFormat))
	}
}

// reset ends the connection in a way that the client notices as a reset.
func reset(to http.ResponseWriter) {
	hijacker, ok := to.(http.Hijacker)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	conn, _, err := hijacker.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// write sends the answer, or as much of it as the dials want.
func (f Faults) write(to http.ResponseWriter, r *http.Request, status int, text []byte) {
	pad := max(f.Huge-int64(len(text)), 0)
	to.Header().Set("Content-Length", strconv.FormatInt(int64(len(text))+pad, 10))
	to.WriteHeader(status)
	if f.Cut {
		_, _ = to.Write(text[:len(text)/2]) //nolint:gosec // it is what the API would say, and no page
		if flusher, ok := to.(http.Flusher); ok {
			flusher.Flush()
		}
		panic(http.ErrAbortHandler)
	}
	for spaces := []byte(strings.Repeat(" ", 1<<16)); pad > 0; pad -= int64(len(spaces)) {
		if _, err := to.Write(spaces[:min(pad, int64(len(spaces)))]); err != nil || r.Context().Err() != nil {
			return
		}
	}
	_, _ = to.Write(text) //nolint:gosec // it is what the API would say, and no page
}
