package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"together-relay/relay"
)

// A TeamSeen is a team's consumer as it was found.
type TeamSeen struct {
	Name    string
	Events  []string // what it was made of
	Foreign bool     // a consumer of another hand; nothing else is said of it

	Pending         uint64 // stored for the team and not delivered yet
	InFlight        int    // delivered and not acknowledged yet
	Redelivered     int    // of those, delivered more than once
	Waiting         int    // pull requests that wait for an event
	Delivered       TeamPlace
	Acknowledged    TeamPlace // all before it is acknowledged or given up
	Oldest          time.Time // when the first event that is not acknowledged was stored; zero if there is none
	Paused, Removed bool      // Removed: because the team was taken out of the file
	Drifts          []TeamDrift
}

// TeamPlace is a place in the event stream, and when the consumer got there.
type TeamPlace struct {
	Sequence uint64
	Time     time.Time // zero for never, or not since the server has started
}

// Teams looks at the consumers of teams, and at those of other hands that have the name of one
// that is wanted, in the order of their names. They are compared with what is wanted, and those
// that nobody wants with what a relay has made them.
func (r *Reader) Teams(ctx context.Context, wanted []relay.Team) ([]TeamSeen, error) {
	stream, err := r.lookup(ctx, r.stream)
	if err != nil {
		return nil, err
	}
	have, err := consumers(ctx, r.js, r.stream)
	if err != nil {
		return nil, err
	}
	want := map[string]relay.Team{}
	for _, team := range wanted {
		want[team.Name] = team
	}
	var seen []TeamSeen
	for name, info := range have {
		team, asked := want[name]
		switch {
		case isTeam(info.Config):
			found := teamSeen(info, team)
			found.Oldest = oldest(ctx, stream, info)
			seen = append(seen, found)
		case asked:
			seen = append(seen, TeamSeen{Name: name, Foreign: true})
		}
	}
	slices.SortFunc(seen, func(a, b TeamSeen) int { return strings.Compare(a.Name, b.Name) })
	return seen, nil
}

func teamSeen(info *jetstream.ConsumerInfo, wanted relay.Team) TeamSeen {
	team := TeamSeen{
		Name: info.Name, Pending: info.NumPending, InFlight: info.NumAckPending, Redelivered: info.NumRedelivered, Waiting: info.NumWaiting,
		Delivered: teamPlace(info.Delivered), Acknowledged: teamPlace(info.AckFloor),
		Paused: info.Paused, Removed: info.Paused && isRemoved(info.Config),
	}
	var made madeOf
	if json.Unmarshal([]byte(info.Config.Metadata[settingsKey]), &made) != nil {
		return team // nothing to compare with
	}
	team.Events = made.Events
	if wanted.Name == "" {
		wanted = relay.Team{Events: made.Events, MaxDeliver: made.MaxDeliver, MaxAckPending: made.MaxAckPending}
		for _, text := range made.BackOff {
			d, _ := time.ParseDuration(text) // what is no duration is a drift
			wanted.BackOff = append(wanted.BackOff, d)
		}
	}
	// Which subjects the events lie on, the relay knows best: it has the sources.
	team.Drifts = compareTeam(consumerOf(wanted, made.Filters), info.Config)
	if events := strings.Join(wanted.Events, " "); events != strings.Join(made.Events, " ") {
		team.Drifts = append(team.Drifts, TeamDrift{"events", events, strings.Join(made.Events, " ")})
	}
	return team
}

func teamPlace(at jetstream.SequenceInfo) TeamPlace {
	place := TeamPlace{Sequence: at.Stream}
	if at.Last != nil {
		place.Time = *at.Last
	}
	return place
}

// manyFilters is from how many filters on the oldest event is not looked for: each costs a
// request.
const manyFilters = 16

// oldest finds when the first event after those that are acknowledged was stored.
func oldest(ctx context.Context, stream jetstream.Stream, info *jetstream.ConsumerInfo) time.Time {
	filters := filtersOf(info.Config)
	if info.NumPending == 0 && info.NumAckPending == 0 || len(filters) >= manyFilters {
		return time.Time{}
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var first *jetstream.RawStreamMsg
	for _, filter := range filters {
		msg, err := stream.GetMsg(ctx, info.AckFloor.Stream+1, jetstream.WithGetMsgSubject(filter))
		if err == nil && (first == nil || msg.Sequence < first.Sequence) {
			first = msg
		}
	}
	if first == nil {
		return time.Time{}
	}
	return first.Time
}

// ErrNoTeam says that there is no consumer of a team of that name.
var ErrNoTeam = errors.New("no consumer of a team")

// RemoveTeam deletes the team's consumer, and with it the place that the team has got to.
func (r *Reader) RemoveTeam(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	consumer, err := r.js.Consumer(ctx, r.stream, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("%s: %w", name, ErrNoTeam)
	}
	if err != nil {
		return fmt.Errorf("look at consumer %s: %w", name, err)
	}
	if !isTeam(consumer.CachedInfo().Config) {
		return fmt.Errorf("%s: %w; a relay has not made it", name, ErrNoTeam)
	}
	if err := r.js.DeleteConsumer(ctx, r.stream, name); err != nil {
		return fmt.Errorf("delete consumer %s: %w", name, err)
	}
	return nil
}
