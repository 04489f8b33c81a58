package jetstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"together-relay/relay"
)

// Config says which streams the log keeps and what they must be like.
type Config struct {
	Stream    string            // its dead letters go to <Stream>_DLQ, copies for single teams to <Stream>_REPLAY
	Prefixes  map[string]string // subject prefix of each source, by the source's name
	Replicas  int
	MaxAge    time.Duration // how long events and dead letters are kept
	Window    time.Duration // how long an id is remembered; at most MaxAge
	MaxBytes  int64         // largest size of the event stream; 0 is no limit
	Timeout   time.Duration // longest wait for an acknowledgement, repeats included
	Provision string        // one of the Provision constants
	Batches   bool          // events that wait together may go as one, for a server that flushes each message
	// Healthy says what is wrong with the server, if the relay has it in its hands; may be nil.
	Healthy func(context.Context) error
	// Flush makes all that the server has acknowledged durable, and blocks until it is; nil if
	// the server's word is enough.
	Flush func() error
	// Accept is asked once, when the streams were found and before anything is stored; its
	// error ends Run, wrapped in ErrRefused. Nil accepts all.
	Accept func(context.Context, Inspection) error
}

// ErrRefused says that Config.Accept does not want this set-up.
var ErrRefused = errors.New("the set-up is refused")

// How much of the streams' making is the relay's business.
const (
	ProvisionCreate = "create" // make them when missing, report drift
	ProvisionApply  = "apply"  // the same, and change them to what is configured
	ProvisionCheck  = "check"  // report only; for a relay that may not make streams
)

// A Log keeps events and dead letters on two JetStream streams. It implements
// [relay.Log] and is safe for concurrent use.
type Log struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	acks *acks
	// group sends events that wait at the same moment as one, while grouped says so.
	group   *group
	grouped atomic.Bool
	cfg     Config
	log     zerolog.Logger
	kick    chan struct{}
	// besides says that the streams beside the events were looked at.
	besides atomic.Bool
	// watched says that somebody watches the API, here or in another relay.
	watched atomic.Bool
	stream  atomic.Pointer[jetstream.Stream] // the event stream, once it was looked at
	// What is known of the connection without asking it: it holds its lock while it writes.
	up         atomic.Bool
	maxPayload atomic.Int64
	// trouble is why nothing can be stored now; it points at nil when all is well.
	trouble atomic.Pointer[error]
	// looking is held by Look, whose the next four are.
	looking  sync.Mutex
	warned   map[Drift]bool
	seen     map[string]bool   // streams that were there
	missed   map[string]string // what is wrong with streams beside the events
	accepted bool              // Config.Accept was asked
	// refused is the last publish that failed, if none has succeeded since.
	refused atomic.Pointer[refusal]
}

var errNotChecked = errors.New("the streams were not looked at yet")

// Open returns a log on a connection of its own, which never gives up; see [Config] and
// Run. It does not block.
func Open(urls string, auth Auth, cfg Config, log zerolog.Logger, more ...Option) (*Log, error) {
	l := newLog(cfg, log)
	nc, err := connect(urls, auth, log, l.connected, more...)
	if err != nil {
		return nil, err
	}
	return l, l.use(nc)
}

// connected begins anew with a server.
func (l *Log) connected(nc *nats.Conn) {
	l.maxPayload.Store(nc.MaxPayload())
	l.up.Store(true)
	l.refused.Store(nil)
	l.Kick()
}

// disconnected tells those who wait for an acknowledgement that none will come.
func (l *Log) disconnected(nc *nats.Conn, err error) {
	l.up.Store(false)
	l.acks.drop()
	if !nc.IsClosed() {
		l.log.Warn().Err(err).Msg("connection to NATS lost; trying again until it is back")
	}
}

func newLog(cfg Config, log zerolog.Logger) *Log {
	l := &Log{cfg: cfg, log: log, kick: make(chan struct{}, 1), warned: map[Drift]bool{}, seen: map[string]bool{}, missed: map[string]string{}}
	l.trouble.Store(&errNotChecked)
	return l
}

func (l *Log) use(nc *nats.Conn) (err error) {
	l.nc = nc
	if l.js, err = jetstream.New(nc); err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	if l.acks, err = newAcks(nc); err != nil {
		return fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	l.group = newGroup(l.acks.publish, l.acks.batch)
	nc.SetDisconnectErrHandler(l.disconnected)
	if nc.IsConnected() { // before anybody listened
		l.connected(nc)
	}
	return nil
}

// Close ends the connection. What was not acknowledged by then is not stored by it.
func (l *Log) Close() { l.nc.Close() }

// Run finds or makes the streams as soon as there is a server, and looks at them again
// after each reconnection and every ten seconds. It blocks until ctx is done.
func (l *Log) Run(ctx context.Context) error {
	said := ""
	for {
		err := l.Look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrRefused) {
			return err
		}
		wait := 10 * time.Second
		switch {
		case err == nil && said != "-":
			l.log.Info().Str("stream", l.cfg.Stream).Strs("subjects", l.subjects()).Msg("ready to store")
			said = "-"
		case err != nil:
			wait = time.Second / 2
			if said != err.Error() {
				said = err.Error()
				l.log.Error().Err(err).Msg("cannot store; trying again")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.kick:
		case <-time.After(wait):
		}
	}
}

// Look finds or makes the streams once and says why nothing can be stored. It blocks for
// a few seconds at most. A log that is not Run has to be looked at once.
func (l *Log) Look(ctx context.Context) error {
	l.looking.Lock()
	defer l.looking.Unlock()
	err := l.provision(ctx)
	if refused := l.accept(ctx); refused != nil {
		err = refused
	}
	if errors.Is(err, context.DeadlineExceeded) && *l.trouble.Load() == nil {
		// No answer, as while a cluster elects: the streams were well, and a publish will
		// find out for itself whether it can be stored.
		return err
	}
	l.trouble.Store(&err)
	if err == nil {
		l.provisionBeside(ctx)
	}
	return err
}

// accept asks whether the set-up is wanted, as soon as the stream of events is there.
func (l *Log) accept(ctx context.Context) error {
	if l.cfg.Accept == nil || l.accepted || !l.seen[l.cfg.Stream] {
		return nil
	}
	found, err := l.inspect(ctx)
	if err != nil {
		return err
	}
	if err := l.cfg.Accept(ctx, found); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	l.accepted = true
	return nil
}

// provisioned says that events can be stored, and that the streams beside them were looked at.
func (l *Log) provisioned() bool { return *l.trouble.Load() == nil && l.besides.Load() }

// Kick makes Run look at the streams now.
func (l *Log) Kick() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

func (l *Log) subjects() []string {
	return subjectsBelow(slices.Collect(maps.Values(l.cfg.Prefixes)))
}

// Append implements [relay.Log].
func (l *Log) Append(ctx context.Context, ev relay.Event) (relay.Stored, error) {
	subject := Subject(l.cfg.Prefixes[ev.Source], ev.Type, ev.Resource)
	msg := messages.Get().(*message)
	defer msg.free()
	msg.set(nats.ExpectedStreamHdr, l.cfg.Stream)
	if err := msg.encode(subject, ev); err != nil {
		return relay.Stored{}, notStored(err, longWait)
	}
	if ev.Shared && (l.watched.Load() || ev.Proof == "") { // what nobody signed comes from the API
		return l.appendShared(ctx, &msg.Msg, ev)
	}
	got, err := l.publish(l.cfg.Stream, &msg.Msg, l.grouped.Load())
	if err != nil {
		return relay.Stored{}, err
	}
	return relay.Stored{Subject: subject, Sequence: got.sequence, Duplicate: got.duplicate}, nil
}

// Bury implements [relay.Log]. The same body, sent again, is the same dead letter.
func (l *Log) Bury(_ context.Context, letter relay.DeadLetter) error {
	msg := encodeLetter(letter)
	sum := sha256.Sum256(letter.Body)
	msg.Header.Set(nats.MsgIdHdr, escapeValue(letter.Source)+":"+hex.EncodeToString(sum[:]))
	_, err := l.publish(deadStream(l.cfg.Stream), msg, false)
	if _, ok := errors.AsType[*relay.Unusable](err); ok {
		return notStored(fmt.Errorf("bury dead letter: %w", err), longWait)
	}
	return err
}

// Good times to wait before the same event is sent again.
const (
	shortWait = 1 * time.Second // it is being stored, or the stream is busy
	longWait  = 5 * time.Second
)

// maxHeader is the most that JetStream keeps of a message's headers, in bytes.
const maxHeader = 64<<10 - 1

// publish blocks until the stream has acknowledged the message, or until the time is up.
// A sender that hangs up does not end it: the outcome is worth knowing. A server that
// has no leader for the stream just now, or is storing the same id at this moment, is
// asked again; any other refusal ends it at once.
func (l *Log) publish(stream string, msg *nats.Msg, grouped bool) (ack, error) {
	send := l.acks.publish
	if grouped {
		send = l.group.publish
	}
	got, err := l.store(stream, msg, send)
	if err != nil {
		return ack{}, err
	}
	return got, l.flush()
}

// store is publish whose message need not be on disk yet.
func (l *Log) store(stream string, msg *nats.Msg, send func(*nats.Msg, time.Time) (ack, error)) (ack, error) {
	if trouble := *l.trouble.Load(); trouble != nil {
		return ack{}, notStored(trouble, longWait)
	}
	if msg.Header[nats.ExpectedStreamHdr] == nil {
		msg.Header[nats.ExpectedStreamHdr] = []string{stream}
	}
	err := l.fits(msg)
	if err != nil && msg.Header[headHeader] != nil {
		// The way the body was written around its data is worth less than the event.
		delete(msg.Header, headHeader)
		delete(msg.Header, tailHeader)
		err = l.fits(msg)
	}
	if err != nil {
		return ack{}, err
	}
	deadline := time.Now().Add(l.cfg.Timeout)
	for {
		got, err := send(msg, deadline)
		if err == nil {
			if l.refused.Load() != nil {
				l.refused.Store(nil)
			}
			return got, nil
		}
		failure := classify(err)
		if failure.again && time.Until(deadline) > failure.pause {
			<-time.After(failure.pause)
			continue
		}
		if _, ours := errors.AsType[*relay.NotStored](failure.err); ours && !failure.again {
			l.refused.Store(&refusal{failure.err, time.Now()})
			l.Kick()
		}
		return ack{}, failure.err
	}
}

// flush makes what was acknowledged durable. A duplicate needs it too: the first one may
// have been acknowledged just now.
func (l *Log) flush() error {
	if l.cfg.Flush == nil {
		return nil
	}
	if err := l.cfg.Flush(); err != nil {
		l.Kick()
		return notStored(err, longWait)
	}
	return nil
}

// fits says whether a message of the stream can hold msg.
func (l *Log) fits(msg *nats.Msg) error {
	size := headerSize(msg.Header)
	if size > maxHeader {
		return tooLarge("its headers need %d bytes, a message has room for %d", size, maxHeader)
	}
	if limit := l.maxPayload.Load(); limit > 0 && int64(size+len(msg.Data)) > limit {
		return tooLarge("it needs %d bytes, a message has room for %d", size+len(msg.Data), limit)
	}
	return nil
}

// HeaderRoom is how many bytes of a message are kept free for its headers.
const HeaderRoom = 24 << 10

// Room is the largest body that fits into a message of the server, or no less than all if
// there was no server yet.
func (l *Log) Room() int64 {
	limit := l.maxPayload.Load()
	if limit == 0 {
		return math.MaxInt64
	}
	return max(limit-HeaderRoom, limit/2) // with so little room, half of it is for headers
}

// A refusal is remembered for a while by Ready: a stream can look well and still have no
// room, and only the next attempt can tell that it has some again.
type refusal struct {
	err  error
	when time.Time
}

const refusalCounts = 5 * time.Second

type failure struct {
	err   error
	again bool // asking once more within the same request can help
	pause time.Duration
}

// Error codes of the JetStream API that nats.go does not name.
const (
	codeNoLeader        = 10008
	codeManyConsumers   = 10026
	codeMessageTooLarge = 10054
	codeHeaderTooLarge  = 10097
	codeIDInProcess     = 10158
	codeSeqInProcess    = 10164
	codeTooManyRequests = 10167
)

// classify says what a failed publish means: one table.
func classify(err error) failure {
	if errors.Is(err, nats.ErrMaxPayload) {
		return failure{err: tooLarge("%s", err)}
	}
	wait := longWait
	if api, ok := errors.AsType[jetstream.JetStreamError](err); ok && api.APIError() != nil {
		if newer, ok := asMoved(api.APIError()); ok {
			return failure{err: newer}
		}
		switch api.APIError().ErrorCode {
		case codeMessageTooLarge, codeHeaderTooLarge:
			return failure{err: tooLarge("%s", api.APIError().Description)}
		case codeIDInProcess, codeSeqInProcess:
			return failure{err: notStored(err, shortWait), again: true, pause: 50 * time.Millisecond}
		case codeTooManyRequests:
			wait = shortWait
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the stream did not acknowledge in time; it may be stored all the same: %w", err)
	}
	return failure{err: notStored(err, wait)}
}

func notStored(cause error, wait time.Duration) error {
	return &relay.NotStored{Cause: cause, RetryAfter: wait}
}

func tooLarge(format string, args ...any) error {
	return &relay.Unusable{Reason: relay.ReasonSize, Detail: fmt.Sprintf(format, args...)}
}

// headerSize is the length of the headers on the wire.
func headerSize(h nats.Header) int {
	size := len("NATS/1.0\r\n\r\n")
	for name, values := range h {
		for _, v := range values {
			size += len(name) + len(": \r\n") + len(v)
		}
	}
	return size
}
