package jetstream

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// A Turn lets one of several relays watch at a time: whoever can make the key has the turn, and
// keeps it alive; the server lets it expire when its maker is gone. It implements
// [relay.Turn].
type Turn struct {
	log *Log
	ttl time.Duration
}

// turnTTL is how long the turn of a relay that died keeps others waiting.
const turnTTL = 20 * time.Second

// Turn returns the turn of the log's stream.
func (l *Log) Turn() *Turn { return &Turn{l, turnTTL} }

// soonAgain is how long a server that cannot be asked now is left alone.
const soonAgain = 250 * time.Millisecond

const turnKey = "turn"

// turnBucket names the bucket of the turn.
func turnBucket(stream string) string { return watchBucket(stream) + "_TURN" }

// Hold implements [relay.Turn]. A relay that cannot keep its turn alive stops its work before
// another one may begin. When ctx is done it gives the turn back.
func (t *Turn) Hold(ctx context.Context, work func(context.Context)) error {
	me := []byte(nuid.Next())
	for ctx.Err() == nil {
		asked := time.Now()
		kv, revision, err := t.take(ctx, me)
		if err == nil {
			t.log.log.Info().Msg("this relay watches the Together API")
			t.keep(ctx, kv, revision, me, asked, work)
			continue
		}
		wait := t.ttl / 4
		if !lostRace(err) {
			wait = soonAgain
			t.log.log.Debug().Err(err).Msg("cannot ask whose turn it is to watch; trying again")
		}
		rest(ctx, wait)
	}
	return nil
}

func (t *Turn) take(ctx context.Context, me []byte) (jetstream.KeyValue, uint64, error) {
	kv, err := t.log.bucket(ctx, jetstream.KeyValueConfig{
		Bucket:      turnBucket(t.log.cfg.Stream),
		Description: "which relay watches the Together API now",
		TTL:         t.ttl,
		Storage:     jetstream.MemoryStorage,
	})
	if err != nil {
		return nil, 0, err
	}
	revision, err := kv.Create(ctx, turnKey, me)
	return kv, revision, err
}

// keep runs the work until the turn, which was asked for at that time, is lost or ctx is done.
func (t *Turn) keep(ctx context.Context, kv jetstream.KeyValue, revision uint64, me []byte, asked time.Time, work func(context.Context)) {
	working, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		work(working)
	}()
	sure := asked.Add(t.ttl / 2) // until then the key is there
	for ctx.Err() == nil && time.Now().Before(sure) {
		rest(ctx, t.ttl/8)
		asking, cancel := context.WithTimeout(ctx, t.ttl/8)
		asked = time.Now()
		next, err := kv.Update(asking, turnKey, me, revision)
		cancel()
		if err == nil {
			revision, sure = next, asked.Add(t.ttl/2)
		}
		if lostRace(err) {
			break
		}
	}
	stop()
	<-done
	if ctx.Err() == nil {
		t.log.log.Warn().Msg("this relay does not watch any more: it could not keep its turn")
		return
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = kv.Delete(leaving, turnKey, jetstream.LastRevision(revision)) // else it expires
}

// rest waits about that long, or until ctx is done.
func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d + rand.N(d/4+1)) //nolint:gosec // chance is no secret here
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
