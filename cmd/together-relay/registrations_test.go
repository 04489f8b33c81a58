package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"together-relay/adapters/together/togethersim"
)

func (p *process) registered(t testing.TB) map[string]registration {
	t.Helper()
	all := map[string]registration{}
	for line := range strings.Lines(p.verb(t, "watch", "ls", "-o", "json").stdout) {
		var r registration
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		all[r.ID] = r
	}
	return all
}

// What is registered is told once, also if the relay is killed before it sees the end, and
// after it.
func TestRegisteredJobsAreWatched(t *testing.T) {
	t.Parallel()
	d := quiet(t)
	video := d.world.AddVideo(togethersim.Video{Cost: 0.28})
	failed := d.world.AddVideo(togethersim.Video{Error: "refused"})
	job := d.world.AddQueueJob(togethersim.QueueJob{Model: "acme/pipeline"})
	gone := d.world.AddQueueJob(togethersim.QueueJob{Model: "acme/pipeline"})
	d.clock.Turn(time.Minute)
	d.world.Move(failed, "failed")                                                                 // before anybody knows of it
	from := launch{env: slices.Concat(withSecret, d.env), dir: filepath.Join(t.TempDir(), "data")} // the turn to watch ends with it
	start := func() *process {
		p := from.start(t).waitReady(t)
		d.baseline(t, p)
		return p
	}
	p := start()
	for pattern := range d.world.Requests() {
		if strings.Contains(pattern, "videos") || strings.Contains(pattern, "queue") {
			t.Errorf("%s while nothing is registered", pattern)
		}
	}
	for _, args := range [][]string{{video, failed, "video-none"}, {"--queue=acme/pipeline", job, gone}} {
		if r := p.verb(t, slices.Concat([]string{"watch", "add"}, args)...); r.code != exitDone || strings.Count(r.stdout, "\tadded\t") != len(args)-strings.Count(args[0], "--queue") {
			t.Fatalf("add: %+v", r)
		}
	}
	if r := p.verb(t, "watch", "add", video); r.code != exitDone || !strings.Contains(r.stdout, "\twatched already\t") {
		t.Errorf("add again: %+v", r)
	}
	eventually(t, "what was over is told", func() bool { return p.has(t, "video.failed", failed) })
	eventually(t, "what is not there is given up", func() bool { return p.registered(t)["video-none"].State == "not found" })
	if r := p.verb(t, "wait", failed); r.code != exitJobFailed {
		t.Errorf("wait: %+v", r)
	}
	if r := p.verb(t, "wait", "video-none", "--every=10ms"); r.code != exitFailed || !strings.Contains(r.stderr, "knows no job") {
		t.Errorf("wait for what is not there: %+v", r)
	}

	waiting, stdout, stderr := p.newVerb(t, "wait", video, "--every=10ms", "--timeout=0")
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	another := d.world.AddVideo(togethersim.Video{Script: togethersim.Script{ID: "video-2"}})
	if r := p.verb(t, "watch", "add", another); r.code != exitDone {
		t.Error(r)
	}
	d.world.Move(another, "cancelled")
	eventually(t, "the second is told", func() bool { return p.has(t, "video.cancelled", another) })
	if r := p.verb(t, "wait", another, "--every=10ms"); r.code != exitJobCancelled {
		t.Errorf("wait: %+v", r)
	}
	if stdout.String() != "" || stderr.String() != "" {
		t.Errorf("the wait for what is registered ends with %s%s", stdout, stderr)
	}

	p.kill(t)
	_ = waiting.Process.Kill()
	_ = waiting.Wait()
	d.clock.Turn(time.Minute)
	d.world.Move(video, "completed")
	d.world.Move(job, "done")
	p = start()
	eventually(t, "the ends are told", func() bool { return p.has(t, "video.completed", video) && p.has(t, "queue_job.done", job) })
	for _, id := range []string{video, job} {
		if r := p.verb(t, "wait", id, "-o", "json"); r.code != exitDone || strings.Contains(r.stdout, "LEAK") {
			t.Errorf("wait: %+v", r)
		}
	}
	p.kill(t)
	p = start()
	eventually(t, "all is marked", func() bool { return p.registered(t)[video].Over && p.registered(t)[job].Over })
	if r := p.registered(t)[job]; r.State != "queue_job.done" || r.Model != "acme/pipeline" || r.Resource != queueWatch {
		t.Errorf("%+v", r)
	}

	// What is over may be registered anew, and remains one event.
	if r := p.verb(t, "watch", "add", video); !strings.Contains(r.stdout, "\tadded\t") {
		t.Errorf("add what is over: %+v", r)
	}
	eventually(t, "it is over again", func() bool { return p.registered(t)[video].Over })
	d.world.Move(gone, "canceled")
	eventually(t, "it is canceled", func() bool { return p.has(t, "queue_job.canceled", gone) })
	if r := p.verb(t, "wait", gone); r.code != exitJobCancelled {
		t.Errorf("wait: %+v", r)
	}
	told := ids(t, p.nats, "TOGETHER")
	for _, f := range d.world.Facts(d.start, d.clock.Now()) {
		if n := told[f.ID]; f.ID != "" && n != 1 {
			t.Errorf("%s of %s: %d events", f.Type, f.Resource, n)
		}
	}
	for _, m := range messages(t, p.nats, "TOGETHER") {
		if strings.Contains(string(m.Data), "LEAK") {
			t.Errorf("%s tells a secret: %s", m.Subject, m.Data)
		}
	}

	if r := p.verb(t, "watch", "rm", "video-none"); r.code != exitDone || !strings.Contains(r.stdout, "\tremoved\t") {
		t.Errorf("rm: %+v", r)
	}
	if r := p.verb(t, "watch", "rm", "video-none"); r.code != exitFailed || !strings.Contains(r.stderr, "not registered") {
		t.Errorf("rm again: %+v", r)
	}
	eventually(t, "all are over", func() bool { return p.registered(t)[gone].Over })
	if r := p.verb(t, "watch", "rm", "--over"); r.code != exitDone || len(p.registered(t)) > 0 {
		t.Errorf("rm --over: %+v", r)
	}
	for _, args := range [][]string{{"add"}, {"add", "a#b"}, {"add", "--queue=", "r"}, {"rm"}, {"ls", "x"}} {
		if r := p.verb(t, append([]string{"watch"}, args...)...); r.code != exitUsage {
			t.Errorf("watch %v: %+v", args, r)
		}
	}
}
