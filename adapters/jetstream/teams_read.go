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

	Copies CopiesSeen
}

// CopiesSeen is how far a team has got with the copies that are for it alone.
type CopiesSeen struct {
	Missing     bool      // the consumer is not there
	Pending     uint64    // copies that are not delivered yet
	InFlight    int       // delivered and not acknowledged yet
	Redelivered int       // of those, delivered more than once
	Delivered   time.Time // when one was delivered last; zero for never, or not since the server has started
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
	copies, err := consumers(ctx, r.js, replayStream(r.stream))
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) { // an older relay has made none
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
			found.copies(copies[name], team)
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
	made, ok := noteOf(info.Config)
	if !ok {
		return team // nothing to compare with
	}
	team.Events = made.Events
	if wanted.Name == "" {
		wanted = made.team()
	}
	// Which subjects the events lie on, the relay knows best: it has the sources.
	team.Drifts = compareTeam(consumerOf(wanted, made.Filters), info.Config)
	if events := strings.Join(wanted.Events, " "); events != strings.Join(made.Events, " ") {
		team.Drifts = append(team.Drifts, TeamDrift{"events", events, strings.Join(made.Events, " ")})
	}
	return team
}

// noteOf reads what a relay has made the consumer of.
func noteOf(cfg jetstream.ConsumerConfig) (made madeOf, ok bool) {
	err := json.Unmarshal([]byte(cfg.Metadata[settingsKey]), &made)
	return made, err == nil
}

func (made madeOf) team() relay.Team {
	team := relay.Team{Events: made.Events, MaxDeliver: made.MaxDeliver, MaxAckPending: made.MaxAckPending}
	for _, text := range made.BackOff {
		d, _ := time.ParseDuration(text) // what is no duration is a drift
		team.BackOff = append(team.BackOff, d)
	}
	return team
}

// copies notes what is to be said of the team's consumer of copies; info is nil if there is none.
func (team *TeamSeen) copies(info *jetstream.ConsumerInfo, wanted relay.Team) {
	if info == nil || !isTeam(info.Config) {
		team.Copies.Missing = true
		return
	}
	team.Copies.Pending, team.Copies.InFlight, team.Copies.Redelivered = info.NumPending, info.NumAckPending, info.NumRedelivered
	team.Copies.Delivered = teamPlace(info.Delivered).Time
	made, ok := noteOf(info.Config)
	if !ok {
		return
	}
	if wanted.Name == "" {
		wanted = made.team()
	}
	for _, d := range compareTeam(consumerOf(wanted, made.Filters), info.Config) {
		d.Setting = "replay " + d.Setting
		team.Drifts = append(team.Drifts, d)
	}
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

// RemoveTeam deletes the team's consumers, and with them the place that the team has got to, and
// the copies that were for it alone. One that was cut short is ended by another.
func (r *Reader) RemoveTeam(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	streams := TeamStreams(r.stream)
	slices.Reverse(streams) // the consumer of events goes last: as long as it is there, there is a team
	var has []string
	for _, stream := range streams {
		consumer, err := r.js.Consumer(ctx, stream, name)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound), stream != r.stream && errors.Is(err, jetstream.ErrStreamNotFound):
		case err != nil:
			return fmt.Errorf("look at consumer %s: %w", name, err)
		case isTeam(consumer.CachedInfo().Config):
			has = append(has, stream)
		case stream == r.stream:
			return fmt.Errorf("%s: %w; a relay has not made it", name, ErrNoTeam)
		}
	}
	if len(has) == 0 {
		return fmt.Errorf("%s: %w", name, ErrNoTeam)
	}
	if err := r.forgetReplays(ctx, name); err != nil {
		return err
	}
	copies, err := r.lookup(ctx, replayStream(r.stream))
	if err == nil {
		err = copies.Purge(ctx, jetstream.WithPurgeSubject(replaySubject(name, ">")))
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove the copies for team %s: %w", name, err)
	}
	for _, stream := range has {
		if err := r.js.DeleteConsumer(ctx, stream, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return fmt.Errorf("delete consumer %s on stream %s: %w", name, stream, err)
		}
	}
	return nil
}
