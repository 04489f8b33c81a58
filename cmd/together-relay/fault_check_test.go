package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// A record is a history and what the streams hold at its end.
type record struct {
	exchanges []exchange
	asked     []exchange // requests that were still without an answer
	spells    []spell
	replaced  []time.Duration
	stored    []stored
	// settled says that each delivery had the time to come to its end.
	settled bool
}

// stored is a message as it lies in the stream of events or in that of dead letters.
type stored struct {
	Dead     bool
	Sequence uint64
	Subject  string
	ID       string // of the event, decoded
	Data     string
	Batched  bool // it came in an atomic batch with others
}

// A violation is a broken promise. Its rule is one of those below.
type violation struct{ rule, what string }

func (v violation) String() string { return v.rule + ": " + v.what }

// The promises that the checker knows.
const (
	ruleLost      = "lost"      // what was answered 200 or 202 is there
	ruleOnce      = "once"      // nothing is there twice, nothing is stored anew for one id
	rulePlace     = "place"     // it lies where the answer said
	ruleBytes     = "bytes"     // it is what was sent, byte for byte
	ruleInvented  = "invented"  // nothing is there that nobody sent with a right signature
	ruleDuplicate = "duplicate" // a duplicate had a first one
	ruleStatus    = "status"    // our outage is 503, and a forger is told 401
	ruleSilence   = "silence"   // only a relay that is dead or stopped does not answer
	ruleServed    = "served"    // when all is well again, each delivery comes to its end
)

// A told is the answer to a proven delivery, as it was read.
type told struct {
	ID, Subject  string
	Sequence     uint64
	Duplicate    bool
	Received     bool
	DeadLettered bool `json:"dead_lettered"`
}

// judge lists how the record breaks the promises. It is pure: the same record gives the
// same list.
func judge(r record) []violation {
	c := &checker{record: r, events: map[string][]stored{}, letters: map[string][]stored{}, sent: map[string][]exchange{}}
	for _, m := range r.stored {
		if m.Dead {
			c.letters[m.Data] = append(c.letters[m.Data], m)
		} else {
			c.events[m.ID] = append(c.events[m.ID], m)
		}
	}
	for _, x := range r.exchanges {
		c.sent[x.ID] = append(c.sent[x.ID], x)
	}
	for _, x := range r.exchanges {
		c.exchange(x)
	}
	for _, m := range r.stored {
		c.message(m)
	}
	c.firsts()
	c.ends()
	return c.found
}

type checker struct {
	record
	events  map[string][]stored // by id
	letters map[string][]stored // by body
	sent    map[string][]exchange
	found   []violation
}

func (c *checker) broken(rule, format string, args ...any) {
	c.found = append(c.found, violation{rule, fmt.Sprintf(format, args...)})
}

// exchange holds one answer against the contract and against what is stored.
func (c *checker) exchange(x exchange) {
	switch {
	case x.Status == 0:
		if !slices.ContainsFunc(c.spells, func(s spell) bool { return s.Relay == x.Relay && s.From <= x.End && x.Start <= s.To }) {
			c.broken(ruleSilence, "%s had no answer at %s though the relay was well: %s", x.ID, x.End, x.Error)
		}
	case (x.Status == http.StatusTooManyRequests || x.Status == http.StatusServiceUnavailable) && x.RetryAfter == "":
		c.broken(ruleStatus, "%s was answered %d at %s and not told when to come back", x.ID, x.Status, x.End)
	case x.Status == http.StatusTooManyRequests:
	case !x.Proven:
		if x.Status != http.StatusUnauthorized {
			c.broken(ruleStatus, "%s is not proven and was answered %d", x.ID, x.Status)
		}
	case x.Status == http.StatusServiceUnavailable:
	case x.Status == http.StatusOK && x.Kind == usable:
		c.kept(x)
	case x.Status == http.StatusAccepted && x.Kind == unusable:
		c.buried(x)
	default:
		c.broken(ruleStatus, "%s is %s and was answered %d %s", x.ID, x.Kind, x.Status, x.Answer)
	}
}

// kept checks a 200.
func (c *checker) kept(x exchange) {
	var said told
	if err := json.Unmarshal([]byte(x.Answer), &said); err != nil || !said.Received || said.ID != x.ID || said.Subject != x.Subject {
		c.broken(rulePlace, "%s: the answer %q is not that of %s on %s", x.ID, x.Answer, x.ID, x.Subject)
		return
	}
	if said.Duplicate && !slices.ContainsFunc(c.sent[x.ID], func(other exchange) bool {
		return other.Start < x.End && other.Proven && other.Kind == usable && other.mayHaveStored() &&
			(other.Delivery != x.Delivery || other.Start != x.Start)
	}) {
		c.broken(ruleDuplicate, "%s was called a duplicate at %s, and nobody had sent it before", x.ID, x.End)
	}
	if c.before(x.Start) {
		return // it went with the old store
	}
	there := c.events[x.ID]
	if len(there) == 0 {
		c.broken(ruleLost, "%s was answered 200 at %s and is not in the stream", x.ID, x.End)
		return
	}
	if !slices.ContainsFunc(there, func(m stored) bool { return m.Sequence == said.Sequence && m.Subject == said.Subject }) {
		c.broken(rulePlace, "%s was said to be number %d on %s and is number %d on %s", x.ID, said.Sequence, said.Subject, there[0].Sequence, there[0].Subject)
	}
}

// mayHaveStored says whether the exchange can have left an event behind.
func (x exchange) mayHaveStored() bool {
	return x.Status == http.StatusOK || x.Status == http.StatusServiceUnavailable || x.Status == 0
}

// buried checks a 202.
func (c *checker) buried(x exchange) {
	var said told
	if err := json.Unmarshal([]byte(x.Answer), &said); err != nil || !said.Received || !said.DeadLettered {
		c.broken(rulePlace, "%s: the answer %q is not that of a dead letter", x.ID, x.Answer)
	}
	if len(c.letters[x.Sent]) == 0 && !c.before(x.Start) {
		c.broken(ruleLost, "%s was answered 202 at %s and is no dead letter", x.ID, x.End)
	}
}

// before says whether the store was replaced after the moment.
func (c *checker) before(at time.Duration) bool {
	return slices.ContainsFunc(c.replaced, func(replaced time.Duration) bool { return at < replaced })
}

// message looks for whoever sent what is stored.
func (c *checker) message(m stored) {
	if m.Dead {
		if len(c.letters[m.Data]) > 1 {
			c.broken(ruleOnce, "a dead letter is there %d times: %q", len(c.letters[m.Data]), m.Data)
		}
		if !slices.ContainsFunc(c.exchanges, func(x exchange) bool { return x.Proven && x.Kind == unusable && x.Sent == m.Data }) {
			c.broken(ruleInvented, "dead letter %d was sent by nobody: %q", m.Sequence, m.Data)
		}
		return
	}
	if n := len(c.events[m.ID]); n > 1 {
		c.broken(ruleOnce, "%s is in the stream %d times, here as number %d", m.ID, n, m.Sequence)
	}
	proven, same := false, false
	for _, x := range c.sent[m.ID] {
		if x.Proven && x.Kind == usable {
			proven = true
			same = same || x.Data == m.Data && x.Subject == m.Subject
		}
	}
	switch {
	case !proven:
		c.broken(ruleInvented, "number %d is %s, which nobody sent with a right signature", m.Sequence, m.ID)
	case !same:
		c.broken(ruleBytes, "%s is stored on %s as %q, which is not what was sent", m.ID, m.Subject, m.Data)
	}
}

// firsts checks that each id was stored anew once, or once in each store.
func (c *checker) firsts() {
	first := map[string]exchange{}
	for _, x := range slices.SortedFunc(slices.Values(c.exchanges), func(a, b exchange) int { return cmp.Compare(a.Start, b.Start) }) {
		var said told
		if x.Status != http.StatusOK || json.Unmarshal([]byte(x.Answer), &said) != nil || said.Duplicate {
			continue
		}
		earlier, ok := first[x.ID]
		if ok && !slices.ContainsFunc(c.replaced, func(at time.Duration) bool { return earlier.Start < at && at < x.End }) {
			c.broken(ruleOnce, "%s was stored anew at %s and at %s", x.ID, earlier.End, x.End)
		}
		first[x.ID] = x
	}
}

// ends checks that each delivery came to its end.
func (c *checker) ends() {
	if !c.settled {
		return
	}
	last := map[int]exchange{}
	for _, x := range c.exchanges {
		if have, ok := last[x.Delivery]; !ok || have.Start < x.Start {
			last[x.Delivery] = x
		}
	}
	for _, x := range last {
		if !x.final() {
			c.broken(ruleServed, "%s was never served; its last answer was %d at %s", x.ID, x.Status, x.End)
		}
	}
}

// final says whether a sender has to ask again.
func (x exchange) final() bool {
	return x.Status == http.StatusOK || x.Status == http.StatusAccepted || x.Status == http.StatusUnauthorized && x.Kind == forged
}

// asOf is what must hold of a copy of the store that was begun at the moment: it has all that
// was answered by then, and nothing but what was sent.
func (r record) asOf(at time.Duration, copied []stored) record {
	early := record{spells: r.spells, stored: copied}
	for _, x := range slices.Concat(r.exchanges, r.asked) {
		if x.End >= at || x.End == 0 {
			// It may be in the copy or not; only that it was sent is known.
			x.Status, x.Answer, x.RetryAfter = http.StatusServiceUnavailable, "", "1"
			if !x.Proven {
				x.Status = http.StatusUnauthorized
			}
		}
		early.exchanges = append(early.exchanges, x)
	}
	return early
}
