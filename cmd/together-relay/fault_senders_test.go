package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Senders deliver as a webhook sender does: what is not answered 200 or 202 is sent again
// after a short wait, the same bytes, until it is.
type senders struct {
	history *history
	urls    []string                                // of the relays; each try asks one of them
	giveUp  time.Duration                           // how long a sender waits for an answer
	stamp   func() (stamp string, inTolerance bool) // signs with a timestamp; nil is without
	client  *http.Client
	step    time.Duration // all begin in step, so that requests meet

	stop    chan struct{} // closed: no more new deliveries
	end     chan struct{} // closed: no more tries
	endNow  func()
	running sync.WaitGroup
	taken   atomic.Int64 // deliveries that came to their end
}

// How much a load is. It is meant to be there, not to be heavy.
const (
	fewSenders  = 8
	manySenders = 100                  // so many that several wait for one flush, or go in one batch
	share       = 2 * time.Millisecond // of one sender: the load is the same for few and for many
	enough      = 1000                 // deliveries; beyond them a load is only kept alive
	settleTime  = 60 * time.Second     // for the last deliveries, once all is well again
)

// startSenders begins the load of n senders. Its ids begin with the name.
func startSenders(h *history, name string, seed uint64, n int, urls []string, giveUp time.Duration, stamp func() (string, bool)) *senders {
	s := &senders{
		history: h, urls: urls, giveUp: giveUp, stamp: stamp, step: time.Duration(n) * share, stop: make(chan struct{}), end: make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * n}},
	}
	s.endNow = sync.OnceFunc(func() { close(s.end) })
	for i := range n {
		s.running.Go(func() { s.send(name+"-"+strconv.Itoa(i), rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	return s
}

// waitFor blocks until n more deliveries have come to their end.
func (s *senders) waitFor(t testing.TB, n int64) {
	t.Helper()
	goal := s.taken.Load() + n
	within(t, settleTime, fmt.Sprintf("%d deliveries come to their end", n), func() bool { return s.taken.Load() >= goal })
}

// finish ends the load: no new deliveries, and time for the last ones to be served. It
// blocks until all have an end.
func (s *senders) finish() {
	close(s.stop)
	timer := time.AfterFunc(settleTime, s.endNow)
	s.running.Wait()
	timer.Stop()
	s.endNow()
	s.client.CloseIdleConnections()
}

func (s *senders) send(name string, rng *rand.Rand) {
	for i := 0; ; i++ {
		step := s.step
		if s.taken.Load() > enough {
			step *= 20
		}
		select {
		case <-s.stop:
			return
		case <-time.After(step - s.history.now()%step):
		}
		d := newDelivery(fmt.Sprintf("%s-%d", name, i), rng)
		again := i%4 == 3              // most steps are without, since a batch with a duplicate in it is refused
		if again && rng.IntN(2) == 0 { // somebody else delivers the same at the same time
			twin := rand.New(rand.NewPCG(rng.Uint64(), 0))
			s.running.Go(func() { s.deliver(d, twin) })
		}
		s.deliver(d, rng)
		if again && rng.IntN(2) == 0 { // as if the answer had been lost
			s.deliver(d, rng)
		}
	}
}

// deliver tries until the delivery has come to its end, or until there is no time left.
func (s *senders) deliver(d delivery, rng *rand.Rand) {
	number := s.history.delivery()
	for {
		x := s.try(d, number, rng)
		if x.final() {
			s.taken.Add(1)
			return
		}
		select {
		case <-s.end:
			return
		case <-time.After(time.Duration(20+rng.IntN(180)) * time.Millisecond):
		}
	}
}

// try is one request, and its place in the history.
func (s *senders) try(d delivery, number int, rng *rand.Rand) exchange {
	relay := rng.IntN(len(s.urls))
	x := exchange{Delivery: number, Relay: relay, ID: d.id, Kind: d.kind, Sent: d.body, Data: d.data, Subject: d.subject, Proven: d.kind != forged}
	body, key := []byte(d.body), secret
	if d.kind == forged {
		key = "somebody else's"
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.giveUp)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.urls[relay]+"/webhooks/together", bytes.NewReader(body))
	if err != nil {
		panic(err) // the URL is ours
	}
	req.Header.Set("Content-Type", "application/json")
	signature := sign(key, body)
	if s.stamp != nil {
		stamp, ok := s.stamp()
		x.Proven = x.Proven && ok
		req.Header.Set("X-Together-Timestamp", stamp)
		signature = sign(key, []byte(stamp+"."), body)
	}
	req.Header.Set("X-Together-Signature", signature)
	x.Start = s.history.now()
	s.history.ask(x)
	err = s.ask(req, &x)
	x.End = s.history.now()
	if err != nil {
		x.Status, x.Answer, x.Error = 0, "", err.Error() // half an answer is none
	}
	s.history.add(x)
	return x
}

func (s *senders) ask(req *http.Request, x *exchange) error {
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer closeQuietly(resp.Body)
	text, err := io.ReadAll(resp.Body)
	x.Status, x.Answer, x.RetryAfter = resp.StatusCode, string(text), resp.Header.Get("Retry-After")
	return err
}

// A delivery is what one sender has to say.
type delivery struct{ id, kind, body, data, subject string }

// newDelivery makes one of any kind, most of them usable, with data in all the ways in which
// JSON can be written.
func newDelivery(id string, rng *rand.Rand) delivery {
	job := fmt.Sprintf("job-%d", rng.IntN(20))
	d := delivery{id: id, kind: usable, subject: "together.batch.done." + job}
	typ := "batch.done"
	switch rng.IntN(3) {
	case 0:
		d.data = fmt.Sprintf("{ \"batch_id\" : %q,\n\t\"output_url\":null, \"total_tokens\": 1e3, \"note\":\"\\u00e9 é %d\" }", job, rng.IntN(1e6))
	case 1:
		typ, d.subject = "fine_tune.checkpoint", "together.fine_tune.checkpoint."+job
		d.data = fmt.Sprintf(`{"step":%d,"loss":0.50,"fine_tune_id":%q,"fine_tune_id_":{}}`, rng.IntN(1000), job)
	case 2: // a type that nobody knows yet
		typ, d.subject = "eval.done", "together.eval.done."+job
		d.data = fmt.Sprintf(`{"eval_id":%q,"filler":"%0*d"}`, job, 1+rng.IntN(2000), 7)
	}
	d.body = fmt.Sprintf(`{"id":%q,"type":%q,"created_at":"2026-07-01T09:00:00Z","data":%s}`, id, typ, d.data)
	if rng.IntN(2) == 0 {
		d.body = fmt.Sprintf("{ \"data\":%s , \"team\" : [1, 2], \"type\":%q, \"id\":%q }\n", d.data, typ, id)
	}
	switch rng.IntN(20) {
	case 0:
		d.kind = forged
	case 1:
		d.kind, d.data, d.subject = unusable, "", ""
		d.body = []string{
			fmt.Sprintf(`{"id":%q,"type":"batch.done","data":`, id),
			fmt.Sprintf(`{"id":"","type":"batch.done","data":{"of":%q}}`, id),
			fmt.Sprintf(`{"id":%q,"type":"batch.done","data":7}`, id),
			fmt.Sprintf(`{"id":%q,"type":"batch.done","data":{"batch_id":7}}`, id),
		}[rng.IntN(4)]
	}
	return d
}
