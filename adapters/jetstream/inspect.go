package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/rs/zerolog"
)

// An Inspection is what a client can see of the set-up. It holds facts and no judgement.
type Inspection struct {
	Version  string // of the server
	Cluster  string // its name; empty for a server that stands alone
	Auth     bool   // the server asks who its clients are
	Room     int64  // largest body that fits into a message
	Disabled string // why JetStream cannot be used; empty if it can

	Events, Dead StreamSeen
	Beside       []StreamSeen // what the teams need beside those
	Drifts       []Drift      // of the streams that are there
	Marks        StreamSeen   // of the watcher; known from an Inspect of a [Reader]

	// The server's clock less ours, and how far off that may be, if a clock was read.
	Skew, SkewError time.Duration
	SkewKnown       bool

	// What this client may do; known from an Inspect of a [Reader].
	Hears, Speaks bool     // it may subscribe to everything, publish anywhere
	Account, User string   // it belongs to, it is; empty if the server does not say
	Told          bool     // the server has told what it may do, so that the next two are known
	Wider, Lacks  []string // subjects that it may use beyond what a relay needs; that it needs and may not use
}

// A StreamSeen is a stream as it was found.
type StreamSeen struct {
	Name        string
	Exists      bool
	Trouble     string // why it could not be looked at
	Memory      bool   // it lies in memory, not on disk
	Async       bool   // it is acknowledged before it is written
	Replicas    int
	Alive       int // replicas that are there now
	Window, Age time.Duration
	MaxMessage  int64 // largest message; 0 is the server's
	Bytes       uint64
}

// SystemAccount is the account that sees and rules the whole server.
const SystemAccount = "$SYS"

// GlobalAccount is the account of a server that has no others.
const GlobalAccount = "$G"

// inspect looks at the server and the streams, and changes nothing.
func (l *Log) inspect(ctx context.Context) (Inspection, error) {
	if !l.nc.IsConnected() {
		return Inspection{}, errors.New("NATS is not connected")
	}
	seen := Inspection{
		Version: l.nc.ConnectedServerVersion(), Cluster: l.nc.ConnectedClusterName(), Auth: l.nc.AuthRequired(), Room: l.Room(),
	}
	for i, want := range append(l.wanted(), l.beside()...) {
		s := StreamSeen{Name: want.Name}
		asking, cancel := context.WithTimeout(ctx, lookTimeout)
		asked := time.Now()
		stream, err := l.js.Stream(asking, want.Name)
		cancel()
		switch {
		case err == nil:
			info := stream.CachedInfo()
			s.note(info)
			seen.Drifts = append(seen.Drifts, l.compare(want, info.Config)...)
			seen.skew(info.TimeStamp, asked, time.Now())
		case ctx.Err() != nil:
			return seen, ctx.Err()
		case disabled(err):
			seen.Disabled = err.Error()
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			s.Trouble = err.Error()
		}
		switch i {
		case 0:
			seen.Events = s
		case 1:
			seen.Dead = s
		default:
			seen.Beside = append(seen.Beside, s)
		}
	}
	return seen, nil
}

// disabled says whether the error means that there is no JetStream to ask.
func disabled(err error) bool {
	return errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) || errors.Is(err, nats.ErrNoResponders)
}

func (s *StreamSeen) note(info *jetstream.StreamInfo) {
	cfg := info.Config
	s.Exists, s.Memory, s.Async = true, cfg.Storage == jetstream.MemoryStorage, cfg.PersistMode == jetstream.AsyncPersistMode
	s.Replicas, s.Alive = max(cfg.Replicas, 1), alive(info.Cluster)
	s.Window, s.Age, s.MaxMessage, s.Bytes = cfg.Duplicates, cfg.MaxAge, int64(max(cfg.MaxMsgSize, 0)), info.State.Bytes
}

// skew compares a time that the server has read between two of ours. The closer the two are,
// the better it is known.
func (seen *Inspection) skew(server, before, after time.Time) {
	off := after.Sub(before) / 2
	if server.IsZero() || seen.SkewKnown && seen.SkewError <= off {
		return
	}
	seen.SkewKnown, seen.SkewError, seen.Skew = true, off, server.Sub(before.Add(off).Round(0))
}

// Inspect looks at the set-up from outside: the server, the streams against cfg, the clock, and
// what this client may do. It stores nothing. It blocks for a few seconds at most; a server
// without JetStream or without the streams is no error.
func (r *Reader) Inspect(ctx context.Context, cfg Config) (Inspection, error) {
	l := newLog(cfg, zerolog.Nop())
	l.nc, l.js = r.nc, r.js
	l.maxPayload.Store(r.nc.MaxPayload())
	seen, err := l.inspect(ctx)
	if err != nil {
		return seen, fmt.Errorf("look at NATS: %w", err)
	}
	seen.Marks.Name = watchStream(cfg.Stream)
	if seen.Disabled == "" {
		asking, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		if marks, err := r.js.Stream(asking, seen.Marks.Name); err == nil {
			seen.Marks.note(marks.CachedInfo())
		}
	}
	var may may
	if seen.Account, seen.User, may, seen.Told = r.whoAmI(ctx); seen.Told {
		seen.Hears, seen.Speaks = may.hears(), may.speaks()
		seen.Wider, seen.Lacks = may.against(RelayRights(cfg))
	} else {
		seen.Hears, seen.Speaks = r.tries()
	}
	return seen, nil
}

// probeSubject is below what nobody listens.
const probeSubject = "together-relay-doctor"

// tries asks the server for more than a relay needs, and says what it did not refuse. The
// subscription is gone before anything comes of it. Nobody listens to what is published, and a
// stream that takes every subject does not keep it: it expects a stream that is not there.
func (r *Reader) tries() (hears, speaks bool) {
	refused := func(ask func() error) bool {
		before := r.nc.LastError()
		err := ask()
		if err == nil {
			err = r.nc.FlushTimeout(lookTimeout) // a refusal comes before the answer to the flush
		}
		last := r.nc.LastError()
		return err != nil || !errors.Is(before, last) && errors.Is(last, nats.ErrPermissionViolation)
	}
	r.nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	hears = !refused(func() error {
		sub, err := r.nc.SubscribeSync(">")
		if err != nil {
			return err
		}
		return sub.Unsubscribe()
	})
	speaks = !refused(func() error {
		probe := nats.NewMsg(probeSubject + "." + nuid.Next())
		probe.Header.Set(nats.ExpectedStreamHdr, "none")
		return r.nc.PublishMsg(probe)
	})
	return hears, speaks
}

// userInfo is where a user asks the server who it is and what it may do.
const userInfo = "$SYS.REQ.USER.INFO"

// whoAmI asks the server who this client is, and what it may do.
func (r *Reader) whoAmI(ctx context.Context) (account, user string, rights may, told bool) {
	asking, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answer, err := r.nc.RequestWithContext(asking, userInfo, nil)
	if err != nil {
		return "", "", may{}, false // not every user may ask
	}
	var info struct {
		Data struct {
			User        string `json:"user"`
			Account     string `json:"account"`
			Permissions may    `json:"permissions"`
		} `json:"data"`
	}
	if json.Unmarshal(answer.Data, &info) != nil || info.Data.Account == "" {
		return "", "", may{}, false
	}
	return info.Data.Account, info.Data.User, info.Data.Permissions, true
}
