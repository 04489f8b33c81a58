package togethersim

import (
	"net/http"
	"time"
)

// A Video is the script of a video. Its states are queued, in_progress, and at the end
// completed, failed or cancelled. The API does not list it.
type Video struct {
	Script
	Model string // empty: openai/sora-2
	Cost  float64
	Error string // why it failed
}

func (v *Video) model() string {
	if v.Model == "" {
		return "openai/sora-2"
	}
	return v.Model
}

const (
	videoSeconds = 8
	videoSize    = "1280x720"
	videoCode    = "content_policy"
)

func (v *Video) show(now time.Time) row {
	at, _ := v.stage(now)
	r := row{
		"id": v.ID, "object": "video", "model": v.model(), "status": at.Status, "created_at": v.created().Unix(), "completed_at": nil,
		"seconds": "8", "size": videoSize, "error": nil, "outputs": nil,
	}
	switch at.Status {
	case "completed":
		r["outputs"] = row{"cost": v.Cost, "video_url": "https://storage.invalid/" + v.ID + ".mp4?X-Amz-Signature=LEAK"}
	case "failed":
		r["error"] = row{"code": videoCode, "message": v.Error}
	case "cancelled":
	default:
		return r
	}
	r["completed_at"] = at.At.Unix()
	return r
}

// truth are the facts of a video.
func (v *Video) truth() []Fact {
	end := v.ends()
	data := row{"video_id": v.ID, "model": v.model()}
	switch end.Status {
	case "completed":
		data["seconds"], data["size"], data["cost_usd"] = videoSeconds, videoSize, v.Cost
	case "failed":
		data["error_message"], data["error_code"] = v.Error, videoCode
	case "cancelled":
	default:
		return nil
	}
	return []Fact{{Type: "video." + end.Status, At: end.At.Truncate(time.Second), Since: end.At, Data: data}}
}

// A QueueJob is the script of a request in a model's queue. Its states are pending, running,
// and at the end done, failed or canceled. The API does not list it.
type QueueJob struct {
	Script
	Model string // empty: acme/pipeline
	Error string // why it failed, if the API says so
}

func (q *QueueJob) model() string {
	if q.Model == "" {
		return "acme/pipeline"
	}
	return q.Model
}

func (q *QueueJob) show(now time.Time) row {
	at, _ := q.stage(now)
	r := row{
		"request_id": q.ID, "model": q.model(), "status": at.Status, "created_at": stamp(q.created()), "claimed_at": nil, "done_at": nil,
		"retries": 0, "priority": 1, "info": row{"note": "LEAK: the customer's note"}, "inputs": row{"prompt": "LEAK: the customer's words"},
		"outputs": nil, "warnings": []any{},
	}
	if claimed, _, ok := q.enters("running"); ok && !now.Before(claimed) {
		r["claimed_at"] = stamp(claimed)
	}
	switch at.Status {
	case "done":
		r["outputs"] = row{"url": "https://storage.invalid/" + q.ID + "?X-Amz-Signature=LEAK"}
	case "failed":
		if q.Error != "" {
			r["error"] = q.Error
		}
	case "canceled":
	default:
		return r
	}
	r["done_at"] = stamp(at.At)
	return r
}

// truth are the facts of a queue job.
func (q *QueueJob) truth() []Fact {
	end := q.ends()
	data := row{"queue_job_id": q.ID, "model": q.model()}
	switch end.Status {
	case "failed":
		data["error_message"] = null(q.Error)
	case "done", "canceled":
	default:
		return nil
	}
	return []Fact{{Type: "queue_job." + end.Status, At: end.At, Data: data}}
}

// AddVideo adds a video with a script of its own and returns its id.
func (w *World) AddVideo(v Video) string { return add(w, &w.videos, &v, "queued", "video-") }

// AddQueueJob adds a queue job with a script of its own and returns its request id.
func (w *World) AddQueueJob(q QueueJob) string {
	return add(w, &w.queueJobs, &q, "pending", "req-")
}

func oneVideo(w *World, r *http.Request, now time.Time) (any, error) {
	v, ok := find(w.videos, r.PathValue("id"), now)
	if !ok {
		return nil, unknown(r.PathValue("id"))
	}
	return v.show(now), nil
}

// queueStatus refuses in the shape that the queue uses.
func queueStatus(w *World, r *http.Request, now time.Time) (any, error) {
	query := r.URL.Query()
	refuse := func(status int, code, message string) refusal {
		return refusal{status: status, body: row{"code": code, "message": message, "param": nil, "type": "invalid_request_error"}}
	}
	if query.Get("model") == "" || query.Get("request_id") == "" {
		return nil, refuse(http.StatusBadRequest, "missing_parameter", "model and request_id are needed")
	}
	q, ok := find(w.queueJobs, query.Get("request_id"), now)
	if !ok || q.model() != query.Get("model") {
		return nil, refuse(http.StatusNotFound, "not_found", "There is no such request")
	}
	return q.show(now), nil
}
