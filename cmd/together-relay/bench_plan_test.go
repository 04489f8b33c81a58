package main

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"together-relay/adapters/together"
	"together-relay/schemas"
)

func TestBenchPlan(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := benchFlags{count: rapid.Int64Range(1, 1000).Draw(t, "count"), duplicates: rapid.IntRange(0, 100).Draw(t, "duplicates")}
		p := newBenchPlan(f)
		times := make([]int, f.count)
		for n := range p.deliveries {
			times[p.event(n)]++
		}
		twice := 0
		for event, n := range times {
			if n != 1 && n != 2 {
				t.Fatalf("event %d is sent %d times", event, n)
			}
			twice += n - 1
		}
		if next := p.event(p.deliveries); next != f.count {
			t.Fatalf("the plan ends before event %d, want %d", next, f.count)
		}
		if want := f.count / 100 * int64(f.duplicates); int64(twice) < want || int64(twice) > want+int64(f.duplicates) {
			t.Fatalf("%d of %d events are sent twice, want %d%%", twice, f.count, f.duplicates)
		}
	})
}

func TestBenchPlanByTheClock(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f    benchFlags
		want int64
	}{
		{benchFlags{rate: 100, duration: 10 * time.Second}, 1000},
		{benchFlags{rate: 100, duration: 10 * time.Second, count: 7}, 7},
		{benchFlags{rate: 0.1, duration: time.Second}, 1},
		{benchFlags{rate: 0.5, duration: 10 * time.Second, count: 7}, 5},
		{benchFlags{duration: time.Second}, maxBenchEvents},
	} {
		if got := newBenchPlan(c.f).deliveries; got != c.want {
			t.Errorf("%+v: %d deliveries, want %d", c.f, got, c.want)
		}
	}
	if got := newBenchPlan(benchFlags{rate: 200}).due(50); got != 250*time.Millisecond {
		t.Errorf("at 200 a second delivery 50 is due after %s", got)
	}
	if got := newBenchPlan(benchFlags{rate: 1e-300}).due(1); got <= 0 {
		t.Errorf("a very low rate is due after %s", got)
	}
}

func TestBenchBodiesAreGood(t *testing.T) {
	t.Parallel()
	set, err := schemas.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range append(schemas.Types(), "brand.new", `quoted"type`) {
		for _, size := range []int{450, 451, 20_000} {
			b, err := newBenchBody("bench_abc_", typ, size, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			for _, event := range []int64{0, 7, maxBenchEvents - 1} {
				body := b.clone().of(event)
				ev, err := together.Read(body)
				if err != nil {
					t.Fatalf("%s: %v", body, err)
				}
				if err := set.CheckEvent(ev); err != nil {
					t.Errorf("%s: %v", typ, err)
				}
				if got, ok := benchEvent("bench_abc_", ev.CloudEvent.ID()); got != event || !ok || ev.Type != typ || len(body) != size {
					t.Errorf("event %d of type %q with %d bytes is event %d of type %q with %d bytes", event, typ, size, got, ev.Type, len(body))
				}
			}
		}
	}
	for id, want := range map[string]int64{"evt_1": 0, "bench_abc_1": -1, "bench_abc_00000000000x": -1, "bench_abc_-00000000001": -1} {
		if got, ok := benchEvent("bench_abc_", id); got != want || ok != (want < 0) {
			t.Errorf("id %q is of event %d, %t", id, got, ok)
		}
	}
}
