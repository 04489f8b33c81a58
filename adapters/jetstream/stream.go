package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A Drift is a setting of a stream that is not what the relay is configured for.
type Drift struct {
	Stream, Setting string
	Want, Have      string
	Breaks          bool // with it a promise of the relay would not hold
}

func (d Drift) String() string {
	return fmt.Sprintf("stream %s: %s is %s, configured is %s", d.Stream, d.Setting, d.Have, d.Want)
}

// wanted lists the streams as they are configured that the promise rests on: that of the events
// and that of the dead letters.
func (l *Log) wanted() []jetstream.StreamConfig {
	events := jetstream.StreamConfig{
		Name:        l.cfg.Stream,
		Description: "CloudEvents stored by together-relay",
		Subjects:    l.subjects(),
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew, // a full stream is an error for the sender, not a silent loss
		MaxAge:      l.cfg.MaxAge,
		MaxBytes:    -1,
		Duplicates:  l.cfg.Window,
		Replicas:    l.cfg.Replicas,
		AllowDirect: true,
		// Each team has one, and whoever reads has one for a while. Without a number of its own a stream
		// has room for a thousand (since NATS 2.15).
		MaxConsumers: maxConsumers,
	}
	// A single server that flushes every message does so once for a batch. A cluster groups by
	// itself.
	events.AllowAtomicPublish = l.cfg.Batches && l.cfg.Replicas == 1
	if l.cfg.MaxBytes > 0 {
		events.MaxBytes = l.cfg.MaxBytes
	}
	dead := events
	dead.Name, dead.Subjects, dead.MaxBytes = deadStream(l.cfg.Stream), []string{deadRoot + ".dlq.>"}, -1
	dead.AllowAtomicPublish = false
	dead.Description = "deliveries and events that nobody could use, kept by together-relay"
	return []jetstream.StreamConfig{events, dead}
}

// maxConsumers is how many consumers a stream is made for.
const maxConsumers = 100_000

// beside lists the other streams as they are configured. Whatever is wrong with them, deliveries
// are stored.
func (l *Log) beside() []jetstream.StreamConfig {
	copies := l.wanted()[1]
	copies.Name, copies.Subjects = replayStream(l.cfg.Stream), []string{deadRoot + ".replay.>"}
	copies.Description = "copies of events for single teams, kept by together-relay"
	// An advisory is there until a dead letter is made of it, however long no relay runs: it is the
	// only word on it. Such a stream empties itself. But to terminate an event once more costs a
	// team nothing, so each has a bound: beyond it what is new is lost, to that team alone.
	said := copies
	said.Name, said.Subjects = advisoryStream(l.cfg.Stream), advisorySubjects(l.cfg.Stream)
	said.Description = "what NATS says of the teams' deliveries that ended badly, until together-relay has kept it"
	said.Retention, said.MaxAge, said.Duplicates = jetstream.WorkQueuePolicy, 0, 2*time.Minute
	said.MaxMsgsPerSubject, said.DiscardNewPerSubject = maxAdvisories, true
	return []jetstream.StreamConfig{copies, said}
}

// maxAdvisories is how many advisories of one kind may wait for each consumer. It is more than a
// relay works off in half a minute.
const maxAdvisories = 100_000

// provision makes the streams that are missing and compares those that are there. Its
// error says why nothing may be stored.
func (l *Log) provision(ctx context.Context) error {
	if !l.nc.IsConnected() {
		cause := errors.New("NATS is not connected")
		if err := l.nc.LastError(); err != nil {
			cause = fmt.Errorf("NATS is not connected: %w", err)
		}
		return cause
	}
	if l.cfg.Healthy != nil {
		if err := l.cfg.Healthy(ctx); err != nil {
			return err
		}
	}
	for _, want := range l.wanted() {
		if err := l.provisionOne(ctx, want); err != nil {
			return err
		}
	}
	if !l.watched.Load() { // another relay may have begun to watch
		_, err := l.js.Stream(ctx, watchStream(l.cfg.Stream))
		l.watched.Store(err == nil)
	}
	return nil
}

// provisionBeside does for the streams beside the events what provision does for those. What it
// cannot do it says once, and it is tried again.
func (l *Log) provisionBeside(ctx context.Context) {
	for _, want := range l.beside() {
		err := l.provisionOne(ctx, want)
		switch {
		case err == nil:
			delete(l.missed, want.Name)
		case ctx.Err() == nil && l.missed[want.Name] != err.Error():
			l.missed[want.Name] = err.Error()
			l.log.Error().Err(err).Str("stream", want.Name).Msg("deliveries are stored, but a stream for the teams is not as it should be; trying again")
		}
	}
	l.besides.Store(true)
}

// lookTimeout is the wait for an answer about a stream. Without a leader there is none.
const lookTimeout = 2 * time.Second

// makeTimeout is the wait for a stream to be made or changed.
const makeTimeout = 10 * time.Second

func (l *Log) provisionOne(ctx context.Context, want jetstream.StreamConfig) error {
	looking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	stream, err := l.js.Stream(looking, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) && l.cfg.Provision != ProvisionCheck {
		return l.create(ctx, want)
	}
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", want.Name, err)
	}
	l.seen[want.Name] = true
	if want.Name == l.cfg.Stream {
		have := stream.CachedInfo().Config
		l.grouped.Store(want.AllowAtomicPublish && have.AllowAtomicPublish && have.Replicas == 1)
		l.stream.Store(&stream)
	}
	drifts := l.compare(want, stream.CachedInfo().Config)
	if len(drifts) > 0 && l.cfg.Provision == ProvisionApply {
		return l.apply(ctx, want, stream.CachedInfo().Config, drifts)
	}
	return l.report(drifts)
}

func (l *Log) create(ctx context.Context, want jetstream.StreamConfig) error {
	if l.seen[want.Name] {
		l.log.Error().Str("stream", want.Name).Msg("the stream was there and is gone; its events are lost. Making it anew, empty")
	}
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	_, err := l.js.CreateStream(ctx, want)
	if err != nil && want.AllowAtomicPublish {
		want.AllowAtomicPublish = false // a server older than 2.12 knows no batches
		_, err = l.js.CreateStream(ctx, want)
	}
	if tooManyConsumers(err) {
		want.MaxConsumers = -1 // the account has a limit
		_, err = l.js.CreateStream(ctx, want)
	}
	if err != nil {
		return fmt.Errorf("make stream %s: %w", want.Name, err)
	}
	l.seen[want.Name] = true
	if want.Name == l.cfg.Stream {
		l.grouped.Store(want.AllowAtomicPublish)
	}
	l.log.Info().Str("stream", want.Name).Strs("subjects", want.Subjects).Int("replicas", want.Replicas).
		Stringer("max_age", want.MaxAge).Stringer("dedup_window", want.Duplicates).Msg("stream made")
	return l.flush()
}

// tooManyConsumers says whether there is no room for another consumer, or for as many as a stream
// is to have.
func tooManyConsumers(err error) bool {
	api, ok := errors.AsType[jetstream.JetStreamError](err)
	return ok && api.APIError() != nil && api.APIError().ErrorCode == codeManyConsumers
}

// apply changes what drifted and nothing else.
func (l *Log) apply(ctx context.Context, want, have jetstream.StreamConfig, drifts []Drift) error {
	change := have
	change.Subjects, change.Storage, change.Retention, change.Discard = want.Subjects, want.Storage, want.Retention, want.Discard
	change.MaxAge, change.MaxBytes, change.Duplicates = want.MaxAge, want.MaxBytes, want.Duplicates
	change.Replicas, change.AllowDirect = want.Replicas, want.AllowDirect
	change.AllowAtomicPublish = change.AllowAtomicPublish || want.AllowAtomicPublish
	change.MaxMsgs, change.MaxMsgsPerSubject, change.MaxMsgSize = -1, cmp.Or(want.MaxMsgsPerSubject, -1), -1
	change.DiscardNewPerSubject, change.MaxConsumers = want.DiscardNewPerSubject, max(change.MaxConsumers, want.MaxConsumers)
	change.NoAck, change.SubjectTransform, change.PersistMode = false, nil, want.PersistMode
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	if _, err := l.js.UpdateStream(ctx, change); err != nil {
		return fmt.Errorf("change stream %s (%s): %w", want.Name, list(drifts), err)
	}
	for _, d := range drifts {
		l.log.Info().Str("stream", d.Stream).Str("setting", d.Setting).Str("from", d.Have).Str("to", d.Want).Msg("stream changed")
	}
	return nil
}

// report warns of each drift once, and fails for those that break a promise.
func (l *Log) report(drifts []Drift) error {
	var broken []Drift
	for _, d := range drifts {
		if d.Breaks {
			broken = append(broken, d)
		} else if !l.warned[d] {
			l.warned[d] = true
			l.log.Warn().Str("stream", d.Stream).Str("setting", d.Setting).Str("want", d.Want).Str("have", d.Have).
				Msg("stream differs from the configuration; serve --provision=apply changes it")
		}
	}
	if len(broken) > 0 {
		return fmt.Errorf("%s: the relay could not keep its promise; serve --provision=apply changes it, if NATS allows", list(broken))
	}
	return nil
}

func list(drifts []Drift) string {
	lines := make([]string, len(drifts))
	for i, d := range drifts {
		lines[i] = d.String()
	}
	return strings.Join(lines, "; ")
}

// compare is compare of what the promise rests on; of the streams beside, nothing breaks it.
func (l *Log) compare(want, have jetstream.StreamConfig) []Drift {
	drifts := compare(want, have)
	if want.Name != l.cfg.Stream && want.Name != deadStream(l.cfg.Stream) {
		for i := range drifts {
			drifts[i].Breaks = false
		}
	}
	return drifts
}

// compare lists how a stream differs from what is wanted. A difference breaks a promise
// if an event that was answered 200 could be missing, or be there twice.
func compare(want, have jetstream.StreamConfig) []Drift {
	name := want.Name
	var drifts []Drift
	differ := func(setting, want, have string, breaks bool) {
		if want != have {
			drifts = append(drifts, Drift{Stream: name, Setting: setting, Want: want, Have: have, Breaks: breaks})
		}
	}
	missing := slices.DeleteFunc(slices.Clone(want.Subjects), func(s string) bool { return slices.Contains(have.Subjects, s) })
	differ("subjects", sorted(want.Subjects), sorted(have.Subjects), len(missing) > 0)
	differ("storage", want.Storage.String(), have.Storage.String(), true)
	differ("retention", want.Retention.String(), have.Retention.String(), true)
	limited := have.MaxBytes > 0 || have.MaxMsgs > 0
	differ("discard", want.Discard.String(), have.Discard.String(), limited)
	differ("max_age", age(want.MaxAge), age(have.MaxAge), false)
	differ("max_bytes", limit(want.MaxBytes), limit(have.MaxBytes), false)
	differ("max_msgs", limit(want.MaxMsgs), limit(have.MaxMsgs), false)
	differ("max_msgs_per_subject", limit(want.MaxMsgsPerSubject), limit(have.MaxMsgsPerSubject), have.Discard == jetstream.DiscardOld || !have.DiscardNewPerSubject)
	differ("max_msg_size", limit(int64(want.MaxMsgSize)), limit(int64(have.MaxMsgSize)), false)
	differ("duplicate_window", age(want.Duplicates), age(have.Duplicates), have.Duplicates < want.Duplicates)
	differ("replicas", strconv.Itoa(want.Replicas), strconv.Itoa(have.Replicas), false)
	differ("allow_direct", strconv.FormatBool(want.AllowDirect), strconv.FormatBool(have.AllowDirect), false)
	if want.AllowAtomicPublish { // without it all works, only slower
		differ("allow_atomic", "true", strconv.FormatBool(have.AllowAtomicPublish), false)
	}
	differ("no_ack", strconv.FormatBool(want.NoAck), strconv.FormatBool(have.NoAck), true)
	differ("sealed", strconv.FormatBool(want.Sealed), strconv.FormatBool(have.Sealed), true)
	differ("persist_mode", want.PersistMode.String(), have.PersistMode.String(), true)
	differ("subject_transform", transform(want.SubjectTransform), transform(have.SubjectTransform), true)
	return drifts
}

func sorted(subjects []string) string {
	return strings.Join(slices.Sorted(slices.Values(subjects)), " ")
}

// limit writes a stream's limit, of which 0 and -1 both mean none.
func limit(n int64) string {
	if n <= 0 {
		return "unlimited"
	}
	return strconv.FormatInt(n, 10)
}

func age(d time.Duration) string {
	if d == 0 {
		return "unlimited"
	}
	return d.String()
}

func transform(t *jetstream.SubjectTransformConfig) string {
	if t == nil {
		return "none"
	}
	return t.Source + " to " + t.Destination
}
