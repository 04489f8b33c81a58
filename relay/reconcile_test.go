package relay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"together-relay/relay"
	"together-relay/relay/relaytest"
)

func TestReconciliation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	var p relaytest.Provider
	p.End("held", "created", "completed")
	p.End("half", "created", "completed")
	p.Happen("stuck", "created")
	p.Stick("stuck", errors.New("500"))
	stored := []string{"held created", "held completed", "half created"}
	asked := func(job string) int { return p.Asked("tell " + job) }

	var got, looks []string
	r := relay.Reconciliation{
		Watches: []relay.Watch{{Name: "jobs", Resource: &p}},
		Holds: func(_ context.Context, ev relay.Event) (relay.Stored, error) {
			return relay.Stored{Sequence: uint64(slices.Index(stored, ev.CloudEvent.ID()) + 1)}, nil
		},
		Found: func(f relay.Finding) error {
			if f.Sequence == 0 {
				got = append(got, f.Event.CloudEvent.ID())
			}
			return nil
		},
		Looks: func(_ string, done, jobs int) { looks = append(looks, fmt.Sprint(done, "/", jobs)) },
	}
	if err := r.Run(ctx); err == nil {
		t.Error("a job that cannot be asked for is no error")
	}
	if diff := cmp.Diff([]string{"half completed"}, got); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	if want := []string{"0/3", "1/3", "2/3", "3/3"}; !slices.Equal(looks, want) {
		t.Errorf("progress is %v, want %v", looks, want)
	}
	if asked("held") != 1 || asked("half") != 2 {
		t.Errorf("asked %d and %d times, want once where nothing is missing", asked("held"), asked("half"))
	}

	got, r.Since = nil, time.Now().AddDate(1, 0, 0) // nothing has happened since
	if _ = r.Run(ctx); len(got) > 0 {
		t.Errorf("found %v that happened before", got)
	}

	r.Since = time.Time{}
	r.Holds = func(context.Context, relay.Event) (relay.Stored, error) { return relay.Stored{}, relaytest.ErrAway }
	before := asked("half")
	if err := r.Run(ctx); !errors.Is(err, relaytest.ErrAway) || asked("held") != 2 || asked("half") != before+1 {
		t.Errorf("went on without a log: %v", err)
	}
}
