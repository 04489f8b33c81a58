package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Ready says whether an event and a dead letter could be stored now, and if not, why.
// It asks the server, and blocks for two seconds at most.
func (l *Log) Ready(ctx context.Context) error {
	if !l.up.Load() {
		return errors.New("NATS is not connected")
	}
	if trouble := *l.trouble.Load(); trouble != nil {
		return trouble
	}
	if r := l.refused.Load(); r != nil && time.Since(r.when) < refusalCounts {
		return fmt.Errorf("the last publish failed, %s ago: %w", time.Since(r.when).Round(time.Millisecond), r.err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if l.cfg.Healthy != nil {
		if err := l.cfg.Healthy(ctx); err != nil {
			return err
		}
	}
	for _, name := range []string{l.cfg.Stream, deadStream(l.cfg.Stream)} {
		stream, err := l.js.Stream(ctx, name)
		if err != nil {
			l.Kick()
			return fmt.Errorf("look at stream %s: %w", name, err)
		}
		if err := writable(stream.CachedInfo()); err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
	}
	return nil
}

// Connected says whether there is a connection to a server now.
func (l *Log) Connected() bool { return l.up.Load() }

func writable(info *jetstream.StreamInfo) error {
	cfg, state := info.Config, info.State
	if cfg.Discard == jetstream.DiscardNew {
		if cfg.MaxBytes > 0 && state.Bytes >= uint64(cfg.MaxBytes) {
			return fmt.Errorf("full: %d of %d bytes", state.Bytes, cfg.MaxBytes)
		}
		if cfg.MaxMsgs > 0 && state.Msgs >= uint64(cfg.MaxMsgs) {
			return fmt.Errorf("full: %d of %d messages", state.Msgs, cfg.MaxMsgs)
		}
	}
	if cluster := info.Cluster; cluster != nil && cfg.Replicas > 1 {
		if cluster.Leader == "" {
			return errors.New("has no leader")
		}
		if n := alive(cluster); n <= cfg.Replicas/2 {
			return fmt.Errorf("has no quorum: %d of %d replicas are there", n, cfg.Replicas)
		}
	}
	return nil
}

// alive is how many replicas of a stream are there, its leader among them.
func alive(cluster *jetstream.ClusterInfo) int {
	n := 1
	if cluster == nil {
		return n
	}
	for _, peer := range cluster.Replicas {
		if !peer.Offline {
			n++
		}
	}
	return n
}
