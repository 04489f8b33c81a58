package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// fromLeader reads the message of a sequence, or, with a filter, the first one from there on that
// lies on it. It asks the one server that knows for certain: a replica may lag behind. The error
// is jetstream.ErrMsgNotFound if there is none. Headers of another hand that are none are left out,
// and omittedHeader says so.
func fromLeader(ctx context.Context, nc *nats.Conn, stream string, sequence uint64, filter string) (*jetstream.RawStreamMsg, error) {
	question, err := json.Marshal(struct {
		Sequence uint64 `json:"seq"`
		Filter   string `json:"next_by_subj,omitempty"`
	}{sequence, filter})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	answer, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, question)
	if err != nil {
		return nil, fmt.Errorf("ask the leader of stream %s: %w", stream, err)
	}
	var got struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(answer.Data, &got); err != nil {
		return nil, fmt.Errorf("ask the leader of stream %s: %w", stream, err)
	}
	switch {
	case got.Error != nil && got.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, jetstream.ErrMsgNotFound
	case got.Error != nil:
		return nil, fmt.Errorf("ask the leader of stream %s: %w", stream, got.Error)
	case got.Message == nil:
		return nil, errors.New("ask the leader of stream " + stream + ": its answer holds no message")
	}
	raw := &jetstream.RawStreamMsg{Subject: got.Message.Subject, Sequence: got.Message.Sequence, Data: got.Message.Data, Time: got.Message.Time}
	if len(got.Message.Header) > 0 {
		if raw.Header, err = nats.DecodeHeadersMsg(got.Message.Header); err != nil {
			raw.Header = nats.Header{omittedHeader: {"headers"}}
		}
	}
	return raw, nil
}

// electionTime is how long a person's question is asked again. An election takes up to nine seconds
// after a server died, and a moment after a leader was moved.
const electionTime = 15 * time.Second

var errNoLeader = errors.New("it has no leader at this moment")

// outlast asks again, while nobody answers as while a cluster elects, or what answers is behind. A
// user who may not ask gets no answer either, and does not wait for one.
func (r *Reader) outlast(ctx context.Context, ask func() error) error {
	for end := time.Now().Add(electionTime); ; {
		err := ask()
		refused := errors.Is(r.nc.LastError(), nats.ErrPermissionViolation)
		if !passes(err) || refused || ctx.Err() != nil || time.Until(end) < soonAgain {
			return err
		}
		rest(ctx, soonAgain)
	}
}

// passes says whether the error is one that an election, or a lost connection, brings with it.
func passes(err error) bool {
	if api, ok := errors.AsType[jetstream.JetStreamError](err); ok && api.APIError() != nil {
		return api.APIError().ErrorCode == codeNoLeader
	}
	for _, passing := range []error{
		errNoLeader, errBehind, context.DeadlineExceeded, nats.ErrTimeout, nats.ErrDisconnected, nats.ErrReconnectBufExceeded, nats.ErrConnectionReconnecting,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}
