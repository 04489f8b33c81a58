package jetstream

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Replay is a plan to copy stored events to one team, and how far it has got. It is kept in a KV
// bucket beside the event stream until the events are too old to be there.
type Replay struct {
	ID   string `json:"id"`
	Team string `json:"team"`

	// What was asked for.
	Types    []string  `json:"types,omitempty"`
	Resource string    `json:"resource,omitempty"`
	Any      bool      `json:"any,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Until    time.Time `json:"until,omitzero"`
	Rate     float64   `json:"rate"` // copies in a second; 0 is as fast as it goes

	// What that came to.
	Filters     []string  `json:"filters"`
	From        uint64    `json:"from"`
	To          uint64    `json:"to"`
	Before      uint64    `json:"before,omitempty"` // what lies before it was not stored any more; 0 if it does not matter
	Total       uint64    `json:"total"`
	CopiesAfter uint64    `json:"copies_after"` // where the stream of the copies ended then
	Started     time.Time `json:"started"`

	// How far it has got.
	State   string    `json:"state"`   // one of the Replay constants
	Copied  uint64    `json:"copied"`  // copies that are stored
	Skipped uint64    `json:"skipped"` // events whose copy does not fit into a message
	Last    uint64    `json:"last"`    // the last event that was copied or skipped
	Copy    uint64    `json:"copy"`    // its copy's sequence, or that of the last one before it
	Marked  time.Time `json:"marked"`
	Owner   string    `json:"owner"` // who copies; empty if nobody does

	Paused   bool `json:"-"` // the team gets nothing at the moment; known from Plan
	revision uint64
}

// The states of a replay.
const (
	ReplayOpen    = "open" // it is being copied, or was interrupted
	ReplayDone    = "done"
	ReplayStopped = "stopped" // on purpose, and for good
)

// Why a replay does not go on.
var (
	ErrReplayStopped = errors.New("it was stopped")
	ErrReplayTaken   = errors.New("another process goes on with it")
	ErrReplayGone    = errors.New("its plan is gone, as when its team was removed or its events grew too old")
	ErrNoReplay      = errors.New("no replay of that id")
)

// A Replayer copies stored events to single teams.
type Replayer struct {
	reader *Reader
	log    *Log
}

// Replayer returns one on the reader's connection, which should be Patient. Of cfg, the stream,
// Timeout and Flush count.
func (r *Reader) Replayer(cfg Config) (*Replayer, error) {
	log, err := r.Log(cfg)
	return &Replayer{reader: r, log: log}, err
}

// replayBucket names the bucket of the plans.
func replayBucket(stream string) string { return stream + "_REPLAYS" }

// bucket finds the bucket of the plans, or makes it.
func (p *Replayer) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	kv, err := p.reader.js.KeyValue(ctx, replayBucket(p.reader.stream))
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	stream, err := p.reader.lookup(ctx, p.reader.stream)
	if err != nil {
		return nil, err
	}
	events := stream.CachedInfo().Config
	kv, err = p.reader.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: replayBucket(p.reader.stream), Description: "replays of together-relay, and how far each has got",
		TTL: events.MaxAge, Replicas: events.Replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("make bucket %s: %w", replayBucket(p.reader.stream), err)
	}
	return kv, p.log.flush()
}

// Begin stores a plan under a new id. It refuses one that would copy events that another replay,
// which is not over, is going to copy to the same team. Of several that begin at the same moment
// only one is stored: the bucket takes a plan only while the last plan or mark of the team is the
// one that was looked at. A server before NATS 2.11 does not know such a check.
func (p *Replayer) Begin(ctx context.Context, plan Replay) (Replay, error) {
	var kv jetstream.KeyValue
	var copies jetstream.Stream
	err := p.reader.outlast(ctx, func() (err error) {
		if kv, err = p.bucket(ctx); err == nil {
			copies, err = p.reader.certain(ctx, replayStream(p.reader.stream))
		}
		return err
	})
	if err != nil {
		return plan, err
	}
	plan.CopiesAfter, plan.Owner, plan.Marked = copies.CachedInfo().State.LastSeq, "", time.Now().UTC()
	asking, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	for {
		var all []Replay
		var last uint64
		err := p.reader.outlast(asking, func() (err error) {
			all, last, err = p.all(asking, kv, plan.Team)
			return err
		})
		if err != nil {
			return plan, err
		}
		for _, other := range all {
			if other.State == ReplayOpen && other.overlaps(plan) {
				return plan, fmt.Errorf("replay %s copies some of the same events to team %s and is not done; go on with replay --resume %s, or end it with replay stop %s",
					other.ID, other.Team, other.ID, other.ID)
			}
		}
		plan.ID = newReplayID(plan.Started)
		if slices.ContainsFunc(all, func(r Replay) bool { return r.ID == plan.ID }) {
			continue
		}
		plan.revision, err = p.create(plan, last)
		if _, refused := errors.AsType[*moved](err); refused && asking.Err() == nil {
			rest(asking, replicaPause)
			continue
		}
		if err != nil {
			return plan, fmt.Errorf("store the plan of the replay: %w", err)
		}
		return plan, p.log.flush()
	}
}

// create stores a plan if the last plan or mark of its team has that revision; else the error is
// a moved one.
func (p *Replayer) create(plan Replay, last uint64) (uint64, error) {
	bucket := replayBucket(p.reader.stream)
	msg := &nats.Msg{Subject: "$KV." + bucket + "." + plan.key(), Data: plan.encode(), Header: nats.Header{
		nats.ExpectedLastSubjSeqHdr:             {strconv.FormatUint(last, 10)},
		jetstream.ExpectedLastSubjSeqSubjHeader: {"$KV." + bucket + "." + plan.Team + ".>"},
	}}
	got, err := p.log.store("KV_"+bucket, msg, p.log.acks.publish)
	return got.sequence, err
}

// Find reads a replay. It may be that another process goes on with it.
func (p *Replayer) Find(ctx context.Context, id string) (Replay, error) {
	all, err := p.Replays(ctx)
	if err != nil {
		return Replay{}, err
	}
	for _, r := range all {
		if r.ID == id {
			return r, nil
		}
	}
	return Replay{}, fmt.Errorf("%s: %w", id, ErrNoReplay)
}

// Replays lists the replays, oldest first. It waits for an election.
func (p *Replayer) Replays(ctx context.Context) (all []Replay, err error) {
	err = p.reader.outlast(ctx, func() error {
		all, err = p.replays(ctx)
		return err
	})
	return all, err
}

func (p *Replayer) replays(ctx context.Context) ([]Replay, error) {
	asking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	kv, err := p.reader.js.KeyValue(asking, replayBucket(p.reader.stream))
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", replayBucket(p.reader.stream), err)
	}
	reading, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	all, _, err := p.all(reading, kv, "")
	return all, err
}

// all lists the replays, and says which revision is the last one of a team, with what was removed.
// Revisions come in order, so that nothing of the team is missing that is older than the last. The
// error is errBehind if the leader of the bucket has more.
func (p *Replayer) all(ctx context.Context, kv jetstream.KeyValue, team string) (all []Replay, last uint64, err error) {
	watch, err := kv.WatchAll(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("read bucket %s: %w", kv.Bucket(), err)
	}
	defer func() { _ = watch.Stop() }()
	seen := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case entry, more := <-watch.Updates():
			if entry == nil {
				if !more {
					return nil, 0, fmt.Errorf("read bucket %s: %w", kv.Bucket(), nats.ErrDisconnected)
				}
				_, err := fromLeader(ctx, p.reader.nc, "KV_"+kv.Bucket(), seen+1, "$KV."+kv.Bucket()+".>")
				if err == nil {
					err = errBehind
				}
				if !errors.Is(err, jetstream.ErrMsgNotFound) {
					return nil, 0, fmt.Errorf("read bucket %s: %w", kv.Bucket(), err)
				}
				slices.SortFunc(all, func(a, b Replay) int { return strings.Compare(a.ID, b.ID) })
				return all, last, nil
			}
			seen = entry.Revision()
			if strings.HasPrefix(entry.Key(), team+".") {
				last = entry.Revision()
			}
			if r, ok := decodeReplay(entry.Key(), entry.Value(), entry.Revision()); ok {
				all = append(all, r)
			}
		}
	}
}

// Stop ends a replay for good. What it has copied stays with the team. A process that copies
// learns of it at its next mark, ends, and leaves its last count; that is waited for, but for a few
// seconds at most. If the plan has an owner then, more may be copied than it says. It waits for an
// election.
func (p *Replayer) Stop(ctx context.Context, id string) (r Replay, err error) {
	err = p.reader.outlast(ctx, func() error {
		r, err = p.stop(ctx, id)
		return err
	})
	if err != nil {
		return r, err
	}
	waiting, cancel := context.WithTimeout(ctx, 5*markEvery)
	defer cancel()
	for r.State == ReplayStopped && r.Runs(time.Now()) && waiting.Err() == nil {
		rest(waiting, replicaPause)
		if now, err := p.Find(waiting, id); err == nil {
			r = now
		}
	}
	return r, nil
}

// Runs says whether a process copies, or ends and has not left its last count yet. A process that
// ends says so in the plan; that one was killed can only be told from the marks that it does not
// make.
func (p Replay) Runs(now time.Time) bool {
	quiet := 30 * time.Second
	if p.Rate > 0 {
		quiet = max(quiet, time.Duration(3/p.Rate*float64(time.Second)))
	}
	return p.Owner != "" && now.Sub(p.Marked) <= quiet
}

func (p *Replayer) stop(ctx context.Context, id string) (Replay, error) {
	for {
		r, err := p.Find(ctx, id)
		if err != nil || r.State != ReplayOpen {
			return r, err
		}
		kv, err := p.bucket(ctx)
		if err != nil {
			return r, err
		}
		r.State = ReplayStopped
		_, err = kv.Update(ctx, r.key(), r.encode(), r.revision)
		if lostRace(err) { // a mark was made at this moment
			continue
		}
		if err != nil {
			return r, fmt.Errorf("stop replay %s: %w", id, err)
		}
		return r, p.log.flush()
	}
}

// How much of a replay's copies the team has got, or is done with.
const (
	takenNone = "none"
	takenSome = "some"
	takenAll  = "all"
)

// Taken says how much of what a replay has copied so far was delivered to the team, and how much
// it has acknowledged or given up: none, some or all. Both are empty if that is not known.
func (p *Replayer) Taken(ctx context.Context, r Replay) (delivered, acknowledged string) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	consumer, err := p.reader.js.Consumer(ctx, replayStream(p.reader.stream), r.Team)
	if err != nil || r.Copy == 0 {
		return "", ""
	}
	info := consumer.CachedInfo()
	part := func(place uint64) string {
		switch {
		case place >= r.Copy || info.NumPending == 0 && info.NumAckPending == 0:
			return takenAll
		case place <= r.CopiesAfter:
			return takenNone
		}
		return takenSome
	}
	return part(info.Delivered.Stream), part(info.AckFloor.Stream)
}

// forgetReplays removes the plans of a team.
func (r *Reader) forgetReplays(ctx context.Context, team string) error {
	kv, err := r.js.KeyValue(ctx, replayBucket(r.stream))
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", replayBucket(r.stream), err)
	}
	keys, err := kv.ListKeysFiltered(ctx, team+".*")
	if err != nil {
		return fmt.Errorf("read bucket %s: %w", kv.Bucket(), err)
	}
	for key := range keys.Keys() {
		if err := kv.Purge(ctx, key); err != nil {
			return fmt.Errorf("remove replay %s: %w", key, err)
		}
	}
	return nil
}

func (p Replay) key() string { return p.Team + "." + p.ID }

func (p Replay) encode() []byte {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // it has nothing that could fail
	}
	return text
}

func decodeReplay(key string, value []byte, revision uint64) (Replay, bool) {
	var r Replay
	err := json.Unmarshal(value, &r)
	r.revision = revision
	return r, err == nil && r.key() == key
}

// newReplayID is a new id. Those of later replays sort behind those of earlier ones, and two made
// in the same second differ.
func newReplayID(now time.Time) string {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], uint64(now.Unix())<<24)
	_, _ = rand.Read(raw[5:]) // never fails
	text := base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding).EncodeToString(raw[1:7])
	return text
}

func newOwner() string { return rand.Text() }
