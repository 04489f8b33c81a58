package jetstream

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A Choice says which stored events are to be replayed to a team. Empty fields leave all in.
type Choice struct {
	Team         string
	Types        []string // types or patterns of types
	Resource     string
	Any          bool // also events that the team does not subscribe to
	Since, Until time.Time
	From, To     uint64 // sequences, both included
	Prefixes     []string
	Rate         float64 // copies in a second, for the plan; 0 is as fast as it goes
}

// Plan resolves a choice to fixed bounds, so that a replay ends while events come in. It stores
// nothing. A choice that holds no event is an [EmptyError]. It waits for an election.
func (p *Replayer) Plan(ctx context.Context, c Choice) (plan Replay, err error) {
	err = p.reader.outlast(ctx, func() error {
		plan, err = p.plan(ctx, c)
		return err
	})
	return plan, err
}

func (p *Replayer) plan(ctx context.Context, c Choice) (Replay, error) {
	plan := Replay{
		Team: c.Team, Types: c.Types, Resource: c.Resource, Any: c.Any, Since: c.Since, Until: c.Until, Rate: c.Rate, From: max(c.From, 1), To: c.To,
		Started: time.Now().UTC(), State: ReplayOpen,
	}
	stream, err := p.reader.certain(ctx, p.reader.stream)
	if err != nil {
		return plan, err
	}
	team, err := p.reader.team(ctx, p.reader.stream, c.Team)
	if err != nil {
		return plan, err
	}
	if err := p.reader.Receives(ctx, c.Team); err != nil {
		return plan, err
	}
	plan.Paused = team.Paused
	chosen, err := chosenFilters(stream.CachedInfo().Config.Subjects, c)
	if err != nil {
		return plan, err
	}
	if plan.Filters = chosen; !c.Any {
		plan.Filters = bothOf(chosen, filtersOf(team.Config))
	}
	state := stream.CachedInfo().State
	if err := p.bound(ctx, c, state, &plan); err != nil {
		return plan, err
	}
	if len(plan.Filters) > 0 {
		if plan.Total, err = p.reader.count(ctx, p.reader.stream, plan.Filters, plan.From, plan.To); err != nil {
			return plan, err
		}
	}
	if plan.Total > 0 {
		return plan, nil
	}
	other := uint64(0)
	if !c.Any {
		if other, err = p.reader.count(ctx, p.reader.stream, chosen, plan.From, plan.To); err != nil {
			return plan, err
		}
	}
	return plan, &EmptyError{Team: c.Team, Others: other, First: state.FirstSeq, FirstStored: state.FirstTime}
}

// An EmptyError says that there is nothing to replay.
type EmptyError struct {
	Team        string
	Others      uint64 // events that were chosen, but that the team does not subscribe to
	First       uint64 // the first sequence that is stored, and since when
	FirstStored time.Time
	Gone        bool // all that was chosen is not stored any more
}

func (e *EmptyError) Error() string {
	switch {
	case e.Gone && e.FirstStored.IsZero():
		return "nothing to replay: what was chosen is not stored any more, nor is anything else"
	case e.Gone:
		return fmt.Sprintf("nothing to replay: what was chosen is not stored any more; the first event that is has sequence %d, of %s", e.First, e.FirstStored.UTC().Format(time.RFC3339))
	case e.Others > 0:
		return fmt.Sprintf("nothing to replay: %d events match, and team %s subscribes to none of them; --any sends them all the same", e.Others, e.Team)
	}
	return "nothing to replay: no stored event matches"
}

// chosenFilters lists the subjects of the types and the resource.
func chosenFilters(subjects []string, c Choice) ([]string, error) {
	types := c.Types
	if len(types) == 0 {
		types = []string{""}
	}
	var filters []string
	for _, pattern := range types {
		filters = append(filters, eventFilters(subjects, c.Prefixes, pattern, c.Resource)...)
	}
	return apart(filters)
}

// bound makes sequences of the times, and of what is left open.
func (p *Replayer) bound(ctx context.Context, c Choice, state jetstream.StreamState, plan *Replay) error {
	if plan.To == 0 || plan.To > state.LastSeq {
		plan.To = state.LastSeq
	}
	if !c.Since.IsZero() {
		from, ok, err := p.firstSince(ctx, c.Since)
		if err != nil {
			return err
		}
		if !ok {
			from = state.LastSeq + 1
		}
		plan.From = max(plan.From, from)
	}
	if !c.Until.IsZero() {
		after, ok, err := p.firstSince(ctx, c.Until)
		if err != nil {
			return err
		}
		if ok {
			plan.To = min(plan.To, after-1)
		}
	}
	first := max(state.FirstSeq, 1)
	if first > 1 && (c.From > 0 && c.From < first || !c.Since.IsZero() && c.Since.Before(state.FirstTime)) {
		plan.Before = first
	}
	plan.From = max(plan.From, first)
	if asked := c.To > 0 || !c.Until.IsZero(); asked && first > 1 && plan.To < first {
		return &EmptyError{Team: c.Team, Gone: true, First: first, FirstStored: state.FirstTime}
	}
	return nil
}

// firstSince is the sequence of the first event that was stored at that time or later.
func (p *Replayer) firstSince(ctx context.Context, when time.Time) (uint64, bool, error) {
	c, err := p.reader.atLeader(ctx, p.reader.stream, span{since: when, headersOnly: true, batch: 1})
	if err != nil {
		return 0, false, err
	}
	defer c.close()
	_, at, ok, err := c.next(ctx)
	return at.Sequence, ok, err
}

// overlaps says whether another replay would copy some of the same events to the same team.
func (p Replay) overlaps(other Replay) bool {
	return p.Team == other.Team && len(bothOf(p.Filters, other.Filters)) > 0 && p.From <= other.To && other.From <= p.To
}
