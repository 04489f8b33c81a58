package together

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"together-relay/relay"
)

// What is registered is asked for by its id alone.
func TestRegistered(t *testing.T) {
	t.Parallel()
	const junk = `"external_api_token":"sk-secret","kube_config":"x","info":{"note":"customer text"},"inputs":{"prompt":"customer text"},"warnings":["customer text"]`
	const signed = `https://s3/x.mp4?X-Amz-Signature=1&sig=2`
	video := func(members string) string {
		return `{"id":"video-1","object":"video","model":"openai/sora-2","created_at":1784880800,"completed_at":1784880871,"seconds":"8","size":"1280x720",` + junk + `,` + members + `}`
	}
	queue := func(members string) string {
		return `{"request_id":"req-1","model":"acme/pipeline","created_at":"2026-07-24T09:01:00Z","done_at":"2026-07-24T09:01:12.204Z","outputs":{"url":"` + signed + `"},` + junk + `,` + members + `}`
	}
	const videoPath, queuePath = "/v2/videos/video-1", "/v1/queue/status"
	for _, c := range []struct {
		path, body string
		over       bool
		want       string
	}{
		{videoPath, video(`"status":"queued"`), false, ""},
		{videoPath, video(`"status":"in_progress","outputs":null`), false, ""},
		{videoPath, video(`"status":"dreaming"`), false, "odd"},
		{videoPath, video(`"status":"COMPLETED","outputs":{"cost":0.28,"video_url":"` + signed + `"}`), true,
			`video.completed @08:14:31 {"video_id":"video-1","model":"openai/sora-2","seconds":8,"size":"1280x720","cost_usd":0.28}`},
		{videoPath, `{"id":"video-1","status":"completed","completed_at":"1784880871","seconds":"soon","outputs":{"cost":"1"}}`, true,
			`video.completed @08:14:31 {"video_id":"video-1","model":null,"seconds":null,"size":null,"cost_usd":1}`},
		{videoPath, video(`"status":"failed","error":{"code":"content_policy","message":"see ` + signed + `"}`), true,
			`video.failed @08:14:31 {"video_id":"video-1","error_message":"see https://s3/x.mp4","error_code":"content_policy","model":"openai/sora-2"}`},
		{videoPath, video(`"status":"failed","error":"no room"`), true,
			`video.failed @08:14:31 {"video_id":"video-1","error_message":"no room","error_code":null,"model":"openai/sora-2"}`},
		{videoPath, video(`"status":"failed","error":{"code":7}`), true,
			`video.failed @08:14:31 {"video_id":"video-1","error_message":"status=failed","error_code":"7","model":"openai/sora-2"}`},
		{videoPath, video(`"status":"canceled"`), true, `video.cancelled @08:14:31 {"video_id":"video-1","model":"openai/sora-2"}`},

		{queuePath, queue(`"status":"pending"`), false, ""},
		{queuePath, queue(`"status":"running"`), false, ""},
		{queuePath, queue(`"status":"done"`), true, `queue_job.done @09:01:12 {"queue_job_id":"req-1","model":"acme/pipeline"}`},
		{queuePath, `{"status":"DONE","done_at":"2026-07-24T09:01:12Z"}`, true, `queue_job.done @09:01:12 {"queue_job_id":"req-1","model":"acme/pipeline"}`},
		{queuePath, queue(`"status":"failed"`), true, `queue_job.failed @09:01:12 {"queue_job_id":"req-1","model":"acme/pipeline","error_message":null}`},
		{queuePath, queue(`"status":"failed","error":{"message":"out of\nmemory"}`), true,
			`queue_job.failed @09:01:12 {"queue_job_id":"req-1","model":"acme/pipeline","error_message":"out of memory"}`},
		{queuePath, queue(`"status":"canceled"`), true, `queue_job.canceled @09:01:12 {"queue_job_id":"req-1","model":"acme/pipeline"}`},
		{queuePath, queue(`"status":"cancelled"`), true, `queue_job.canceled @09:01:12 {"queue_job_id":"req-1","model":"acme/pipeline"}`},
	} {
		p := provide(map[string]string{c.path: c.body})
		a := p.serve(t)
		var of relay.Resource = a.Videos()
		id, asks := "video-1", "GET "+videoPath
		if c.path == queuePath {
			of, id, asks = a.QueueJobs(), QueueJobID("acme/pipeline", "req-1"), "GET "+queuePath+"?model=acme%2Fpipeline&request_id=req-1"
		}
		if jobs, err := of.List(t.Context(), 5); len(jobs) > 0 || err != nil {
			t.Fatal(jobs, err)
		}
		job, err := of.Find(t.Context(), id)
		if err != nil || job.ID != id || job.Over != c.over || job.Updated.IsZero() && strings.Contains(c.body, "created_at") {
			t.Errorf("%s: %+v, %v", c.body, job, err)
			continue
		}
		facts, err := of.Tell(t.Context(), job, relay.Mark{})
		got := strings.Join(short(facts), "\n")
		if want := strings.TrimPrefix(c.want, "odd"); got != want || err != nil || (len(p.odd) > 0) != (c.want == "odd") {
			t.Errorf("%s:\n%s, want\n%s, %v, odd %v", c.body, got, want, err, p.odd)
		}
		if diff := cmp.Diff([]string{asks}, p.requests()); diff != "" {
			t.Error(diff)
		}
		for _, f := range facts {
			if !f.Event.Shared || f.Event.Fact != "" || f.Event.Resource != strings.TrimPrefix(id, "acme/pipeline#") || !oneShot(f.Event.Type) {
				t.Errorf("%+v", f.Event)
			}
			if text := f.Event.CloudEvent.String(); slices.ContainsFunc(leaks(), func(leak string) bool { return strings.Contains(text, leak) }) {
				t.Errorf("%s leaks: %s", f.Key, text)
			}
		}
		if facts, err := of.Tell(t.Context(), relay.Job{ID: id, Gone: true, Over: true}, relay.Mark{}); len(facts) > 0 || err != nil {
			t.Errorf("gone: %v, %v", facts, err)
		}
	}
}

// oneShot says whether a webhook of the type is known to tell of what happens once.
func oneShot(typ string) bool {
	shared, which := told(&envelope{typ: typ, resource: "x"})
	return shared && which == ""
}

// The trouble of one job is its own.
func TestRegisteredTrouble(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		says        string
		gone, later bool
	}{
		{"#404 {}", true, false},
		{"#400 {\"code\":\"bad\",\"message\":\"no such model\"}", true, false},
		{"#422 {}", true, false},
		{"#403 {}", false, false},
		{"#500 {}", false, false},
		{"#429 {}", false, true},
		{"#401 {}", false, true},
		{`{"id":"video-2","request_id":"req-2","status":"done"}`, false, false},
	} {
		p := provide(map[string]string{"/v2/videos/video-1": c.says, "/v1/queue/status": c.says})
		for id, of := range map[string]relay.Resource{"video-1": p.serve(t).Videos(), QueueJobID("acme/pipeline", "req-1"): p.serve(t).QueueJobs()} {
			_, err := of.Find(t.Context(), id)
			if err == nil || errors.Is(err, relay.ErrGone) != c.gone || errors.As(err, new(*relay.Later)) != c.later || strings.Contains(err.Error(), "request_id=") {
				t.Errorf("%s: %s: %v", id, c.says, err)
			}
		}
	}
}

func TestQueueJobID(t *testing.T) {
	t.Parallel()
	if model, request := SplitQueueJobID(QueueJobID("acme/pipeline", "req-1")); model != "acme/pipeline" || request != "req-1" {
		t.Error(model, request)
	}
	if model, request := SplitQueueJobID("req-1"); model != "" || request != "req-1" {
		t.Error(model, request)
	}
	for id, good := range map[string]bool{"video-1": true, "acme/pipeline": true, "": false, "..": false, "a b": false, "a#b": false, "a\n": false, "\xff": false, strings.Repeat("x", 1025): false} {
		if err := CheckID(id); (err == nil) != good {
			t.Errorf("%.20q: %v", id, err)
		}
	}
}
