package together

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"together-relay/relay"
)

// Videos are the videos that somebody has registered, a [relay.Resource]: the API lists
// none. A look costs one request for each that is not over.
type Videos struct{ api *API }

// Videos are the registered videos of the key's project.
func (a *API) Videos() *Videos { return &Videos{a} }

// A video is what may be read of one. Its address is signed and stays unread.
type video struct {
	ID          word           `json:"id"`
	Model       word           `json:"model"`
	Status      state          `json:"status"`
	CreatedAt   instant        `json:"created_at"`
	CompletedAt instant        `json:"completed_at"`
	Seconds     number         `json:"seconds"`
	Size        word           `json:"size"`
	Error       maybe[trouble] `json:"error"`
	Outputs     maybe[struct {
		Cost number `json:"cost"`
	}] `json:"outputs"`
}

// A trouble is why something failed: an object, or its message alone.
type trouble struct {
	Code    label
	Message message
}

// UnmarshalJSON takes any value.
func (t *trouble) UnmarshalJSON(b []byte) error {
	var inner struct {
		Code label `json:"code"`
	}
	_ = json.Unmarshal(b, &inner) // a message alone has no code
	t.Code = inner.Code
	return t.Message.UnmarshalJSON(b)
}

// A label is a string or a number that names something.
type label string

// UnmarshalJSON takes any value.
func (l *label) UnmarshalJSON(b []byte) error {
	*l = label(scalar(b))
	return nil
}

func (v *video) id() string { return string(v.ID) }

func (v *video) stage() stage {
	switch v.Status {
	case "queued":
		return waiting
	case "in_progress":
		return running
	case "completed", "failed", "cancelled":
		return over
	}
	return unknown
}

// List is empty: the API lists no videos.
func (*Videos) List(context.Context, int) ([]relay.Job, error) { return nil, nil }

// Find asks for one video.
func (v *Videos) Find(ctx context.Context, id string) (relay.Job, error) {
	found, err := find(ctx, v.api, "/v2/videos/", id, (*video).id)
	if err != nil {
		return relay.Job{}, ofOne(err)
	}
	t := &found.is
	if t.stage() == unknown {
		v.api.oddState("video", t.Status)
	}
	return relay.Job{
		ID:      t.id(),
		Change:  string(t.Status),
		Over:    t.stage() == over,
		Updated: latest(t.CompletedAt.Time, t.CreatedAt.Time),
		Row:     found.raw,
	}, nil
}

// ofOne is an error of a question about one job that somebody has registered. If the API
// takes its name for none that a job can have, it is gone.
func ofOne(err error) error {
	switch status(err) {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return &refusal{what: err.Error(), status: status(err), cause: relay.ErrGone}
	}
	return err
}

type videoCompletedData struct {
	ID      word     `json:"video_id"`
	Model   *string  `json:"model"`
	Seconds *float64 `json:"seconds"`
	Size    *string  `json:"size"`
	Cost    *float64 `json:"cost_usd"`
}

type videoFailedData struct {
	ID      word    `json:"video_id"`
	Message string  `json:"error_message"`
	Code    *string `json:"error_code"`
	Model   *string `json:"model"`
}

type videoCancelledData struct {
	ID    word    `json:"video_id"`
	Model *string `json:"model"`
}

// Tell reads the row.
func (v *Videos) Tell(_ context.Context, job relay.Job, _ relay.Mark) ([]relay.Fact, error) {
	if job.Gone {
		return nil, nil
	}
	var t video
	if err := json.Unmarshal(job.Row, &t); err != nil {
		return nil, errors.New("read the row: it is no video")
	}
	var data any
	model := said(t.Model)
	switch t.Status {
	case "completed":
		data = videoCompletedData{t.ID, model, t.Seconds.float(), said(t.Size), t.Outputs.is.Cost.float()}
	case "failed":
		failed := videoFailedData{t.ID, "status=failed", said(t.Error.is.Code), model}
		if text := said(t.Error.is.Message); text != nil {
			failed.Message = *text
		}
		data = failed
	case "cancelled":
		data = videoCancelledData{t.ID, model}
	default:
		return nil, nil
	}
	typ := "video." + string(t.Status)
	return []relay.Fact{v.api.origin.fact(typ, t.id(), "", t.CompletedAt.Time, data)}, nil
}
