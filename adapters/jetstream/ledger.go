package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"together-relay/relay"
)

// A Ledger keeps the watcher's marks in a KV bucket beside the event stream, by revision. It
// implements [relay.Ledger], is safe for concurrent use, and each method blocks for the server's
// answer.
type Ledger struct {
	log *Log

	mu sync.Mutex
	kv jetstream.KeyValue // nil until it is looked for
}

// Ledger returns the marks that belong to the log's stream.
func (l *Log) Ledger() *Ledger { return &Ledger{log: l} }

// watchBucket names the bucket of the marks. Where it is, somebody watches.
func watchBucket(stream string) string { return stream + "_WATCH" }

// watchStream names the stream that the bucket of the marks is.
func watchStream(stream string) string { return "KV_" + watchBucket(stream) }

// A stored mark knows its job: the key may have lost what a key cannot hold.
type storedMark struct {
	ID string `json:"id"`
	relay.Mark
}

// Load implements [relay.Ledger].
func (g *Ledger) Load(ctx context.Context, resource string) (map[string]relay.Entry, error) {
	kv, err := g.bucket(ctx)
	if err != nil {
		return nil, err
	}
	watch, err := kv.Watch(ctx, resource+".>", jetstream.IgnoreDeletes())
	if err != nil {
		g.lose() // it may have been removed
		return nil, notStored(fmt.Errorf("read marks of %s: %w", resource, err), shortWait)
	}
	defer func() { _ = watch.Stop() }()
	marks := map[string]relay.Entry{}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case entry, more := <-watch.Updates():
			if entry == nil { // that was all
				if !more {
					return nil, notStored(fmt.Errorf("read marks of %s: the connection was lost", resource), shortWait)
				}
				return marks, nil
			}
			var mark storedMark
			if err := json.Unmarshal(entry.Value(), &mark); err != nil {
				return nil, fmt.Errorf("read mark %s of bucket %s: %w; delete it with the nats command line if it is not the relay's", entry.Key(), kv.Bucket(), err)
			}
			marks[mark.ID] = relay.Entry{Mark: mark.Mark, Revision: entry.Revision()}
		}
	}
}

// Save implements [relay.Ledger].
func (g *Ledger) Save(ctx context.Context, resource, id string, mark relay.Mark, revision uint64) (uint64, error) {
	kv, err := g.bucket(ctx)
	if err != nil {
		return 0, err
	}
	value, err := json.Marshal(storedMark{id, mark})
	if err != nil {
		return 0, fmt.Errorf("write mark of %s: %w", id, err)
	}
	key := markKey(resource, id)
	if revision == 0 {
		revision, err = kv.Create(ctx, key, value)
	} else {
		revision, err = kv.Update(ctx, key, value, revision)
	}
	switch {
	case lostRace(err):
		return 0, fmt.Errorf("write mark %s: another relay watches too, and was first", key)
	case err != nil:
		return 0, notStored(fmt.Errorf("write mark %s: %w", key, err), shortWait)
	case id == "": // from now on what is not marked is news
		return revision, g.log.flush()
	}
	return revision, nil
}

// Register marks a job of a resource whose jobs the provider does not list, so that it is
// watched. A job that is over is watched anew. It says whether that changed anything; the mark
// is on disk then.
func (g *Ledger) Register(ctx context.Context, resource, id string) (bool, error) {
	if id == "" {
		return false, errors.New("the id is empty")
	}
	marks, err := g.Load(ctx, resource)
	if err != nil {
		return false, err
	}
	old, known := marks[id]
	if known && !old.Over {
		return false, g.log.flush() // it may be known for a moment only
	}
	if _, err := g.Save(ctx, resource, id, relay.Mark{First: time.Now().UTC()}, old.Revision); err != nil {
		return false, err
	}
	return true, g.log.flush()
}

// Peek is Load that makes no bucket: where nobody watches and nothing is registered, there
// is none, and what is published need not heed a watcher.
func (g *Ledger) Peek(ctx context.Context, resource string) (map[string]relay.Entry, error) {
	_, err := g.log.js.KeyValue(ctx, watchBucket(g.log.cfg.Stream))
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil
	}
	return g.Load(ctx, resource)
}

// Forget removes a mark, if there is one. A watcher that looks at the job now does not bring it
// back.
func (g *Ledger) Forget(ctx context.Context, resource, id string) error {
	kv, err := g.bucket(ctx)
	if err != nil {
		return err
	}
	key := markKey(resource, id)
	if err := kv.Delete(ctx, key); err != nil {
		return fmt.Errorf("remove mark %s: %w", key, err)
	}
	return g.log.flush()
}

// lostRace says whether somebody else has written the key since.
func lostRace(err error) bool {
	api, ok := errors.AsType[jetstream.JetStreamError](err)
	return errors.Is(err, jetstream.ErrKeyExists) || ok && api.APIError() != nil &&
		api.APIError().ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// markKey is legal whatever the id is. A key may hold fewer characters than a subject, so the
// rest of them is escaped once more, with a sign that a key may hold.
func markKey(resource, id string) string {
	token := appendEscaped(nil, ResourceToken(id), func(c byte) bool { return tokenByte(c) && strings.IndexByte(":@+~=", c) < 0 })
	return resource + "." + strings.ReplaceAll(string(token), "%", "=")
}

func (g *Ledger) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.kv != nil {
		return g.kv, nil
	}
	kv, err := g.log.bucket(ctx, jetstream.KeyValueConfig{
		Bucket:      watchBucket(g.log.cfg.Stream),
		Description: "what together-relay has seen at the Together API",
	})
	if err != nil {
		return nil, err
	}
	g.kv = kv
	g.log.watched.Store(true)
	return kv, g.log.flush()
}

// lose lets the next one look for the bucket anew.
func (g *Ledger) lose() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kv = nil
}

// bucket finds the bucket, or makes it if that is the relay's business.
func (l *Log) bucket(ctx context.Context, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	if trouble := *l.trouble.Load(); trouble != nil {
		return nil, notStored(trouble, shortWait)
	}
	kv, err := l.js.KeyValue(ctx, cfg.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) && l.cfg.Provision != ProvisionCheck {
		cfg.Replicas = l.cfg.Replicas
		kv, err = l.js.CreateKeyValue(ctx, cfg)
	}
	if err != nil {
		return nil, notStored(fmt.Errorf("open bucket %s: %w", cfg.Bucket, err), shortWait)
	}
	return kv, nil
}
