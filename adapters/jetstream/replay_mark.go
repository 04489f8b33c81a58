package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// look finds the copies that are stored and not marked, by the sequences of their originals.
func (w *replaying) look(ctx context.Context) error {
	looked := time.Now()
	stream, err := w.reader.certain(ctx, replayStream(w.reader.stream))
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	from := w.CopiesAfter + 1
	if info.State.LastSeq < w.CopiesAfter { // the stream was made anew
		from = 1
	}
	if w.Copy > 0 {
		known, err := w.known(ctx, stream, info.State)
		if err != nil {
			return err
		}
		if known {
			from = w.Copy + 1
		} else { // the mark outlived its copies
			w.Copied, w.Skipped, w.Last, w.Copy = 0, 0, 0, 0
		}
	}
	have := map[uint64]uint64{}
	copies, err := openCursor(ctx, w.reader.js, replayStream(w.reader.stream), span{
		filters: []string{replaySubject(w.Team, ">")}, from: from, headersOnly: true, batch: 500,
	})
	if err != nil {
		return err
	}
	defer copies.close()
	for {
		msg, at, ok, err := copies.next(ctx)
		if err != nil {
			return err
		}
		if !ok {
			w.have, w.looked, w.window = have, looked, info.Config.Duplicates
			return nil
		}
		if id, original := copyMarks(msg.Headers()); id == w.ID {
			have[original] = at.Sequence
		}
	}
}

// known says whether the copy that the mark speaks of is stored, or was and has grown too old.
func (w *replaying) known(ctx context.Context, stream jetstream.Stream, state jetstream.StreamState) (bool, error) {
	if w.Copy < state.FirstSeq {
		return true, nil
	}
	if w.Copy > state.LastSeq {
		return false, nil
	}
	raw, err := stream.GetMsg(ctx, w.Copy)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil // purged
	}
	if err != nil {
		return false, fmt.Errorf("read copy %d: %w", w.Copy, err)
	}
	id, _ := copyMarks(raw.Header)
	return id == w.ID, nil
}

// copyMarks reads which replay a copy belongs to, and the sequence of its original.
func copyMarks(h nats.Header) (replay string, original uint64) {
	replay, _ = unescapeValue(h.Get(replayHeader))
	original, _ = strconv.ParseUint(h.Get(replayedHeader), 10, 64)
	return replay, original
}

// mark stores how far the replay has got, after all of that is on disk.
func (w *replaying) mark(ctx context.Context) error {
	if err := w.log.flush(); err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	kv, err := w.bucket(asking)
	if err != nil {
		return err
	}
	next := w.Replay
	next.Marked = time.Now().UTC()
	if w.leaving {
		next.Owner = ""
	}
	revision, err := kv.Update(asking, next.key(), next.encode(), w.revision)
	if lostRace(err) {
		return w.lost(asking)
	}
	if err != nil {
		return fmt.Errorf("mark replay %s: %w", w.ID, err)
	}
	w.Marked, w.revision = next.Marked, revision
	return nil
}

// leave marks that nobody copies, if the plan says that this process does. If it cannot, the mark
// grows old.
func (w *replaying) leave(ctx context.Context) {
	if !w.claimed {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	w.leaving = true
	_ = w.mark(ctx) // whoever goes on looks at the copies, too
}

// lost finds out who has changed the plan meanwhile.
func (w *replaying) lost(ctx context.Context) error {
	bucket := replayBucket(w.reader.stream)
	raw, err := fromLeader(ctx, w.reader.nc, "KV_"+bucket, 1, "$KV."+bucket+"."+w.key())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return ErrReplayGone
	}
	if err != nil {
		return fmt.Errorf("read replay %s: %w", w.ID, err)
	}
	have, ok := decodeReplay(w.key(), raw.Data, raw.Sequence)
	switch {
	case !ok:
		return ErrReplayGone
	case have.State == ReplayStopped:
		if w.claimed && have.Owner == w.Owner && w.State != ReplayStopped {
			w.State, w.leaving, w.revision = ReplayStopped, true, have.revision
			_ = w.mark(ctx) // whoever stopped it waits for the last count
		}
		return ErrReplayStopped
	case have.Owner != w.Owner && w.claimed:
		return ErrReplayTaken
	case have.Owner == w.Owner:
		w.revision = have.revision // our own mark, whose answer was lost
		return w.mark(ctx)
	}
	w.revision = have.revision
	// Another process went on until a moment ago. It learns that it is not its any more.
	w.Copied, w.Skipped, w.Last, w.Copy, w.State = have.Copied, have.Skipped, have.Last, have.Copy, have.State
	return w.mark(ctx)
}
