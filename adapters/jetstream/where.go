package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// What is known of one message and one team. Of a consumer NATS tells how far it has delivered, up
// to where all is acknowledged, and how many of those between are not. So between these two
// places it is not always known which.
const (
	WherePending      = "pending"      // not delivered yet
	WhereWaiting      = "waiting"      // delivered, and not acknowledged yet
	WhereRetrying     = "retrying"     // the same, and delivered more than once
	WhereDelivered    = "delivered"    // and it is not known whether it is acknowledged
	WhereAcknowledged = "acknowledged" // by the team; or it was a dead letter, and that was dropped
	WhereDead         = "dead"         // the team could not handle it
	WhereRetried      = "retried"      // the same, and the dead letter was sent to it once more
	WhereNot          = "not_subscribed"
)

// A TeamWhere is what became of an event with one team.
type TeamWhere struct {
	Team   string
	Paused bool
	Standing
	Copies []CopyWhere // those of the event that are for this team alone
}

// A Standing says where a message stands with a consumer.
type Standing struct {
	State       string // one of the Where constants
	Unsure      string // for WhereDelivered: what is known
	Letter      uint64 // for WhereDead: the number of the dead letter; 0 if it is not made yet
	Reason, Why string // of the dead letter
}

// A CopyWhere is a copy of an event, and what became of it.
type CopyWhere struct {
	Replay   string
	Sequence uint64 // in the stream of the copies
	Standing
}

// A Whereabouts knows what there is to know of the teams at one moment.
type Whereabouts struct {
	reader    *Reader
	consumers map[string]map[string]*jetstream.ConsumerInfo // by stream and team
	dead      map[death]Standing
	between   map[string]unsettled // what lies between a consumer's two places, where it was asked for
}

// A death is a message that a team could not handle.
type death struct {
	stream, team string
	sequence     uint64
}

// Whereabouts looks at the teams' consumers and at their dead letters. It blocks for the server's
// answers.
func (r *Reader) Whereabouts(ctx context.Context) (*Whereabouts, error) {
	w := &Whereabouts{reader: r, consumers: map[string]map[string]*jetstream.ConsumerInfo{}, dead: map[death]Standing{}, between: map[string]unsettled{}}
	for _, stream := range TeamStreams(r.stream) {
		have, err := consumers(ctx, r.js, stream)
		if err != nil && (stream == r.stream || !errors.Is(err, jetstream.ErrStreamNotFound)) {
			return nil, err
		}
		maps.DeleteFunc(have, func(_ string, info *jetstream.ConsumerInfo) bool { return !isTeam(info.Config) })
		w.consumers[stream] = have
	}
	if err := w.readAdvisories(ctx); err != nil {
		return nil, err
	}
	return w, w.readLetters(ctx)
}

// readLetters notes the dead letters of the teams.
func (w *Whereabouts) readLetters(ctx context.Context) error {
	err := w.reader.search(ctx, deadStream(w.reader.stream), Search{}, []string{deadRoot + ".dlq.team.>"}, true, func(msg jetstream.Msg, at Place) error {
		h := msg.Headers()
		get := func(name string) string {
			value, _ := unescapeValue(h.Get(name))
			return value
		}
		d := death{stream: get(streamHeader), team: get(teamHeader)}
		sequence := sequenceHeader
		if d.stream != w.reader.stream {
			sequence = copyHeader
		}
		d.sequence, _ = strconv.ParseUint(get(sequence), 10, 64)
		if w.former(d, at.Stored) {
			return nil
		}
		w.dead[d] = Standing{State: WhereDead, Letter: at.Sequence, Reason: get(reasonHeader), Why: get(detailHeader)}
		return nil
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return err
}

// mostAdvisories is how many are read at most: mostly there are none, since letters are made of them.
const mostAdvisories = 10000

// readAdvisories notes what the server has said of deliveries that ended badly, and of which no
// dead letter was made yet.
func (w *Whereabouts) readAdvisories(ctx context.Context) error {
	stream, err := w.reader.js.Stream(ctx, advisoryStream(w.reader.stream))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", advisoryStream(w.reader.stream), err)
	}
	next := stream.CachedInfo().State.FirstSeq
	for range min(mostAdvisories, stream.CachedInfo().State.Msgs) {
		raw, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(">"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read advisory %d: %w", next, err)
		}
		next = raw.Sequence + 1
		died, err := parseAdvisory(w.reader.stream, raw.Subject, raw.Data)
		if d := (death{died.stream, died.consumer, died.sequence}); err == nil && !w.former(d, raw.Time) {
			w.dead[d] = Standing{State: WhereDead}
		}
	}
	return nil
}

// former says whether that was said before the team's consumer was made: by one that was deleted since.
// The team begins with all that is stored, and may do better with the same event.
func (w *Whereabouts) former(d death, said time.Time) bool {
	info := w.consumers[d.stream][d.team]
	return info != nil && said.Before(info.Created)
}

// Of says what became of a stored event with each team, in the order of their names.
func (w *Whereabouts) Of(ctx context.Context, event Place) ([]TeamWhere, error) {
	teams := map[string]*TeamWhere{}
	for name, info := range w.consumers[w.reader.stream] {
		standing, err := w.standing(ctx, info, event)
		if err != nil {
			return nil, err
		}
		teams[name] = &TeamWhere{Team: name, Paused: info.Paused, Standing: standing}
	}
	copies, err := w.copiesOf(ctx, event)
	if err != nil {
		return nil, err
	}
	for team, all := range copies {
		if teams[team] == nil {
			teams[team] = &TeamWhere{Team: team, Standing: Standing{State: WhereNot}}
		}
		teams[team].Copies = all
		// A dead letter that is tried again is dropped. Before the first copy, it can only have been one
		// of the event itself.
		open := teams[team].State == WhereAcknowledged || teams[team].State == WhereDelivered
		if open && strings.HasPrefix(all[0].Replay, LetterReplay) {
			teams[team].Standing = Standing{State: WhereRetried}
		}
	}
	var list []TeamWhere
	for _, name := range slices.Sorted(maps.Keys(teams)) {
		list = append(list, *teams[name])
	}
	return list, nil
}

// copiesOf finds the copies of an event, by team.
func (w *Whereabouts) copiesOf(ctx context.Context, event Place) (map[string][]CopyWhere, error) {
	stream := replayStream(w.reader.stream)
	all := map[string][]CopyWhere{}
	err := w.reader.search(ctx, stream, Search{}, []string{deadRoot + ".replay.*." + event.Subject}, true, func(msg jetstream.Msg, at Place) error {
		replay, original := copyMarks(msg.Headers())
		if original != event.Sequence {
			return nil
		}
		team := strings.Split(at.Subject, ".")[2]
		one := CopyWhere{Replay: replay, Sequence: at.Sequence, Standing: Standing{State: WherePending}}
		if info := w.consumers[stream][team]; info != nil {
			standing, err := w.standing(ctx, info, at)
			if err != nil {
				return err
			}
			one.Standing = standing
		}
		all[team] = append(all[team], one)
		return nil
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		err = nil
	}
	return all, err
}

// standing derives where a message stands with a consumer.
func (w *Whereabouts) standing(ctx context.Context, info *jetstream.ConsumerInfo, at Place) (Standing, error) {
	if dead, ok := w.dead[death{info.Stream, info.Name, at.Sequence}]; ok {
		return dead, nil
	}
	switch {
	case !holds(filtersOf(info.Config), at.Subject) && len(filtersOf(info.Config)) > 0:
		return Standing{State: WhereNot}, nil
	case at.Sequence > info.Delivered.Stream:
		return Standing{State: WherePending}, nil
	case at.Sequence <= info.AckFloor.Stream || info.NumAckPending == 0:
		return Standing{State: WhereAcknowledged}, nil
	}
	// It lies where some are acknowledged and some are not.
	u, err := w.unsettledOf(ctx, info)
	if err != nil {
		return Standing{}, err
	}
	waiting, deliveries := uint64(info.NumAckPending), info.Delivered.Consumer-info.AckFloor.Consumer
	switch {
	case deliveries < u.all:
		return Standing{State: WhereDelivered, Unsure: "or passed over, when the events of the team were changed"}, nil
	case waiting < u.all && at.Sequence != u.first:
		return Standing{State: WhereDelivered, Unsure: fmt.Sprintf("acknowledged or waiting: %d of %d there are waiting", waiting, u.all)}, nil
	case uint64(info.NumRedelivered) >= waiting && deliveries > u.all && !u.dead:
		return Standing{State: WhereRetrying}, nil
	}
	return Standing{State: WhereWaiting}, nil
}

// unsettled are the messages between the two places of a consumer.
type unsettled struct {
	all   uint64 // that are not dead
	first uint64 // the first of them: that one is not acknowledged
	dead  bool   // there are dead ones too
}

func (w *Whereabouts) unsettledOf(ctx context.Context, info *jetstream.ConsumerInfo) (u unsettled, err error) {
	key := info.Stream + " " + info.Name
	if known, ok := w.between[key]; ok {
		return known, nil
	}
	filters, from, to := filtersOf(info.Config), info.AckFloor.Stream+1, info.Delivered.Stream
	if u.all, err = w.reader.count(ctx, info.Stream, filters, from, to); err != nil {
		return u, err
	}
	for d := range w.dead {
		if d.stream == info.Stream && d.team == info.Name && d.sequence >= from && d.sequence <= to {
			u.all, u.dead = u.all-min(u.all, 1), true
		}
	}
	c, err := openCursor(ctx, w.reader.js, info.Stream, span{filters: filters, from: from, headersOnly: true, batch: 10})
	if err != nil {
		return u, err
	}
	defer c.close()
	for {
		_, at, ok, err := c.next(ctx)
		if err != nil {
			return u, err
		}
		if _, dead := w.dead[death{info.Stream, info.Name, at.Sequence}]; !ok || !dead {
			u.first = at.Sequence
			w.between[key] = u
			return u, nil
		}
	}
}
