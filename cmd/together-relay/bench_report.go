package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A benchReport is what a run found out. Its JSON is the output for programs.
type benchReport struct {
	URL         string           `json:"url"`
	Run         string           `json:"run"` // what the ids begin with
	Type        string           `json:"type"`
	Size        int              `json:"size"`
	Senders     int              `json:"senders"`
	Rate        float64          `json:"rate"` // 0 is as fast as answered
	Seconds     float64          `json:"seconds"`
	Interrupted bool             `json:"interrupted"`
	Deliveries  int64            `json:"deliveries"`
	Unsent      int64            `json:"unsent"` // due, and never sent
	Stored      int64            `json:"stored"` // answered 200
	Dead        int64            `json:"dead_lettered"`
	Lost        int64            `json:"not_taken"`
	Throughput  float64          `json:"stored_per_second"`
	Status      map[string]int64 `json:"status"` // of every attempt, retries too
	Retries     int64            `json:"retries"`
	Duplicates  int64            `json:"duplicates"`
	LastError   string           `json:"last_error,omitempty"`
	From        string           `json:"latency_from"` // schedule, or sending: a service time
	Latency     struct {
		P50  float64 `json:"p50"`
		P90  float64 `json:"p90"`
		P99  float64 `json:"p99"`
		P999 float64 `json:"p99.9"`
		Max  float64 `json:"max"`
	} `json:"latency_ms"`
	Verify *verdict `json:"verify,omitempty"`
}

func (r *benchRun) report(interrupted bool) *benchReport {
	t := r.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &benchReport{
		URL: r.url, Run: strings.TrimSuffix(r.id, "_"), Type: r.typ, Size: r.size, Senders: r.senders, Rate: r.rate,
		Interrupted: interrupted, Deliveries: t.begun, Stored: t.stored, Dead: t.dead, Lost: t.lost,
		Retries: t.retries, Duplicates: t.repeated, Status: map[string]int64{}, From: "sending",
	}
	if t.last.After(r.start) {
		elapsed := t.last.Sub(r.start)
		p.Seconds, p.Throughput = elapsed.Seconds(), float64(t.stored)/elapsed.Seconds()
	}
	if r.rate > 0 {
		p.From = "schedule"
		if !interrupted {
			p.Unsent = r.plan.deliveries - t.begun
		}
	}
	for status, n := range t.statuses {
		p.Status[statusName(status)] = n
	}
	if t.lastErr != nil {
		p.LastError = t.lastErr.Error()
	}
	at := func(percent float64) float64 { return float64(t.latency.ValueAtPercentile(percent)) / 1e3 }
	p.Latency.P50, p.Latency.P90, p.Latency.P99, p.Latency.P999 = at(50), at(90), at(99), at(99.9)
	p.Latency.Max = float64(t.latency.Max()) / 1e3
	return p
}

func statusName(status int) string {
	switch status {
	case statusNone:
		return "none"
	case statusMixedUp:
		return "other event"
	default:
		return strconv.Itoa(status)
	}
}

func (p *benchReport) print(w io.Writer, output string) error {
	if output == "json" {
		return writeJSON(w, p)
	}
	var b bytes.Buffer
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s%s\n", name, fmt.Sprintf(format, args...))
	}
	pace := "as fast as answered"
	if p.Rate > 0 {
		pace = fmt.Sprintf("%g a second", p.Rate)
	}
	row("target", "%s", p.URL)
	row("run", "%s: %s, %d bytes, %s, %s", p.Run, p.Type, p.Size, counted(int64(p.Senders), "sender"), pace)
	deliveries := fmt.Sprintf("%d in %s", p.Deliveries, time.Duration(p.Seconds*float64(time.Second)).Round(time.Millisecond))
	if p.Interrupted {
		deliveries += ", then interrupted"
	}
	row("deliveries", "%s", deliveries)
	if p.Unsent > 0 {
		row("not sent", "%d, for which there was no time", p.Unsent)
	}
	row("throughput", "%.1f a second answered 200", p.Throughput)
	var answers []string
	for _, status := range slices.Sorted(maps.Keys(p.Status)) {
		answers = append(answers, fmt.Sprintf("%s: %d", status, p.Status[status]))
	}
	row("answers", "%s", orDash(strings.Join(answers, "  ")))
	if p.LastError != "" {
		row("no answer", "last because of: %s", p.LastError)
	}
	row("retries", "%d", p.Retries)
	row("duplicates", "%d", p.Duplicates)
	if l := p.Latency; p.Stored > 0 {
		fmt.Fprintf(&b, "\n%-12s%10s%10s%10s%10s%10s\n", "", "p50", "p90", "p99", "p99.9", "max")
		fmt.Fprintf(&b, "%-12s%10.3f%10.3f%10.3f%10.3f%10.3f\n", "latency ms", l.P50, l.P90, l.P99, l.P999, l.Max)
		if p.Rate > 0 {
			row("", "from the moment when each delivery was due")
		} else {
			row("", "from the sending: service times, in which a stall is hardly seen; see --rate")
		}
	}
	if v := p.Verify; v != nil {
		fmt.Fprintln(&b)
		row("verify", "%s answered 200: %d stored once, %d missing", counted(v.Answered200, "event"), v.Once, v.Missing)
		row("", "stored twice: %d; besides: %d; without a 200 that arrived: %d", v.Twice, v.Besides, v.Unsure)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func counted(n int64, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// err says what was not as it should be, if anything.
func (p *benchReport) err() error {
	var wrong error
	if v := p.Verify; v != nil && !v.good() {
		wrong = fmt.Errorf("the stream does not hold what was answered: %d missing, %d stored twice, %d besides; for example %s; "+
			"is it the stream of %s, and do the clocks agree?", v.Missing, v.Twice, v.Besides, strings.Join(v.Wrong, ", "), p.URL)
	}
	if p.Lost > 0 {
		err := fmt.Errorf("%d of %d deliveries were not taken", p.Lost, p.Deliveries)
		if p.Status[statusName(http.StatusUnauthorized)] > 0 {
			err = fmt.Errorf("%w; for 401 set TOGETHER_WEBHOOK_SECRET as the relay has it", err)
		}
		if wrong != nil {
			err = fmt.Errorf("%w; %w", wrong, err)
		}
		wrong = err
	}
	return wrong
}
