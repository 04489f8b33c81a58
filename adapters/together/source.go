package together

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"together-relay/relay"
)

// TypePrefix goes before the sender's type in the CloudEvent's.
const TypePrefix = "ai.together."

// DefaultURI is the CloudEvents source of a source that names none.
const DefaultURI = "https://api.together.ai"

// DefaultTolerance is how far a signed timestamp may lie from the arrival.
const DefaultTolerance = 5 * time.Minute

// maxSubject is the longest ce-subject in bytes; a longer one is left out.
const maxSubject = 1024

// Config says how a source's deliveries are to be proven and read.
type Config struct {
	Name      string
	URI       string            // the CloudEvents source; DefaultURI if empty
	Timestamp bool              // the signature covers "<timestamp>.<body>"
	Tolerance time.Duration     // DefaultTolerance if zero
	Schemas   map[string]string // the URL of each type's schema; a type may have none
}

// A Source opens the deliveries of one kind of sender. It is safe for concurrent use.
type Source struct {
	cfg  Config
	from origin
	ring atomic.Pointer[keyring]
}

// NewSource returns a source that accepts what any of the secrets signed. There must
// be one at least, and none may be empty.
func NewSource(cfg Config, secrets [][]byte) (*Source, error) {
	if cfg.Tolerance == 0 {
		cfg.Tolerance = DefaultTolerance
	}
	from, err := newOrigin(Origin{Name: cfg.Name, URI: cfg.URI, Schemas: cfg.Schemas})
	if err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, from: from}
	return s, s.Rotate(secrets)
}

// Rotate replaces the active secrets. Deliveries that are being opened finish with
// the old ones. After an error nothing has changed.
func (s *Source) Rotate(secrets [][]byte) error {
	if len(secrets) == 0 {
		return fmt.Errorf("source %s: no secret", s.cfg.Name)
	}
	for _, secret := range secrets {
		if len(secret) == 0 {
			return fmt.Errorf("source %s: a secret is empty", s.cfg.Name)
		}
	}
	s.ring.Store(newKeyring(secrets))
	return nil
}

// Open proves the delivery and reads its envelope. It is pure but for the secrets.
func (s *Source) Open(d relay.Delivery) (relay.Event, error) {
	proof, err := s.prove(d)
	if err != nil {
		return relay.Event{}, err
	}
	ev, err := s.read(d)
	ev.Proof = proof
	return ev, err
}

// Read reads a delivery without proving it, for looking at one.
func Read(body []byte) (relay.Event, error) {
	return new(Source).read(relay.Delivery{Body: body})
}

func (s *Source) read(d relay.Delivery) (relay.Event, error) {
	env, err := readEnvelope(d.Body)
	ev := relay.Event{
		Source: d.Source, Type: env.typ, Resource: env.resource,
		Fields: env.fields, Members: env.members, Head: env.head, Tail: env.tail,
	}
	if err != nil {
		ev.CloudEvent.Context = &event.EventContextV1{ID: env.id}
		return ev, err
	}
	ev.Shared, ev.Fact = told(&env)
	ev.CloudEvent = s.cloudEvent(d, env)
	return ev, nil
}

func (s *Source) prove(d relay.Delivery) (proof string, err error) {
	ring := s.ring.Load()
	signature := d.Header[SignatureHeader]
	if signature == "" {
		return "", fmt.Errorf("%w: no %s header", relay.ErrUnproven, SignatureHeader)
	}
	if !s.cfg.Timestamp {
		if proof, ok := ring.verify(signature, d.Body); ok {
			return proof, nil
		}
		return "", fmt.Errorf("%w: no active secret made it", relay.ErrUnproven)
	}
	stamp := d.Header[TimestampHeader]
	proof, ok := ring.verify(signature, []byte(stamp), dot, d.Body)
	if !ok {
		return "", fmt.Errorf("%w: no active secret made it for this timestamp", relay.ErrUnproven)
	}
	return proof, s.checkAge(stamp, d.Arrived)
}

func (s *Source) checkAge(stamp string, arrived time.Time) error {
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: %s is not Unix seconds", relay.ErrUnproven, TimestampHeader)
	}
	// The timestamp knows whole seconds only, and so must the comparison.
	if age := arrived.Truncate(time.Second).Sub(time.Unix(seconds, 0)).Abs(); age > s.cfg.Tolerance {
		return fmt.Errorf("%w: timestamp is %s off, tolerance is %s", relay.ErrUnproven, age.Round(time.Second), s.cfg.Tolerance)
	}
	return nil
}

// cloudEvent dresses the envelope.
func (s *Source) cloudEvent(d relay.Delivery, env envelope) event.Event {
	when := env.created
	if when.IsZero() {
		when = d.Arrived
	}
	ctx := s.from.context("webhook", env.id, env.typ, env.resource, when, d.Arrived)
	if traced(d.Header[TraceHeaders[0]]) {
		for _, name := range TraceHeaders {
			if v := d.Header[name]; v != "" {
				ctx.Extensions[name] = v
			}
		}
	}
	return event.Event{Context: ctx, DataEncoded: env.data}
}
