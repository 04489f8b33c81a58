package together

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"together-relay/relay"
)

// An Origin says where events come from, as they will tell it.
type Origin struct {
	Name    string            // of the source; "together" if empty
	URI     string            // the CloudEvents source; DefaultURI if empty
	Schemas map[string]string // the URL of each type's schema; a type may have none
}

type origin struct {
	name    string
	uri     types.URIRef
	schemas map[string]*types.URI
}

func newOrigin(o Origin) (origin, error) {
	made := origin{name: cmp.Or(o.Name, "together"), schemas: map[string]*types.URI{}}
	uri, err := url.Parse(cmp.Or(o.URI, DefaultURI))
	if err != nil {
		return made, fmt.Errorf("source %s: uri: %w", made.name, err)
	}
	made.uri = types.URIRef{URL: *uri}
	for typ, address := range o.Schemas {
		if made.schemas[typ] = types.ParseURI(address); made.schemas[typ] == nil {
			return made, fmt.Errorf("source %s: the schema of %s is at %q, which is no URL", made.name, typ, address)
		}
	}
	return made, nil
}

// factID is the id of an event that the relay has seen itself. It is the same whoever sees
// the fact, and whenever.
func factID(typ, resource, discriminator string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{"v1", "together", typ, resource, discriminator}, "\x1f")))
	return "evt_" + hex.EncodeToString(sum[:16])
}

// factKey is a fact's name among the facts of its job.
func factKey(typ, discriminator string) string {
	return strings.TrimSpace(typ + " " + discriminator)
}

// fact is what happened to a resource at a time, which is zero if the provider does not
// tell. Its data must be made for it: whatever is in there is told.
func (o *origin) fact(typ, resource, discriminator string, at time.Time, data any) relay.Fact {
	now := time.Now().UTC()
	if at.IsZero() {
		at = now
	}
	encoded := compact(typ, data)
	fields, _, _ := readBody(encoded) // it was made a moment ago
	ctx := o.context("api", factID(typ, resource, discriminator), typ, resource, at.UTC(), now)
	return relay.Fact{
		Key: factKey(typ, discriminator),
		Event: relay.Event{
			CloudEvent: event.Event{Context: ctx, DataEncoded: encoded},
			Source:     o.name, Type: typ, Resource: resource,
			Shared: true, Fact: sharedFact(typ, discriminator), Fields: fields,
		},
	}
}

// context dresses an event that came by an ingress. It is filled by hand: the setters of the SDK
// trim what they are given, and an id is the sender's business.
func (o *origin) context(ingress, id, typ, resource string, at, recorded time.Time) *event.EventContextV1 {
	kind := event.ApplicationJSON
	ctx := &event.EventContextV1{
		ID:              id,
		Source:          o.uri,
		Type:            TypePrefix + typ,
		Time:            &types.Timestamp{Time: at},
		DataContentType: &kind,
		DataSchema:      o.schemas[typ],
		Extensions: map[string]any{
			"recordedtime": types.Timestamp{Time: recorded},
			"ingress":      ingress,
		},
	}
	if len(resource) <= maxSubject {
		ctx.Subject = &resource
	}
	return ctx
}

// compact is JSON without the escapes that are meant for HTML.
func compact(typ string, data any) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(data); err != nil {
		panic("data of " + typ + ": " + err.Error()) // not reached: all numbers in it are finite
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// sharedFact is what tells the fact from others of its type and resource in a way that a
// webhook can tell, too.
func sharedFact(typ, discriminator string) string {
	if typ == typeCheckpoint {
		step, _, _ := strings.Cut(discriminator, ";")
		return step
	}
	return discriminator
}

// The types that are told apart by more than their resource.
const (
	typeCheckpoint = "fine_tune.checkpoint"
	typeDeprecated = "model.deprecated"
)

// told says whether a webhook's event is a fact that the API may tell, too, and which of
// its type and resource it is.
func told(env *envelope) (shared bool, which string) {
	if env.resource == noResource {
		return false, ""
	}
	switch env.typ {
	case "fine_tune.created", "fine_tune.running", "fine_tune.completed", "fine_tune.failed",
		"fine_tune.cancelled", "fine_tune.early_stopped",
		"batch.created", "batch.in_progress", "batch.done", "batch.failed", "batch.expired",
		"batch.cancelled", "batch.overdue",
		"evaluation.completed", "evaluation.failed",
		"file.processed", "file.invalid", "file.failed",
		"video.completed", "video.failed", "video.cancelled",
		"queue_job.done", "queue_job.failed", "queue_job.canceled":
		return true, ""
	case typeCheckpoint:
		step := member(env.fields, "step")
		if !integer(step) {
			return false, ""
		}
		return true, "step=" + string(step)
	case typeDeprecated:
		date := ""
		if value := member(env.fields, "sunset_date"); len(value) > 0 {
			date = loose(value)
		}
		which = "sunset=" + cmp.Or(date[:min(len(date), len(time.DateOnly))], "none")
		if value := member(env.fields, "product"); len(value) > 0 {
			if product := asProduct(loose(value)); KnownProduct(product) {
				which = "product=" + product + ";" + which
			}
		}
		return true, which
	}
	return false, ""
}

// member is the value of the member of that name, the last one if there are several.
func member(fields []relay.Field, name string) (value []byte) {
	for i := range fields {
		if string(fields[i].Name) == name {
			value = fields[i].Value
		}
	}
	return value
}

// integer says whether the JSON text is an integer of 0 or more in plain digits.
func integer(value []byte) bool {
	for _, c := range value {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(value) > 0 && len(value) < 19
}

// or is nil for an empty text.
func or(s word) *string {
	if s == "" {
		return nil
	}
	return (*string)(&s)
}

// said is nil for an empty message; see sentence.
func said[T ~string](s T) *string {
	if cut := sentence(string(s)); cut != "" {
		return &cut
	}
	return nil
}
