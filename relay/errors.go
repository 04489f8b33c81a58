package relay

import (
	"errors"
	"time"
)

// ErrUnknownSource says that no source has the delivery's name.
var ErrUnknownSource = errors.New("unknown source")

// ErrUnproven says that a signature is missing, malformed, wrong or too old. Which
// of them is for the log only: a sender learns nothing from it.
var ErrUnproven = errors.New("invalid signature")

// Unusable says why a proven delivery cannot become an event. Sending the same
// bytes again cannot help.
type Unusable struct {
	Reason string // one of the Reason constants
	Detail string
}

func (e *Unusable) Error() string { return e.Reason + ": " + e.Detail }

// NotStored says that the relay could not store now. The cause lies with us or
// with the stream, and it may even be that the event is stored and only the answer
// got lost: sending the same bytes again is right, and safe.
type NotStored struct {
	Cause      error
	RetryAfter time.Duration // a good time to wait before that
}

func (e *NotStored) Error() string { return "not stored: " + e.Cause.Error() }

func (e *NotStored) Unwrap() error { return e.Cause }
