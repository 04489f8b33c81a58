package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"together-relay/relay"
)

// Teams keeps durable pull consumers for each team, of its name: one for the events, one for the
// copies of events that are for this team alone. What is to be known of a consumer stands in its
// metadata; no consumer without that is ever touched.
type Teams struct {
	events *Log
	log    zerolog.Logger
	kick   chan struct{}

	mu      sync.Mutex
	want    map[string]relay.Team
	version int // of want

	// These belong to Run.
	done map[string]int // the version that the consumers on a stream were changed to
	said map[string]bool
}

// A side is a stream on which each team has a consumer.
type side struct {
	stream string
	config func(relay.Team) (jetstream.ConsumerConfig, error)
	copies bool // not the events themselves
}

func (t *Teams) sides() []side {
	cfg := t.events.cfg
	return []side{
		{stream: cfg.Stream, config: func(team relay.Team) (jetstream.ConsumerConfig, error) { return teamConsumer(team, cfg.Prefixes) }},
		{stream: replayStream(cfg.Stream), config: replayConsumer, copies: true},
	}
}

// level is how loud a thing is told that happens to both consumers of a team: once is enough.
func (s side) level(loud zerolog.Level) zerolog.Level {
	if s.copies {
		return zerolog.DebugLevel
	}
	return loud
}

// What marks a consumer as a team's, and what it was made or last changed to by a relay.
const (
	teamKey     = "together-relay.team"
	settingsKey = "together-relay.settings"
)

// madeOf is what the file said of a team when its consumer was last changed.
type madeOf struct {
	Events        []string `json:"events"`
	Filters       []string `json:"filters"`
	MaxDeliver    int      `json:"max_deliver"`
	BackOff       []string `json:"backoff"`
	MaxAckPending int      `json:"max_ack_pending"`
}

// removed is until when a consumer is paused whose team was taken out of the file. It tells
// that pause from any other.
func removed() time.Time { return time.Date(2200, time.January, 1, 0, 0, 0, 0, time.UTC) }

// Teams returns the keeper of the consumers on the event stream. It does nothing until Set.
func (l *Log) Teams(log zerolog.Logger) *Teams {
	return &Teams{events: l, log: log, kick: make(chan struct{}, 1), done: map[string]int{}, said: map[string]bool{}}
}

// Set says who the teams are from now on. It does not block: Run makes the consumers that are
// missing, changes those that were made of an older file, pauses those whose team is gone and
// resumes those whose team is back. What was changed by another hand it changes with
// ProvisionApply alone, and with ProvisionCheck nothing at all.
func (t *Teams) Set(teams []relay.Team) {
	t.mu.Lock()
	defer t.mu.Unlock()
	want := map[string]relay.Team{}
	for _, team := range teams {
		want[team.Name] = team
	}
	t.want = want
	t.version++
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// Run keeps the consumers, and looks at them every ten seconds. It blocks until ctx is done.
func (t *Teams) Run(ctx context.Context) error {
	said := ""
	for {
		wait := 10 * time.Second
		if !t.events.provisioned() {
			wait = 100 * time.Millisecond // the log says why
		} else if err := t.look(ctx); err == nil {
			said = ""
		} else if ctx.Err() == nil && said != err.Error() {
			said, wait = err.Error(), time.Second
			t.log.Error().Err(err).Msg("the teams' consumers could not be kept; trying again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.kick:
		case <-time.After(wait):
		}
	}
}

// once writes the line if none like it was written before.
func (t *Teams) once(key string, line *zerolog.Event, message string) {
	if !t.said[key] {
		t.said[key] = true
		line.Msg(message)
	}
}

// look compares the consumers with the teams. After Set it also changes what the file has
// changed; later looks only make what is missing, so that two relays whose files differ
// for a while do not undo each other's work for ever.
func (t *Teams) look(ctx context.Context) error {
	t.mu.Lock()
	want, version := t.want, t.version
	t.mu.Unlock()
	var failures []error
	for _, at := range t.sides() {
		err := t.lookAt(ctx, at, want, version)
		failures = append(failures, err)
		if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break // the next one would wait as long
		}
	}
	return errors.Join(failures...)
}

// lookAt is look on one stream.
func (t *Teams) lookAt(ctx context.Context, at side, want map[string]relay.Team, version int) error {
	changed := version != t.done[at.stream]
	if len(want) == 0 && !changed {
		return nil
	}
	have, err := consumers(ctx, t.events.js, at.stream)
	if err != nil {
		return err
	}
	var failures []error
	made := 0
	for _, name := range slices.Sorted(maps.Keys(want)) {
		did, err := t.keep(ctx, at, want[name], have[name], changed)
		if err != nil {
			failures = append(failures, fmt.Errorf("team %s: %w", name, err))
		}
		if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break // the others would wait as long
		}
		made += did
	}
	if made > 0 {
		t.log.Info().Str("stream", at.stream).Int("consumers", made).Int("teams", len(want)).Msg("consumers of teams made")
		failures = append(failures, t.events.flush())
	}
	if changed {
		failures = append(failures, t.pauseOthers(ctx, at, want, have))
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	t.done[at.stream] = version
	return nil
}

// consumers lists the consumers of a stream by name.
func consumers(ctx context.Context, js jetstream.JetStream, name string) (map[string]*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("look at stream %s: %w", name, err)
	}
	all := map[string]*jetstream.ConsumerInfo{}
	list := stream.ListConsumers(ctx)
	for info := range list.Info() {
		all[info.Name] = info
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list the consumers of stream %s: %w", name, err)
	}
	return all, nil
}

// keep makes the team's consumer, or compares it and does what is to be done about it.
func (t *Teams) keep(ctx context.Context, at side, team relay.Team, info *jetstream.ConsumerInfo, changed bool) (made int, err error) {
	want, err := at.config(team)
	if err != nil {
		return 0, err
	}
	check := t.events.cfg.Provision == ProvisionCheck
	switch {
	case info == nil && check:
		t.once(at.stream+" "+team.Name, t.log.Warn().Str("team", team.Name).Str("stream", at.stream), "the team has no consumer; provision=check makes none")
		return 0, nil
	case info == nil:
		if err := t.make(ctx, at, want); err != nil {
			return 0, err
		}
		return 1, nil
	case !isTeam(info.Config):
		t.once(at.stream+" "+team.Name, t.log.Error().Str("team", team.Name).Str("stream", at.stream),
			"a consumer of the team's name is there and not the relay's; it is left as it is, and the team has none. Rename the team, or remove that consumer")
		return 0, nil
	}
	drifts := compareTeam(want, info.Config)
	older := info.Config.Metadata[settingsKey] != want.Metadata[settingsKey] // the file is not what it was made of
	switch {
	case older && changed && !check, !older && len(drifts) > 0 && t.events.cfg.Provision == ProvisionApply:
		if err := t.change(ctx, at, want, info.Config, drifts); err != nil {
			return 0, err
		}
	default:
		for _, d := range drifts {
			t.once(fmt.Sprint(at.stream, team.Name, d), t.log.Warn().Str("team", team.Name).Str("stream", at.stream).Str("setting", d.Setting).Str("want", d.Want).Str("have", d.Have),
				"the team's consumer differs from the configuration; serve --provision=apply changes it")
		}
	}
	if !isRemoved(info.Config) || !changed {
		return 0, nil
	}
	if check {
		t.once("paused "+team.Name, t.log.WithLevel(at.level(zerolog.WarnLevel)).Str("team", team.Name), "the team is paused since it was out of the file; provision=check does not resume it")
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	if _, err := t.events.js.ResumeConsumer(ctx, at.stream, team.Name); err != nil {
		return 0, fmt.Errorf("resume consumer: %w", err)
	}
	t.log.WithLevel(at.level(zerolog.InfoLevel)).Str("team", team.Name).Msg("the team is back in the file; resumed")
	return 0, nil
}

func (t *Teams) make(ctx context.Context, at side, want jetstream.ConsumerConfig) error {
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	_, err := t.events.js.CreateConsumer(ctx, at.stream, want)
	if tooManyConsumers(err) {
		return fmt.Errorf("make consumer: %w; raise the limit with nats stream edit %s --max-consumers=%d, or that of the account", err, at.stream, maxConsumers)
	}
	if err != nil {
		return fmt.Errorf("make consumer: %w", err)
	}
	t.log.Debug().Str("team", want.Durable).Str("stream", at.stream).Strs("filters", want.FilterSubjects).Msg("consumer made")
	return nil
}

// change brings the consumer to what is wanted, and leaves alone what no drift is about.
func (t *Teams) change(ctx context.Context, at side, want, have jetstream.ConsumerConfig, drifts []TeamDrift) error {
	next := have
	next.FilterSubject, next.FilterSubjects = "", want.FilterSubjects
	next.MaxDeliver, next.BackOff, next.MaxAckPending = want.MaxDeliver, want.BackOff, want.MaxAckPending
	next.AckWait, next.AckPolicy, next.DeliverPolicy = want.AckWait, want.AckPolicy, want.DeliverPolicy
	next.InactiveThreshold, next.HeadersOnly = want.InactiveThreshold, want.HeadersOnly
	next.Description, next.Metadata = want.Description, maps.Clone(have.Metadata)
	maps.Copy(next.Metadata, want.Metadata)
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	if _, err := t.events.js.UpdateConsumer(ctx, at.stream, next); err != nil {
		return fmt.Errorf("change consumer: %w", err)
	}
	for _, d := range drifts {
		t.log.WithLevel(at.level(zerolog.InfoLevel)).Str("team", want.Durable).Str("stream", at.stream).Str("setting", d.Setting).Str("from", d.Have).Str("to", d.Want).Msg("the team's consumer was changed")
	}
	return t.events.flush()
}

// pauseOthers pauses the consumers whose team is not in the file any more.
func (t *Teams) pauseOthers(ctx context.Context, at side, want map[string]relay.Team, have map[string]*jetstream.ConsumerInfo) error {
	for _, name := range slices.Sorted(maps.Keys(have)) {
		info := have[name]
		if _, ok := want[name]; ok || !isTeam(info.Config) || isRemoved(info.Config) {
			continue
		}
		if t.events.cfg.Provision == ProvisionCheck {
			t.once("gone "+name, t.log.WithLevel(at.level(zerolog.WarnLevel)).Str("team", name), "the team is not in the file any more; provision=check does not pause it")
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, makeTimeout)
		_, err := t.events.js.PauseConsumer(ctx, at.stream, name, removed())
		cancel()
		if err != nil {
			return fmt.Errorf("pause team %s: %w", name, err)
		}
		t.log.WithLevel(at.level(zerolog.WarnLevel)).Str("team", name).Uint64("pending", info.NumPending).
			Msg("the team is not in the file any more; it is paused and keeps its place. together-relay teams rm deletes it")
	}
	return nil
}

func isTeam(cfg jetstream.ConsumerConfig) bool { return cfg.Metadata[teamKey] != "" }

// isRemoved says whether the consumer is paused because its team was taken out of the file.
func isRemoved(cfg jetstream.ConsumerConfig) bool {
	return cfg.PauseUntil != nil && cfg.PauseUntil.Equal(removed())
}
