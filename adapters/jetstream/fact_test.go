package jetstream

import (
	"fmt"
	"testing"
	"time"

	"together-relay/relay/relaytest"
)

// A reconciliation asks of thousands of facts. What the stream does not hold is said at once.
func TestHolds(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	want, err := l.Append(t.Context(), relaytest.Shared("webhook", "evt_1", "job_1", ""))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := l.Holds(t.Context(), relaytest.Shared("api", "evt_2", "job_1", "")); err != nil || got.Sequence != want.Sequence || got.Subject != want.Subject || !got.Duplicate {
		t.Errorf("Holds = %+v, %v, want the fact that the webhook brought, %+v", got, err, want)
	}
	quickest := time.Hour
	for i := range 50 {
		began := time.Now()
		got, err := l.Holds(t.Context(), relaytest.Shared("api", "evt_3", fmt.Sprint("other_", i), ""))
		if err != nil || got.Sequence != 0 || got.Duplicate {
			t.Fatalf("Holds = %+v, %v, want nothing", got, err)
		}
		quickest = min(quickest, time.Since(began))
	}
	if quickest >= replicaPause {
		t.Errorf("the quickest of 50 questions took %s", quickest)
	}
}

// What somebody stores by hand may have come from the watched API meanwhile.
func TestReadersLogHeedsTheWatcher(t *testing.T) {
	t.Parallel()
	ns := startServer(t, t.TempDir(), -1)
	l := openLog(t, ns.ClientURL(), testConfig())
	ready(t, l)
	want, err := l.Append(t.Context(), relaytest.Shared("api", "evt_1", "job_1", ""))
	if err != nil {
		t.Fatal(err)
	}
	reader, err := OpenReader(ns.ClientURL(), Auth{}, testConfig().Stream)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	byHand, err := reader.Log(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	signed := relaytest.Shared("webhook", "evt_2", "job_1", "")
	signed.Proof = "1"
	if got, err := byHand.Append(t.Context(), signed); err != nil || !got.Duplicate || got.Sequence != want.Sequence {
		t.Errorf("Append = %+v, %v, want the event that is stored, %+v", got, err, want)
	}
}
