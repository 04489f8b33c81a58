package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"together-relay/adapters/together"
)

// A benchRun is one run of signed events against a relay.
type benchRun struct {
	benchFlags
	id     string // what every event id of this run begins with
	plan   benchPlan
	target *target
	source *together.Source
	body   benchBody

	start time.Time
	next  atomic.Int64 // delivery, if the clock does not say when
	tally *tally
}

func newBenchRun(s *settings, f benchFlags) (*benchRun, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	if f.url == "" {
		base, err := s.url()
		if err != nil {
			return nil, err
		}
		f.url = base + "/webhooks/" + f.source
	}
	r := &benchRun{benchFlags: f, id: "bench_" + randomHex(6) + "_", plan: newBenchPlan(f), tally: newTally(f.verify)}
	var err error
	if r.target, err = newTarget(f.url, f.size); err != nil {
		return nil, err
	}
	if r.source, err = (triggerFlags{source: f.source}).signer(s); err != nil {
		return nil, err
	}
	r.body, err = newBenchBody(r.id, f.typ, f.size, time.Now())
	return r, err
}

const (
	benchGrace     = 10 * time.Second // for what is under way at the end
	benchHurry     = 2 * time.Second  // the same after Ctrl-C
	benchAttempts  = 10
	benchMaxWait   = 10 * time.Second
	benchFirstWait = 100 * time.Millisecond
	benchLastWait  = 5 * time.Second
)

// do opens the connections, sends what the plan says and returns when the last answer is
// there, or given up. It ends early, and without an error, with ctx.
func (r *benchRun) do(ctx context.Context) error {
	// Requests outlive the end of sending: an answer that is still to come counts.
	alive, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	wires, err := r.connect(ctx, alive, giveUp)
	if err != nil {
		return err
	}
	r.start = time.Now()
	sending, retrying := ctx, ctx
	if limit := r.limit(); limit > 0 {
		var stop context.CancelFunc
		sending, stop = context.WithDeadline(ctx, r.start.Add(limit))
		defer stop()
		retrying, stop = context.WithDeadline(ctx, r.start.Add(limit+benchGrace))
		defer stop()
	}
	defer context.AfterFunc(retrying, func() {
		if ctx.Err() == nil {
			giveUp()
			return
		}
		pause(alive, benchHurry)
		giveUp()
	})()

	var turns chan int64
	var all sync.WaitGroup
	if r.rate > 0 {
		turns = make(chan int64)
		all.Go(func() { r.plan.pace(sending, r.start, turns) })
	}
	for _, w := range wires {
		all.Go(func() {
			defer w.close()
			s := &benchSender{benchRun: r, wire: w, body: r.body.clone()}
			for n, ok := r.turn(sending, turns); ok; n, ok = r.turn(sending, turns) {
				s.deliver(alive, retrying, n)
			}
		})
	}
	all.Wait()
	return nil
}

// limit is how long deliveries may begin; 0 is for ever. By the clock all of them are due
// within the duration, and a relay that lags behind gets as much time again.
func (r *benchRun) limit() time.Duration {
	if r.rate == 0 {
		return r.duration
	}
	return 2*r.plan.due(r.plan.deliveries) + benchGrace
}

// connect opens every connection before the clock starts. They live until alive ends.
func (r *benchRun) connect(ctx, alive context.Context, giveUp func()) ([]*wire, error) {
	defer context.AfterFunc(ctx, giveUp)()
	wires := make([]*wire, min(int64(r.senders), r.plan.deliveries))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(32)
	for i := range wires {
		wires[i] = &wire{to: r.target}
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err() // one of them failed already
			}
			return wires[i].open(alive)
		})
	}
	err := group.Wait()
	if err == nil {
		return wires, nil
	}
	for _, w := range wires {
		w.close()
	}
	if errors.Is(err, syscall.EMFILE) {
		return nil, fmt.Errorf("open %d connections: %w; use fewer --senders, or raise ulimit -n", len(wires), err)
	}
	return nil, fmt.Errorf("connect to %s: %w; is the relay running? Start one with together-relay serve --dev, or name it with --url", r.url, err)
}

// turn is the next delivery; not ok is the end.
func (r *benchRun) turn(sending context.Context, turns <-chan int64) (n int64, ok bool) {
	if turns != nil {
		n, ok = <-turns
		return n, ok
	}
	if sending.Err() != nil {
		return 0, false
	}
	n = r.next.Add(1) - 1
	return n, n < r.plan.deliveries && r.plan.event(n) < r.plan.events
}

// A benchSender sends one delivery at a time on its one connection.
type benchSender struct {
	*benchRun
	wire *wire
	body benchBody
}

// deliver sends the n-th delivery until it is settled or given up.
func (s *benchSender) deliver(alive, retrying context.Context, n int64) {
	event, began := s.plan.event(n), time.Now()
	if s.rate > 0 {
		began = s.start.Add(s.plan.due(n))
	}
	body := s.body.of(event)
	s.tally.begin()
	for attempt := 0; ; attempt++ {
		a := readAnswer(s.wire.post(alive, s.source.Sign(body, time.Now()), body))
		if a.id != "" && a.id != string(body[s.body.digits-len(s.id):s.body.digits+idDigits]) {
			a.status = statusMixedUp
		}
		a.again = a.again && !s.noRetry && attempt+1 < benchAttempts && retrying.Err() == nil
		s.tally.answered(event, a, time.Since(began))
		if a.again && pause(retrying, a.wait(attempt)) {
			continue
		}
		if a.again {
			s.tally.cut()
		} else if a.status == statusNone && s.rate == 0 {
			pause(retrying, benchFirstWait) // nobody there must not mean as fast as one can
		}
		return
	}
}

// Besides those of HTTP there are two statuses.
const (
	statusNone    = 0 // no answer
	statusMixedUp = 1 // 200, for another event
)

// A benchAnswer is what became of one attempt.
type benchAnswer struct {
	status    int
	id        string // of the event, if the answer says it
	duplicate bool
	again     bool          // worth another attempt
	after     time.Duration // Retry-After, or 0
	err       error         // why there is no answer
}

func readAnswer(got reply, err error) benchAnswer {
	if err != nil {
		return benchAnswer{again: true, err: err}
	}
	a := benchAnswer{status: got.status}
	a.again = a.status == http.StatusRequestTimeout || a.status == http.StatusTooManyRequests || a.status >= 500
	if a.again {
		a.after = retryAfter(got.header.Get("Retry-After"), time.Now())
	}
	if a.status == http.StatusOK {
		var said struct {
			ID        string
			Duplicate bool
		}
		if json.Unmarshal(got.text, &said) == nil { // another kind of server may say anything
			a.id, a.duplicate = said.ID, said.Duplicate
		}
	}
	return a
}

// retryAfter reads the header: seconds or a time. What is neither is no wait.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if when, err := http.ParseTime(text); err == nil {
		return max(0, when.Sub(now))
	}
	return 0
}

// wait is how long to wait after so many attempts before.
func (a benchAnswer) wait(before int) time.Duration {
	if a.after > 0 {
		return min(a.after, benchMaxWait)
	}
	d := min(benchFirstWait<<before, benchLastWait)
	return d/2 + rand.N(d/2+1) //nolint:gosec // no secret: so that they do not come all at one moment
}
