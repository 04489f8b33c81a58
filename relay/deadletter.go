package relay

// A DeadLetter is a delivery that is proven but cannot become an event. It keeps
// all that is needed to open the delivery again.
type DeadLetter struct {
	Delivery
	Reason string // one of the Reason constants
	Detail string // one line for people; never the body
}

// The reasons why a proven delivery cannot become an event.
const (
	ReasonJSON   = "json"   // the body is no JSON object
	ReasonID     = "id"     // no id, or one beyond the limits
	ReasonType   = "type"   // no type, or an illegal one
	ReasonData   = "data"   // no data object
	ReasonSchema = "schema" // a known type whose data breaks its schema
	ReasonSize   = "size"   // too large for a message of the stream
)
