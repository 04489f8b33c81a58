package relay

import (
	"context"
	"errors"
)

// A Log is the stream, as the intake needs it. Both methods block until the stream
// has acknowledged or it is clear that it does not now; both may be called from many
// goroutines, and both are safe to repeat: the same event, or the same dead
// letter, is kept once.
type Log interface {
	// Append stores the event durably. Its error is a [*NotStored], or an [*Unusable] with
	// [ReasonSize] for an event that no message of the stream can hold.
	Append(context.Context, Event) (Stored, error)
	// Bury stores a dead letter durably. Its error is a [*NotStored].
	Bury(context.Context, DeadLetter) error
}

// An Opener proves a delivery and reads it. It is pure: the same delivery, opened
// later, gives the same event as long as its secret is known. Its error is
// [ErrUnproven] or an [*Unusable]; what could be read is returned even then.
type Opener interface {
	Open(Delivery) (Event, error)
}

// An Intake turns deliveries into stored events.
type Intake struct {
	Sources map[string]Opener // by name
	Check   func(Event) error // an [*Unusable] with [ReasonSchema], or nil; pure
	Log     Log
}

// Receive stores the delivery's event, or buries the delivery if it is proven but
// unusable. Without an error, one of the two is on disk when Receive returns. The
// error is [ErrUnknownSource], [ErrUnproven] or a [*NotStored].
func (in *Intake) Receive(ctx context.Context, d Delivery) (Receipt, error) {
	receipt, err := in.Store(ctx, d)
	var unusable *Unusable
	if !errors.As(err, &unusable) {
		return receipt, err
	}
	letter := DeadLetter{Delivery: d, Reason: unusable.Reason, Detail: unusable.Detail}
	if err := in.Log.Bury(ctx, letter); err != nil {
		return receipt, err
	}
	receipt.DeadLettered, receipt.Reason, receipt.Detail = true, unusable.Reason, unusable.Detail
	return receipt, nil
}

// Store is Receive without the burial: an unusable delivery is an [*Unusable] error.
func (in *Intake) Store(ctx context.Context, d Delivery) (Receipt, error) {
	source, ok := in.Sources[d.Source]
	if !ok {
		return Receipt{}, ErrUnknownSource
	}
	ev, err := source.Open(d)
	receipt := Receipt{ID: ev.CloudEvent.ID(), Type: ev.Type, Proof: ev.Proof}
	if err != nil {
		return receipt, err
	}
	if err := in.Check(ev); err != nil {
		return receipt, err
	}
	receipt.Stored, err = in.Log.Append(ctx, ev)
	return receipt, err
}
