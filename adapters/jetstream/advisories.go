package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"together-relay/relay"
)

// Advisories makes dead letters of what the server says of the teams' deliveries that ended badly.
// The server says it once and keeps no copy, so a stream does, and each advisory stays on it until
// its letter is stored and flushed. All relays share one consumer of that stream.
type Advisories struct {
	events *Log
	log    zerolog.Logger
	tell   Told
	wait   time.Duration // to handle one before it comes to another relay
	said   string        // why it does not get on; belongs to Run

	leaderEvery time.Duration // how often it is looked whether the stream has another leader
	led         atomic.Bool   // a leader was seen
}

// Told are functions that are called with what has happened. None may be nil.
type Told struct {
	Letter     func(relay.TeamLetter) // one was made
	Unreadable func()                 // an advisory that says nothing
	Counted    func(LetterCounts)     // every ten seconds
}

// Advisories returns the maker of the teams' dead letters. It does nothing until Run.
func (l *Log) Advisories(log zerolog.Logger, tell Told) *Advisories {
	return &Advisories{events: l, log: log, tell: tell, wait: advisoryWait, leaderEvery: leaderEvery}
}

// advisoryConsumer is the name of the consumer that all relays share.
const advisoryConsumer = "relay"

const (
	advisoryBatch = 64 // advisories taken at one time
	advisoryWait  = 30 * time.Second
	short         = 100 * time.Millisecond
	longestPause  = 10 * time.Second
	countEvery    = 10 * time.Second
)

// Run makes the letters until ctx is done. What cannot be done now is tried again for as long as
// it takes.
func (a *Advisories) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() { a.count(ctx) })
	beside.Go(func() { a.listen(ctx) })
	pause := short
	for ctx.Err() == nil {
		if !a.events.provisioned() {
			rest(ctx, short) // the log says why
			continue
		}
		progress, err := a.round(ctx)
		if progress || err == nil {
			pause = short
		}
		if err != nil && ctx.Err() == nil {
			a.complain(err)
			rest(ctx, pause)
			pause = min(2*pause, longestPause)
		}
	}
	return nil
}

// complain says once why there is no progress.
func (a *Advisories) complain(err error) {
	if a.said != err.Error() {
		a.said = err.Error()
		a.log.Error().Err(err).Msg("dead letters of teams cannot be made now; trying again, none is lost")
	}
}

// round takes advisories, for half a minute at most, and handles one after the other. It ends
// early with the first that cannot be handled now. Progress says whether one could.
func (a *Advisories) round(ctx context.Context) (progress bool, err error) {
	consumer, err := a.consumer(ctx)
	if err != nil {
		return false, err
	}
	taking, stop := context.WithCancel(ctx)
	defer stop()
	batch, err := consumer.Fetch(advisoryBatch, jetstream.FetchContext(taking), jetstream.FetchHeartbeat(5*time.Second))
	if err != nil {
		return false, fmt.Errorf("take advisories: %w", err)
	}
	look := lookup{log: a.events, streams: map[string]jetstream.Stream{}}
	for msg := range batch.Messages() {
		if err != nil || ctx.Err() != nil {
			_ = msg.NakWithDelay(short) // else it comes again when the time to handle it is over
			continue
		}
		if err = a.handle(ctx, look, msg); err != nil {
			_ = msg.NakWithDelay(later(msg)) // longer than the others, which may be easier
			stop()
			continue
		}
		progress, a.said = true, ""
	}
	if err == nil && batch.Error() != nil && ctx.Err() == nil {
		err = fmt.Errorf("take advisories: %w", batch.Error())
	}
	return progress, err
}

// later is how long an advisory is left alone that could not be handled: the longer, the more
// often that was so.
func later(msg jetstream.Msg) time.Duration {
	meta, err := msg.Metadata()
	if err != nil {
		return time.Minute
	}
	return min(short<<min(meta.NumDelivered, 10), time.Minute)
}

// consumer finds the shared consumer or makes it.
func (a *Advisories) consumer(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	stream := advisoryStream(a.events.cfg.Stream)
	consumer, err := a.events.js.Consumer(ctx, stream, advisoryConsumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) && a.events.cfg.Provision != ProvisionCheck {
		consumer, err = a.events.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
			Durable:       advisoryConsumer,
			Description:   "of which together-relay makes dead letters",
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       a.wait,
			MaxDeliver:    -1,
			MaxAckPending: 1000,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("look at consumer %s of stream %s: %w", advisoryConsumer, stream, err)
	}
	return consumer, nil
}

// handle makes the letter of one advisory, if there is one to be made, and acknowledges it
// afterwards: whoever dies in between leaves it to the next, who finds the letter made. Its
// error says why that cannot be done now.
func (a *Advisories) handle(ctx context.Context, look lookup, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("read advisory: %w", err)
	}
	about, err := parseAdvisory(a.events.cfg.Stream, msg.Subject(), msg.Data())
	if err != nil {
		a.tell.Unreadable()
		a.log.Error().Err(err).Str("subject", msg.Subject()).Uint64("advisory", meta.Sequence.Stream).Int("bytes", len(msg.Data())).
			Msg("an advisory cannot be read; it is left out")
		return a.acknowledge(ctx, msg)
	}
	team, err := look.team(ctx, about)
	if err != nil {
		return err
	}
	if !team.is {
		a.log.Debug().Str("stream", about.stream).Str("consumer", about.consumer).Msg("an advisory about a consumer that is no team's; nothing to do")
		return a.acknowledge(ctx, msg)
	}
	if team.neverHad(about) {
		a.log.Debug().Str("team", about.consumer).Uint64("sequence", about.sequence).Msg("a team has terminated what it was never given; nothing to do")
		return a.acknowledge(ctx, msg)
	}
	original, stored, err := look.original(ctx, about)
	if err != nil {
		return err
	}
	if original != nil && team.mayNotHave(about, original.Subject) {
		a.log.Debug().Str("team", about.consumer).Uint64("sequence", about.sequence).Msg("a team has terminated an event that it does not subscribe to; nothing to do")
		return a.acknowledge(ctx, msg)
	}
	if original != nil && !about.is(*original, stored) {
		original, stored = nil, time.Time{}
	}
	letter := about.letter(original, stored, a.events.cfg.Prefixes)
	id := about.messageID(team.madeFor(about))
	if meta.NumDelivered > 1 && time.Since(meta.Timestamp) > a.events.cfg.Window/2 {
		// The stream may have forgotten the id under which the letter was stored meanwhile.
		made, err := look.letter(ctx, letter.Team, id, meta.Timestamp)
		if err != nil {
			return err
		}
		if made {
			return a.acknowledge(ctx, msg)
		}
	}
	got, err := a.events.buryTeam(letter, about, original, id)
	if err != nil {
		return err
	}
	if !got.duplicate {
		a.tell.Letter(letter)
		a.log.Warn().Str("team", letter.Team).Str("reason", letter.Reason).Str("detail", shorten(letter.Detail)).Int("attempts", letter.Attempts).
			Str("event_id", letter.ID).Str("subject", letter.Subject).Uint64("seq", letter.Sequence).Str("replay", letter.Replay).
			Uint64("dead_letter", got.sequence).Msg("a team could not handle an event; it is a dead letter")
	}
	return a.acknowledge(ctx, msg)
}

// acknowledge blocks until the server knows. If it does not, the advisory comes again, and its
// letter is there.
func (a *Advisories) acknowledge(ctx context.Context, msg jetstream.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if err := msg.DoubleAck(ctx); err != nil {
		return fmt.Errorf("acknowledge advisory: %w", err)
	}
	return nil
}

// buryTeam stores a team's dead letter under the id, and blocks until it is flushed.
func (l *Log) buryTeam(letter relay.TeamLetter, about died, original *Original, id string) (ack, error) {
	msg := encodeTeamLetter(letter, about, original)
	msg.Header.Set(nats.MsgIdHdr, id)
	msg.Header.Set(nats.ExpectedStreamHdr, deadStream(l.cfg.Stream))
	l.fitTeamLetter(msg)
	got, err := l.publish(deadStream(l.cfg.Stream), msg, false)
	if _, large := errors.AsType[*relay.Unusable](err); large && msg.Data != nil { // the stream has a limit of its own
		omitData(msg)
		got, err = l.publish(deadStream(l.cfg.Stream), msg, false)
	}
	if err != nil {
		return ack{}, fmt.Errorf("keep dead letter of team %s: %w", letter.Team, err)
	}
	return got, nil
}

// count tells how many letters there are, again and again.
func (a *Advisories) count(ctx context.Context) {
	for ctx.Err() == nil {
		if a.events.provisioned() {
			if counts, err := countLetters(ctx, a.events.js, a.events.cfg.Stream); err == nil {
				a.tell.Counted(counts)
			} else {
				a.log.Debug().Err(err).Msg("dead letters cannot be counted now")
			}
			rest(ctx, countEvery)
			continue
		}
		rest(ctx, short)
	}
}
