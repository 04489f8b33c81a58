package main

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// readStored reads both streams of a server from their beginning to their end, as a team
// would. Right after a fault the server may need a moment until it lets itself be read.
func readStored(t testing.TB, url string) (all []stored) {
	t.Helper()
	var err error
	within(t, 2*patience, "the streams can be read", func() bool {
		all, err = tryRead(url)
		return err == nil || errors.Is(err, jetstream.ErrStreamNotFound)
	})
	return all
}

func tryRead(url string) ([]stored, error) {
	nc, err := nats.Connect(url, nats.Timeout(2*time.Second))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	events, err := readOne(js, "TOGETHER", false)
	if err != nil {
		return events, err
	}
	letters, err := readOne(js, "TOGETHER_DLQ", true)
	return append(events, letters...), err
}

func readOne(js jetstream.JetStream, name string, dead bool) ([]stored, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	left := stream.CachedInfo().State.Msgs
	var all []stored
	if left == 0 {
		return all, nil
	}
	consumer, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		id, err := url.PathUnescape(msg.Headers().Get("ce-id"))
		if err != nil {
			return nil, err
		}
		all = append(all, stored{
			Dead: dead, Sequence: meta.Sequence.Stream, Subject: msg.Subject(), ID: id, Data: string(msg.Data()),
			Batched: msg.Headers().Get("Nats-Batch-Id") != "",
		})
		if meta.NumPending == 0 {
			return all, nil
		}
	}
}

// leader names the node that leads the stream of events, and says whether all of its
// replicas are there and up to date.
func leader(urls string) (name string, whole bool) {
	nc, err := nats.Connect(urls, nats.Timeout(2*time.Second))
	if err != nil {
		return "", false
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return "", false
	}
	whole = true
	for _, stream := range []string{"TOGETHER_DLQ", "TOGETHER"} {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		s, err := js.Stream(ctx, stream)
		cancel()
		if err != nil || s.CachedInfo().Cluster == nil || s.CachedInfo().Cluster.Leader == "" {
			return "", false
		}
		name = s.CachedInfo().Cluster.Leader
		whole = whole && len(s.CachedInfo().Cluster.Replicas) == 2
		for _, peer := range s.CachedInfo().Cluster.Replicas {
			whole = whole && peer.Current && !peer.Offline
		}
	}
	return name, whole
}
