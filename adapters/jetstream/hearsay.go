package jetstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A hearsay is what this relay itself hears of the teams' deliveries that ended badly. While the
// stream of advisories has no leader, as in a cluster that loses a node, it keeps nothing of what
// the server says. So each relay remembers that for a while, and tells the stream once there is
// a leader again. What the stream has kept all the same comes twice then, and its letter is made once.
type hearsay struct {
	mu    sync.Mutex
	heard []heard
	bytes int
}

type heard struct {
	*nats.Msg
	at time.Time
}

const (
	maxHeard    = 16 << 20 // bytes; beyond that the oldest is forgotten
	leaderEvery = 2 * time.Second
	// A leader that is gone may have kept something and not passed it on.
	doubtful = 10 * time.Second
)

func (h *hearsay) hear(msg *nats.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = append(h.heard, heard{msg, time.Now()})
	h.bytes += msg.Size()
	for h.bytes > maxHeard {
		h.drop()
	}
}

func (h *hearsay) drop() {
	h.bytes -= h.heard[0].Size()
	h.heard = h.heard[1:]
}

// since forgets what was heard before that time, and returns the rest.
func (h *hearsay) since(from time.Time) []heard {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.heard) > 0 && h.heard[0].at.Before(from) {
		h.drop()
	}
	return slices.Clip(h.heard) // what is heard later grows elsewhere
}

// listen looks after the leader of the stream of advisories until ctx is done, and tells a new one
// what was heard since the last one was seen.
func (a *Advisories) listen(ctx context.Context) {
	var h hearsay
	for _, subject := range advisorySubjects(a.events.cfg.Stream) {
		sub, err := a.events.nc.Subscribe(subject, h.hear)
		if err != nil { // the connection is closed
			return
		}
		defer func() { _ = sub.Unsubscribe() }()
	}
	led, seen, doubt := "", time.Now(), false
	for ctx.Err() == nil {
		now := time.Now()
		leader, err := a.leader(ctx)
		if err == nil && (doubt || leader != led) {
			err = a.retell(ctx, h.since(seen.Add(-doubtful)))
		}
		if doubt = err != nil; !doubt {
			led, seen = leader, now
			a.led.Store(true)
			h.since(seen.Add(-doubtful))
		}
		rest(ctx, a.leaderEvery)
	}
}

// leader names the leader of the stream of advisories. A stream that was made anew has another.
func (a *Advisories) leader(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	stream, err := a.events.js.Stream(ctx, advisoryStream(a.events.cfg.Stream))
	if err != nil {
		return "", err
	}
	info := stream.CachedInfo()
	name := info.Created.String()
	if info.Cluster != nil {
		name += " " + info.Cluster.Leader
	}
	return name, nil
}

// retell stores what was heard. All relays have heard the same, and it is stored once.
func (a *Advisories) retell(ctx context.Context, all []heard) error {
	for _, one := range all {
		sum := sha256.Sum256(one.Data)
		msg := &nats.Msg{Subject: one.Subject, Data: one.Data, Header: nats.Header{nats.MsgIdHdr: {"heard:" + hex.EncodeToString(sum[:16])}}}
		telling, cancel := context.WithTimeout(ctx, lookTimeout)
		_, err := a.events.js.PublishMsg(telling, msg, jetstream.WithExpectStream(advisoryStream(a.events.cfg.Stream)))
		cancel()
		if err != nil {
			return fmt.Errorf("tell the stream of advisories: %w", err)
		}
	}
	if len(all) > 0 {
		a.log.Warn().Int("advisories", len(all)).Msg("the stream of advisories had no leader for a while, or was made anew; it was told what was heard meanwhile")
	}
	return nil
}
