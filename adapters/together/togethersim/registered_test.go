package togethersim_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"together-relay/adapters/together/togethersim"
)

func TestRegistered(t *testing.T) {
	t.Parallel()
	b := newBench(t, togethersim.Config{})
	ready := b.AddVideo(togethersim.Video{Cost: 0.28})
	failed := b.AddVideo(togethersim.Video{Error: "refused"})
	job := b.AddQueueJob(togethersim.QueueJob{Model: "acme/pipeline"})
	broken := b.AddQueueJob(togethersim.QueueJob{Error: "out of memory"})
	ask := "/v1/queue/status?model=acme/pipeline&request_id="
	if v := b.object("/v2/videos/" + ready); v["status"] != "queued" || v["completed_at"] != nil {
		t.Error(v)
	}
	b.clock.Turn(time.Minute)
	b.Move(ready, "completed")
	b.Move(failed, "failed")
	b.Move(job, "running")
	b.clock.Turn(time.Minute)
	b.Move(job, "done")
	b.Move(broken, "failed")
	if v := b.object("/v2/videos/" + ready); v["status"] != "completed" || v["seconds"] != "8" || v["completed_at"] == nil {
		t.Error(v)
	}
	if q := b.object(ask + job); q["status"] != "done" || q["request_id"] != job || q["claimed_at"] == nil || q["done_at"] == nil {
		t.Error(q)
	}
	b.Set(togethersim.Faults{StrangeStatus: true}) // of what has not ended
	if q := b.object(ask + job); q["status"] != "done" {
		t.Error(q)
	}
	b.Set(togethersim.Faults{})
	var told []string
	for _, f := range b.Facts(start, b.clock.Now()) {
		if strings.Contains(strings.ToUpper(f.Type), "LEAK") {
			t.Error(f)
		}
		told = append(told, f.Type)
	}
	if got := strings.Join(told, " "); got != "video.completed video.failed queue_job.done queue_job.failed" {
		t.Error(got)
	}
	for path, want := range map[string]int{
		"/v2/videos/none": http.StatusNotFound, ask + "none": http.StatusNotFound, "/v1/queue/status?model=other&request_id=" + job: http.StatusNotFound,
		"/v1/queue/status?request_id=" + job: http.StatusBadRequest,
	} {
		if status, _, text := b.ask(http.MethodGet, path, nil); status != want {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
}
