package relay

import "time"

// An Outcome is what became of one request to a source: one log line, one count.
type Outcome struct {
	Receipt
	Source   string // as it is configured; empty for a source that nobody knows
	Status   int    // what the sender was told
	Result   string // one of the Result constants
	Rejected string // why, for ResultRejected; one of the Rejected constants
	Body     int    // bytes that were read
	Took     time.Duration
	Remote   string // address of the sender
	Err      error  // the cause, for operators
}

// The ends that a delivery can come to.
const (
	ResultStored       = "stored"
	ResultDuplicate    = "duplicate"
	ResultDeadLettered = "dead_lettered"
	ResultRejected     = "rejected"
	ResultNotStored    = "not_stored"
)

// The reasons why a request is turned away before anything is stored.
const (
	RejectedRoute     = "unknown_source"
	RejectedMethod    = "method"
	RejectedMedia     = "content_type"
	RejectedSize      = "too_large"
	RejectedBusy      = "in_flight"
	RejectedRate      = "rate"
	RejectedBody      = "body" // cut off, or broken while it was read
	RejectedSignature = "signature"
)

// Result names the end that the receipt and the error of a delivery amount to.
func Result(r Receipt, err error) string {
	switch {
	case err != nil:
		return ResultNotStored
	case r.DeadLettered:
		return ResultDeadLettered
	case r.Duplicate:
		return ResultDuplicate
	default:
		return ResultStored
	}
}
