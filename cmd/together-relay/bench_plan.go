package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A benchPlan says which event each delivery carries, and when it is due. Deliveries are
// numbered from 0, and so are events.
type benchPlan struct {
	rate       float64 // deliveries a second; 0 is as fast as they are answered
	deliveries int64   // how many there are at most
	events     int64   // the same
	order      []int64 // the events of the first hundred events' deliveries
}

// maxBenchEvents is what the ids have digits for.
const maxBenchEvents = 1e12

func newBenchPlan(f benchFlags) benchPlan {
	p := benchPlan{rate: f.rate, deliveries: maxBenchEvents, events: maxBenchEvents}
	for event := range 100 {
		p.order = append(p.order, int64(event))
		if (event+1)*f.duplicates/100 > event*f.duplicates/100 {
			p.order = append(p.order, int64(event))
		}
	}
	if f.count > 0 {
		p.events, p.deliveries = f.count, f.count/100*int64(len(p.order))
		for _, event := range p.order {
			if event < f.count%100 {
				p.deliveries++
			}
		}
	}
	if f.rate > 0 && f.duration > 0 {
		p.deliveries = min(p.deliveries, max(1, int64(math.Ceil(f.rate*f.duration.Seconds()))))
	}
	return p
}

// event is the one that the n-th delivery carries.
func (p benchPlan) event(n int64) int64 {
	cycle := int64(len(p.order))
	return n/cycle*100 + p.order[n%cycle]
}

// due is when the n-th delivery is to be sent, counted from the beginning.
func (p benchPlan) due(n int64) time.Duration {
	return time.Duration(min(float64(n)/p.rate*float64(time.Second), 1<<61)) // 73 years are for ever
}

// pace hands out the deliveries when they are due, and ends with the last one or ctx. When
// nobody is free to take one it waits; what is due by then is handed out without a pause.
func (p benchPlan) pace(ctx context.Context, start time.Time, turns chan<- int64) {
	defer close(turns)
	nap := newNapper()
	defer nap.close()
	for n := range p.deliveries {
		if !nap.until(ctx, start.Add(p.due(n))) {
			return
		}
		select {
		case turns <- n:
		case <-ctx.Done():
			return
		}
	}
}

// until blocks until the time has come, or says false when ctx is done before.
func (n *napper) until(ctx context.Context, when time.Time) bool {
	// A timer of the runtime may be a millisecond late, which is longer than many an answer takes.
	const fine = 2 * time.Millisecond
	if !pause(ctx, time.Until(when)-fine) {
		return false
	}
	if d := time.Until(when); d > 0 {
		n.nap(d)
	}
	return ctx.Err() == nil
}

// pause waits, or says false when ctx is done before.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A benchBody is a body in which only the digits of the id are still to be written.
type benchBody struct {
	text   []byte
	digits int // where they begin
}

const idDigits = 12

// newBenchBody makes a delivery of the type with so many bytes: its sample, and in the data
// a member that fills it up.
func newBenchBody(run, typ string, size int, now time.Time) (benchBody, error) {
	smp, err := newSample(typ, triggerFlags{}, nil)
	if err != nil {
		return benchBody{}, err
	}
	quoted, err := marshal(typ)
	if err != nil {
		return benchBody{}, err
	}
	head := fmt.Sprintf(`{"id":"%s`, run)
	data := bytes.TrimSuffix(smp.data, []byte("}"))
	if len(data) > 1 {
		data = append(data, ',')
	}
	text := fmt.Appendf(nil, `%s%s","type":%s,"created_at":"%s","data":%s"padding":"`, head, strings.Repeat("0", idDigits),
		quoted, now.UTC().Format(time.RFC3339), data)
	const tail = `"}}`
	padding := size - len(text) - len(tail)
	if padding < 0 {
		return benchBody{}, usagef("--size is %d, but a body of %s has %d bytes at least", size, typ, len(text)+len(tail))
	}
	text = append(text, randomHex(padding/2 + 1)[:padding]...)
	return benchBody{text: append(text, tail...), digits: len(head)}, nil
}

// of is the body of an event. It is good until the next one is asked for.
func (b benchBody) of(event int64) []byte {
	copy(b.text[b.digits:], appendDigits(nil, event))
	return b.text
}

func (b benchBody) clone() benchBody { return benchBody{bytes.Clone(b.text), b.digits} }

func appendDigits(to []byte, event int64) []byte { return fmt.Appendf(to, "%0*d", idDigits, event) }

// benchEvent reads the number of an event of the run out of its id.
func benchEvent(run, id string) (event int64, ok bool) {
	digits, ok := strings.CutPrefix(id, run)
	if !ok {
		return 0, false
	}
	event, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || len(digits) != idDigits || event < 0 {
		return -1, true // of this run, and nothing that it sent
	}
	return event, true
}
