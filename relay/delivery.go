package relay

import (
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// A Delivery is what one sender handed in, before anything about it is proven.
type Delivery struct {
	Source  string            // name of the source it was sent to
	Body    []byte            // the bytes as they arrived; on loan until Receive returns
	Header  map[string]string // the headers that the source and its traces need, no others
	Arrived time.Time         // when the body was read; the delivery is judged by this time
}

// An Event is a fact, ready to be stored.
type Event struct {
	CloudEvent event.Event // data is the sender's bytes, unchanged
	Source     string      // name of the source
	Type       string      // the sender's own type, such as batch.done
	Resource   string      // what the event is about; "_" if the data names nothing
	Proof      string      // which of the source's secrets signed it: "1" is the first

	// Shared says that the fact may come by the other ingress too, under another id, and is one
	// event then. Fact tells it from other facts of its type and resource, in parts such as
	// "step=3;kind=final" (see [SameFact]); it is empty for what happens once.
	Shared bool
	Fact   string

	// Fields are the members of the data object, in order, as parts of its bytes.
	Fields []Field
	// Members is a compact JSON object of the envelope's further members; nil if there are none.
	Members []byte
	// Head and Tail are the bytes before and after the data: Head + data + Tail is the signed body.
	Head, Tail []byte
}

// SameFact says whether two facts of one type and resource are one: they are equal, or agree in
// all parts that both name. One that says less is any that it may mean.
func SameFact(a, b string) (same bool) {
	if a == b {
		return true
	}
	for part := range strings.SplitSeq(a, ";") {
		name, _, _ := strings.Cut(part, "=")
		for other := range strings.SplitSeq(b, ";") {
			if strings.HasPrefix(other, name+"=") {
				if other != part {
					return false
				}
				same = true
			}
		}
	}
	return same
}

// A Field is a member of a JSON object. Its value is JSON text.
type Field struct{ Name, Value []byte }

// Stored says where an event lies.
type Stored struct {
	Subject   string
	Sequence  uint64
	Duplicate bool // it was there before; Sequence is the first one's
}

// A Receipt is the relay's word on a delivery.
type Receipt struct {
	Stored
	ID    string // as far as they could be read, also beside an error
	Type  string
	Proof string

	DeadLettered bool
	Reason       string // why it is a dead letter
	Detail       string
}
