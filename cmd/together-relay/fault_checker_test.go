package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// well is a record in which nothing is broken: an event that was sent twice, the first time
// into an outage, another one, a dead letter and a forgery.
func well() record {
	said := func(id string, seq int, duplicate bool) string {
		return fmt.Sprintf(`{"received":true,"id":%q,"subject":"s.%s","sequence":%d,"duplicate":%t}`, id, id, seq, duplicate)
	}
	event := func(delivery int, at time.Duration, id string, status int, answer string) exchange {
		return exchange{Delivery: delivery, Start: at, End: at + 5, ID: id, Kind: usable, Sent: "{" + id + "}", Data: id, Subject: "s." + id,
			Proven: true, Status: status, Answer: answer, RetryAfter: "1"}
	}
	letter := exchange{Delivery: 4, Start: 50, End: 55, ID: "c", Kind: unusable, Sent: "{c", Proven: true, Status: 202, Answer: `{"received":true,"dead_lettered":true}`}
	forgery := exchange{Delivery: 5, Start: 60, End: 65, ID: "d", Kind: forged, Sent: "{d}", Status: 401}
	silent := event(2, 80, "b", 0, "")
	return record{
		exchanges: []exchange{
			event(1, 10, "a", 503, ""), event(1, 20, "a", 200, said("a", 1, false)),
			event(2, 30, "b", 200, said("b", 2, false)), event(3, 40, "a", 200, said("a", 1, true)),
			letter, forgery, silent, event(2, 90, "b", 200, said("b", 2, true)),
		},
		spells:  []spell{{From: 70, To: 82}},
		stored:  []stored{{Sequence: 1, Subject: "s.a", ID: "a", Data: "a"}, {Sequence: 2, Subject: "s.b", ID: "b", Data: "b"}, {Dead: true, Sequence: 1, Data: "{c"}},
		settled: true,
	}
}

// TestFaultChecker shows the checker what must not happen, one thing at a time.
func TestFaultChecker(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, rule string
		breakIt    func(*record)
	}{
		{"nothing", "", func(*record) {}},
		{"an event is gone", ruleLost, func(r *record) { r.stored = r.stored[1:] }},
		{"a dead letter is gone", ruleLost, func(r *record) { r.stored = r.stored[:2] }},
		{"an event went with its store", "", func(r *record) {
			r.stored, r.replaced = nil, []time.Duration{100}
		}},
		{"an event is gone though its store is new", ruleLost, func(r *record) { r.stored, r.replaced = r.stored[:1], []time.Duration{25} }},
		{"an event is there twice", ruleOnce, func(r *record) {
			r.stored = append(r.stored, stored{Sequence: 3, Subject: "s.a", ID: "a", Data: "a"})
		}},
		{"a dead letter is there twice", ruleOnce, func(r *record) { r.stored = append(r.stored, stored{Dead: true, Sequence: 2, Data: "{c"}) }},
		{"an event is stored anew twice", ruleOnce, func(r *record) { edit(&r.exchanges[3].Answer, `"duplicate":true`, `"duplicate":false`) }},
		{"an event is stored anew in a new store", "", func(r *record) {
			edit(&r.exchanges[3].Answer, `"duplicate":true`, `"duplicate":false`)
			r.replaced = []time.Duration{35}
		}},
		{"another number", rulePlace, func(r *record) { r.stored[0].Sequence = 7 }},
		{"another subject", rulePlace, func(r *record) { edit(&r.exchanges[1].Answer, "s.a", "s.b") }},
		{"another id in the answer", rulePlace, func(r *record) { edit(&r.exchanges[1].Answer, `"id":"a"`, `"id":"b"`) }},
		{"half an answer", rulePlace, func(r *record) { r.exchanges[1].Answer = `{"received":true` }},
		{"other bytes", ruleBytes, func(r *record) { r.stored[0].Data = "a " }},
		{"another subject in the stream", ruleBytes, func(r *record) { r.stored[0].Subject = "s.x" }},
		{"an event that nobody sent", ruleInvented, func(r *record) { r.stored = append(r.stored, stored{Sequence: 3, ID: "x", Data: "x"}) }},
		{"a forged event", ruleInvented, func(r *record) { r.stored = append(r.stored, stored{Sequence: 3, ID: "d", Data: "d"}) }},
		{"a dead letter that nobody sent", ruleInvented, func(r *record) { r.stored = append(r.stored, stored{Dead: true, Data: "{a}"}) }},
		{"the first one is a duplicate", ruleDuplicate, func(r *record) {
			r.exchanges = r.exchanges[1:]
			r.exchanges[2].Start, r.exchanges[2].End = 30, 35
			edit(&r.exchanges[0].Answer, `"duplicate":false`, `"duplicate":true`)
		}},
		{"a forgery is taken", ruleStatus, func(r *record) { r.exchanges[5].Status = 200 }},
		{"a forger is told of our outage", ruleStatus, func(r *record) { r.exchanges[5].Status = 503 }},
		{"our outage has no end", ruleStatus, func(r *record) { r.exchanges[0].RetryAfter = "" }},
		{"our outage is a 500", ruleStatus, func(r *record) { r.exchanges[0].Status = 500 }},
		{"our outage is a 401", ruleStatus, func(r *record) { r.exchanges[0].Status = 401 }},
		{"a good event is a dead letter", ruleStatus, func(r *record) { r.exchanges[1].Status = 202 }},
		{"no answer on a good day", ruleSilence, func(r *record) { r.spells = nil }},
		{"no answer of the other relay", ruleSilence, func(r *record) { r.exchanges[6].Relay = 1 }},
		{"a delivery that is never served", ruleServed, func(r *record) { r.exchanges[7].Status = 503 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := well()
			c.breakIt(&r)
			found := judge(r)
			if c.rule == "" && len(found) > 0 {
				t.Errorf("judge = %v, want nothing", found)
			}
			if c.rule != "" && !slices.ContainsFunc(found, func(v violation) bool { return v.rule == c.rule }) {
				t.Errorf("judge = %v, want one that is %q", found, c.rule)
			}
		})
	}
}

func edit(s *string, from, to string) { *s = strings.Replace(*s, from, to, 1) }

// TestFaultCheckerAsOf is about a copy of the store that was begun at a moment: it must have
// what was answered before, may have what was answered later, and nothing else.
func TestFaultCheckerAsOf(t *testing.T) {
	t.Parallel()
	r := well()
	r.asked = []exchange{{Start: 20, ID: "e", Kind: usable, Data: "e", Subject: "s.e", Proven: true}}
	a, b, dead := r.stored[0], r.stored[1], r.stored[2]
	for _, c := range []struct {
		name   string
		copied []stored
		rule   string
	}{
		{"what was answered", []stored{a}, ""},
		{"also what was answered later", []stored{a, b, dead}, ""},
		{"also what was never answered", []stored{a, {Sequence: 2, Subject: "s.e", ID: "e", Data: "e"}}, ""},
		{"nothing", nil, ruleLost},
		{"another one", []stored{a, {Sequence: 2, ID: "x"}}, ruleInvented},
	} {
		if found := judge(r.asOf(30, c.copied)); len(found) == 0 != (c.rule == "") || len(found) > 0 && found[0].rule != c.rule {
			t.Errorf("%s: judge = %v, want %q", c.name, found, c.rule)
		}
	}
}

// TestFaultSendersSayWhatTheyMean holds the deliveries that the senders make against the relay's own reading.
func TestFaultSendersSayWhatTheyMean(t *testing.T) {
	t.Parallel()
	rng, kinds := rand.New(rand.NewPCG(1, 2)), map[string]int{}
	for i := range 1000 {
		d := newDelivery(fmt.Sprint("evt-", i), rng)
		kinds[d.kind]++
		if d.kind != unusable && !strings.Contains(d.body, d.data) {
			t.Errorf("%q does not hold %q", d.body, d.data)
		}
	}
	for _, kind := range []string{usable, unusable, forged} {
		if kinds[kind] == 0 {
			t.Errorf("among a thousand deliveries is none that is %s", kind)
		}
	}
}
