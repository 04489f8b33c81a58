package jetstream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"together-relay/relay"
)

// A Reader reads a log's streams back: for people, not for teams.
type Reader struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	stream string
}

// OpenReader connects once, or says why not, to read the event stream and its dead
// letters. It blocks for two seconds at most.
func OpenReader(urls string, auth Auth, stream string, more ...Option) (*Reader, error) {
	nc, err := dial(urls, auth, more...)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return &Reader{nc: nc, js: js, stream: stream}, nil
}

// Close ends the connection.
func (r *Reader) Close() { r.nc.Close() }

// Log returns a log on the reader's connection, for streams that a relay has found or made.
// It does not look at them again, and heeds that somebody may watch.
func (r *Reader) Log(cfg Config) (*Log, error) {
	l := newLog(cfg, zerolog.Nop())
	l.trouble.Store(new(error))
	l.watched.Store(true)
	return l, l.use(r.nc)
}

// A Query chooses events.
type Query struct {
	Type     string    // a type or a pattern of types: fine_tune.*, fine_tune.>; empty is all
	Resource string    // what the event is about; empty is all
	Since    time.Time // stored since then; zero is from the beginning
	Follow   bool      // go on with what is stored from now
	Prefixes []string  // subject prefixes that lie below one another, beside those of the stream
}

// A Message is an event as it lies in the stream.
type Message struct {
	relay.Event
	Place
	Broken error // why the message could not be read as an event
}

// Received is when a relay got the event, or when it was stored if the event does not say.
func (m Message) Received() time.Time {
	recorded, _ := m.CloudEvent.Extensions()["recordedtime"].(string)
	if when, err := time.Parse(time.RFC3339Nano, recorded); err == nil {
		return when
	}
	return m.Stored
}

// A Letter is a dead letter as it lies in the stream: a delivery's, or a team's.
type Letter struct {
	relay.DeadLetter                   // of a team's: what the two have in common
	Team             *relay.TeamLetter // nil for a delivery's
	Stream           string            // on which the team's attempts were made
	Omitted          string            // parts of the event that no message had room for
	Size             int               // of the body, also if that was not read
	Place
	Broken error

	event nats.Header // of the event that a team's is a copy of
}

// Place is where and since when a message is stored.
type Place struct {
	Subject  string
	Sequence uint64
	Stored   time.Time
}

// Events calls yield for each event of the query in stream order. It returns when all
// that was stored at the beginning is through, or, following, when ctx is done; it
// ends early with yield's error.
func (r *Reader) Events(ctx context.Context, q Query, yield func(Message) error) error {
	stream, err := r.lookup(ctx, r.stream)
	if err != nil {
		return err
	}
	filters := eventFilters(stream.CachedInfo().Config.Subjects, q.Prefixes, q.Type, q.Resource)
	return r.walk(ctx, r.stream, filters, q, func(p Place, h nats.Header, data []byte) error {
		ev, err := decode(h, data)
		return yield(Message{Event: ev, Place: p, Broken: err})
	})
}

// eventFilters lists the filters of a pattern of types and a resource below the subjects of a
// stream, and below the prefixes that lie deeper.
func eventFilters(subjects, prefixes []string, pattern, resource string) []string {
	filters := typeFilters(subjects, pattern, resource)
	if pattern == "" || strings.HasPrefix(pattern, ">") || strings.HasPrefix(pattern, "*") {
		return filters
	}
	for _, prefix := range prefixes {
		below := func(s string) bool { return strings.HasPrefix(prefix+".", strings.TrimSuffix(s, ">")) }
		if !slices.Contains(subjects, prefix+".>") && slices.ContainsFunc(subjects, below) {
			filters = append(filters, typeFilters([]string{prefix + ".>"}, pattern, resource)...)
		}
	}
	return filters
}

func (r *Reader) lookup(ctx context.Context, name string) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := r.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("look at stream %s: %w", name, err)
	}
	return stream, nil
}

// certain is lookup that only the leader answers. Without one a replica does, which may be behind.
func (r *Reader) certain(ctx context.Context, name string) (jetstream.Stream, error) {
	stream, err := r.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	if cluster := stream.CachedInfo().Cluster; cluster != nil && cluster.Leader == "" {
		return nil, fmt.Errorf("look at stream %s: %w", name, errNoLeader)
	}
	return stream, nil
}

// walk calls yield for the messages that match, by a consumer that leaves no trace.
func (r *Reader) walk(ctx context.Context, stream string, filters []string, q Query, yield func(Place, nats.Header, []byte) error) error {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: filters, InactiveThreshold: 30 * time.Second}
	if !q.Since.IsZero() {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &q.Since
	}
	consumer, err := r.js.OrderedConsumer(ctx, stream, cfg)
	if err != nil {
		return fmt.Errorf("read stream %s: %w", stream, err)
	}
	if !q.Follow && consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("read stream %s: %w", stream, err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read stream %s: %w", stream, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read stream %s: %w", stream, err)
		}
		place := Place{Subject: msg.Subject(), Sequence: meta.Sequence.Stream, Stored: meta.Timestamp}
		if err := yield(place, msg.Headers(), msg.Data()); err != nil {
			return err
		}
		if !q.Follow && meta.NumPending == 0 {
			return nil
		}
	}
}
