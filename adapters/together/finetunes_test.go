package together

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"together-relay/relay"
)

const tuneID = "ft-9a8b7c6d-5e4f-3a2b-1c0d-9e8f7a6b5c4d"

// paths of one fine-tune.
const (
	tunes       = "/v1/fine-tunes"
	tunePath    = "/v1/fine-tunes/" + tuneID
	logPath     = tunePath + "/events"
	savesPath   = tunePath + "/checkpoints"
	metricsPath = tunePath + "/metrics"
)

// tune is a list of one fine-tune with these members.
func tune(members string) string {
	return `{"data":[{"id":"` + tuneID + `","model":"Qwen/Qwen3.5-9B","model_output_name":"acme/Qwen3.5-9B-support-6bb88a0f",
		"created_at":"2026-07-01T09:00:00.123Z","started_at":"2026-07-01T09:10:00Z","updated_at":"2026-07-01T09:52:31.004Z",
		"training_type":null,"lr_scheduler_type":"","batch_size":"max","events":[],` + members + `}]}`
}

func logOf(lines ...string) string { return `{"data":[` + strings.Join(lines, ",") + `]}` }

func line(typ, at, more string) string {
	if more != "" {
		more = "," + more
	}
	return fmt.Sprintf(`{"object":"fine-tune-event","type":%q,"level":"info","created_at":"2026-07-01T%sZ","checkpoint_path":"","model_path":""%s}`, typ, at, more)
}

const twoMetrics = `{"metrics":[
 {"timestamp":1779196313564587000,"train/global_step":47,"train/epoch":0.3,"train/loss":1.98,"train/grad_norm":0.87},
 {"timestamp":1779196314564587000,"train/global_step":48,"train/epoch":0.3,"eval/loss":2.05}]}`

// short writes facts as their keys, times and data.
func short(facts []relay.Fact) (all []string) {
	for _, f := range facts {
		wait := ""
		if f.Wait {
			wait = " wait"
		}
		if f.Ahead {
			wait += " ahead"
		}
		all = append(all, fmt.Sprintf("%s%s @%s %s", f.Key, wait, f.Event.CloudEvent.Time().Format("15:04:05"), f.Event.CloudEvent.Data()))
	}
	return all
}

func keys(facts []relay.Fact) (all []string) {
	for _, f := range facts {
		all = append(all, f.Key)
	}
	return all
}

// only is the one job that the resource lists.
func only(t *testing.T, of relay.Resource) relay.Job {
	t.Helper()
	jobs, err := of.List(t.Context(), 0)
	if err != nil || len(jobs) != 1 {
		t.Fatalf("%v, %v", jobs, err)
	}
	return jobs[0]
}

// tell is what the resource tells of its one job, and how often it asked for details.
func tell(t *testing.T, p *provider, of relay.Resource, mark relay.Mark) ([]relay.Fact, []string, error) {
	t.Helper()
	job := only(t, of)
	p.requests()
	facts, err := of.Tell(t.Context(), job, mark)
	return facts, p.requests(), err
}

func TestFineTuneCompleted(t *testing.T) {
	t.Parallel()
	p := provide(map[string]string{
		tunes: tune(`"status":"completed","n_evals":3,"validation_file":"file-v","steps_completed":72,"total_steps":120,
			"token_count":850000,"total_price":4250000000,"early_stopped":true,"early_stopping_best_step":48,"early_stopping_best_metric":0.4213,"model_object_id":"ml_1"`),
		logPath: logOf(line("JOB_COMPLETE", "09:52:30", ""), // out of order, in upper case
			line("job_start", "09:05:00", ""), line("training_start", "09:06:00", ""),
			line("checkpoint_save", "09:20:12", `"step":48,"total_steps":120`),
			line("early_stopped", "09:45:00", `"early_stopping_best_step":48,"early_stopping_best_metric_value":0.4213`),
			line("COMPRESSING_MODEL", "09:46:00", ""), line("something_new", "09:47:00", "")),
		savesPath: `{"data":[
			{"step":48,"created_at":"2026-07-01T09:50:00Z","path":"s3://b/merged?X-Amz-Signature=abc","checkpoint_type":"Final Merged","checkpoint":"model"},
			{"step":48,"created_at":"2026-07-01T09:50:01Z","path":"s3://b/adapter","checkpoint_type":"Final Adapter","checkpoint":"adapter"},
			{"step":48,"created_at":"2026-07-01T09:20:12Z","path":"ft/ckpt-48","checkpoint_type":"Intermediate"}]}`,
		metricsPath: twoMetrics,
	})
	facts, asked, err := tell(t, p, p.serve(t).FineTunes(), relay.Mark{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`fine_tune.created @09:00:00 {"fine_tune_id":"` + tuneID + `","base_model":"Qwen/Qwen3.5-9B","model_name":"acme/Qwen3.5-9B-support-6bb88a0f"}`,
		`fine_tune.running @09:05:00 {"fine_tune_id":"` + tuneID + `","base_model":"Qwen/Qwen3.5-9B","model_name":"acme/Qwen3.5-9B-support-6bb88a0f"}`,
		`fine_tune.checkpoint step=48;kind=intermediate @09:20:12 {"fine_tune_id":"` + tuneID + `","step":48,"loss":1.98,"checkpoint_type":"intermediate","path":"ft/ckpt-48","created_at":"2026-07-01T09:20:12Z"}`,
		`fine_tune.early_stopped @09:45:00 {"fine_tune_id":"` + tuneID + `","best_step":48,"best_metric":0.4213}`,
		`fine_tune.checkpoint step=48;kind=final @09:50:00 {"fine_tune_id":"` + tuneID + `","step":48,"loss":1.98,"checkpoint_type":"final","path":"s3://b/merged","created_at":"2026-07-01T09:50:00Z"}`,
		`fine_tune.completed @09:52:30 {"fine_tune_id":"` + tuneID + `","model_name":"acme/Qwen3.5-9B-support-6bb88a0f","eval_loss":0.4213,"base_model":"Qwen/Qwen3.5-9B","early_stopped":true,"best_step":48,"token_count":850000,"total_price_usd":4.25,"model_object_id":"ml_1"}`,
	}
	if diff := cmp.Diff(want, short(facts)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"GET " + logPath, "GET " + savesPath, "GET " + metricsPath + "?global_step_from=0&global_step_to=48", "GET " + tunePath}, asked); diff != "" {
		t.Error(diff)
	}
	for _, fact := range facts {
		ev := fact.Event
		if err := ev.CloudEvent.Validate(); err != nil {
			t.Error(err)
		}
		wantFact := ""
		if ev.Type == typeCheckpoint {
			wantFact = "step=48"
		}
		if !ev.Shared || ev.Fact != wantFact || ev.Source != "together" || ev.Resource != tuneID || len(ev.Fields) < 3 {
			t.Errorf("%s: %+v", fact.Key, ev)
		}
		if x := ev.CloudEvent.Extensions(); x["ingress"] != "api" || x["recordedtime"] == nil {
			t.Error(x)
		}
	}
}

// Pitfall: the state is told by the right table. There is no "failed", and user_error
// stands beside error.
func TestFineTuneStates(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]string{
		"pending": "", "queued": "", "running": "fine_tune.running", "compressing": "", "uploading": "", "cancel_requested": "",
		"completed": "! fine_tune.completed", "COMPLETED": "! fine_tune.completed", "Complete": "! fine_tune.completed",
		"error": "! fine_tune.failed", "user_error": "! fine_tune.failed",
		"cancelled": "! fine_tune.cancelled", "canceled": "! fine_tune.cancelled",
		"failed": "?", "succeeded": "?", "hibernating": "?", "": "?",
	} {
		p := provide(map[string]string{tunes: tune(`"status":"` + status + `"`), logPath: logOf(), savesPath: logOf()})
		f := p.client(t, APIConfig{Transport: p}).FineTunes()
		job := only(t, f)
		facts, asked, err := tell(t, p, f, relay.Mark{})
		if err != nil {
			t.Errorf("%s: %v", status, err)
		}
		last, ends := strings.CutPrefix(want, "! ")
		expected := []string{"fine_tune.created"}
		if status == "" {
			expected = nil
		}
		if want != "" && want != "?" {
			expected = append(expected, last)
		}
		if diff := cmp.Diff(expected, keys(facts)); diff != "" || job.Over != ends || job.Live != (status == "running") {
			t.Errorf("%s: %s, over %v, live %v", status, diff, job.Over, job.Live)
		}
		if odd := len(p.odd); (odd > 0) != (want == "?") {
			t.Errorf("%s: %v", status, p.odd)
		}
		if quiet := want == "?" || status == "pending" || status == "queued"; quiet != (len(asked) == 0) {
			t.Errorf("%s: it asked %v", status, asked)
		}
	}
}

func TestFineTuneChange(t *testing.T) {
	t.Parallel()
	p := provide(nil)
	f := p.serve(t).FineTunes()
	change := func(members string) string {
		p.set(tunes, tune(members))
		return only(t, f).Change
	}
	base := change(`"status":"running","steps_completed":3,"epochs_completed":1,"progress":{"seconds_remaining":9}`)
	if change(`"status":"running","steps_completed":3,"epochs_completed":1,"progress":{"seconds_remaining":8},"queue_depth":3`) != base {
		t.Error("the estimate is taken for a change")
	}
	for _, other := range []string{
		`"status":"uploading","steps_completed":3,"epochs_completed":1`,
		`"status":"running","steps_completed":4,"epochs_completed":1`,
		`"status":"running","steps_completed":3,"epochs_completed":2`,
		`"status":"running","steps_completed":3,"epochs_completed":1,"updated_at":"2026-07-01T09:52:32Z"`,
	} {
		if change(other) == base {
			t.Errorf("no change: %s", other)
		}
	}
}

// Pitfall: the error text lives in the log only, under several types and levels.
func TestFineTuneFailed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ status, log, more, want string }{
		"error": {"error", logOf(line("job_error", "09:30:00", `"level":"error","message":"out of memory","step":0`), line("epoch_complete", "09:20:00", `"step":24`)), `,"steps_completed":30`,
			`@09:30:00 {"fine_tune_id":"ID","error_message":"out of memory","step":24,"error_class":"system","base_model":"Qwen/Qwen3.5-9B"}`},
		"upper case": {"error", logOf(line("JOB_USER_ERROR", "09:30:00", `"message":"bad data\nin line 3"`)), `,"steps_completed":30`,
			`@09:30:00 {"fine_tune_id":"ID","error_message":"bad data in line 3","step":30,"error_class":"user","base_model":"Qwen/Qwen3.5-9B"}`},
		"user_error": {"user_error", logOf(line("job_start", "09:10:00", ""), line("warning", "09:30:00", `"level":"legacy_ierror","message":"see https://s3/x?sig=1"`)), "",
			`@09:52:31 {"fine_tune_id":"ID","error_message":"see https://s3/x","step":48,"error_class":"user","base_model":"Qwen/Qwen3.5-9B"}`},
		"billing": {"error", logOf(line("billing_limit", "09:30:00", `"message":"pay"`)), "",
			`@09:52:31 {"fine_tune_id":"ID","error_message":"pay","step":null,"error_class":"system","base_model":"Qwen/Qwen3.5-9B"}`},
		"newest": {"error", logOf(line("job_error", "09:31:00", `"message":"second"`), line("job_error", "09:30:00", `"message":"first"`), line("job_error", "09:32:00", `"message":""`)), `,"steps_completed":"0"`,
			`@09:32:00 {"fine_tune_id":"ID","error_message":"second","step":null,"error_class":"system","base_model":"Qwen/Qwen3.5-9B"}`},
		"nothing": {"error", logOf(), "", `@09:52:31 {"fine_tune_id":"ID","error_message":"status=error","step":null,"error_class":"system","base_model":"Qwen/Qwen3.5-9B"}`},
	} {
		p := provide(map[string]string{tunes: tune(`"status":"` + c.status + `"` + c.more), logPath: c.log, savesPath: "null", metricsPath: twoMetrics})
		facts, _, err := tell(t, p, p.client(t, APIConfig{Transport: p}).FineTunes(), relay.Mark{})
		got := ""
		if len(facts) > 0 {
			got = short(facts)[len(facts)-1]
		}
		if want := "fine_tune.failed " + strings.ReplaceAll(c.want, "ID", tuneID); err != nil || got != want {
			t.Errorf("%s: %v\n%s\n%s", name, err, got, want)
		}
	}
}

func TestFineTuneCancelled(t *testing.T) {
	t.Parallel()
	p := provide(map[string]string{tunes: tune(`"status":"cancelled"`), logPath: logOf(line("epoch_complete", "09:20:00", `"step":24`)), savesPath: logOf()})
	facts, _, err := tell(t, p, p.serve(t).FineTunes(), relay.Mark{Told: []string{"fine_tune.created"}})
	want := []string{`fine_tune.cancelled @09:52:31 {"fine_tune_id":"` + tuneID + `","step":24,"base_model":"Qwen/Qwen3.5-9B"}`}
	if diff := cmp.Diff(want, short(facts)); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// Pitfall: from queued to completed between two looks is one end, with the middle from the
// log; telling again tells the same keys and ids.
func TestFineTuneThatNoLookHasSeenRunning(t *testing.T) {
	t.Parallel()
	p := provide(map[string]string{
		tunes:   tune(`"status":"completed"`),
		logPath: logOf(line("job_pending", "09:00:01", ""), line("training_start", "09:10:01", ""), line("job_restarted", "09:11:00", `"message":"node lost"`), line("job_complete", "09:50:00", "")),

		savesPath: logOf(), metricsPath: `{"metrics":[{"train/global_step":1,"eval/loss":NaN,"train/loss":null},{"train/global_step":2,"eval/loss":0.7,"train/loss":null},{"train/global_step":2,"train/loss":NaN,"eval/loss":null},{"train/global_step":2,"train/loss":NaN}]}`,
	})
	f := p.serve(t).FineTunes()
	facts, _, err := tell(t, p, f, relay.Mark{Told: []string{"fine_tune.created"}})
	want := []string{"fine_tune.running", "fine_tune.restarted at=2026-07-01T09:11:00Z;n=1", "fine_tune.completed"}
	if diff := cmp.Diff(want, keys(facts)); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if data := string(facts[2].Event.CloudEvent.Data()); !strings.Contains(data, `"eval_loss":0.7,`) {
		t.Error(data)
	}
	again, _, _ := tell(t, p, f, relay.Mark{})
	for _, fact := range facts {
		if !slices.ContainsFunc(again, func(f relay.Fact) bool {
			return f.Key == fact.Key && f.Event.CloudEvent.ID() == fact.Event.CloudEvent.ID()
		}) {
			t.Errorf("%s has another id", fact.Key)
		}
	}
	mark := relay.Mark{Told: keys(again)}
	if none, asked, err := tell(t, p, f, mark); len(none) != 0 || err != nil || len(asked) != 2 {
		t.Error(keys(none), asked, err)
	}
}

// Pitfall: merged and adapter rows, a step that is saved again after a restart, and
// restarts at one time.
func TestCheckpointDuplicates(t *testing.T) {
	t.Parallel()
	p := provide(map[string]string{
		tunes: tune(`"status":"running","steps_completed":50`),
		logPath: logOf(line("job_start", "09:05:00", ""), line("job_restarted", "09:21:00", ""), line("job_restarted", "09:21:00", ""),
			line("checkpoint_save", "09:20:00", `"step":48`), line("checkpoint_save", "09:25:00", `"step":48`),
			line("checkpoint_save", "09:26:00", `"step":"60","checkpoint_path":"ft/60"`), line("checkpoint_save", "09:27:00", "")),
		savesPath: `{"data":[{"step":48,"created_at":"2026-07-01T09:20:00Z","checkpoint_type":"Intermediate"},
			{"step":"48","created_at":"2026-07-01T09:25:00Z","checkpoint_type":"intermediate checkpoint","path":"again"},{"step":null,"path":"x"}]}`,
		metricsPath: `{"metrics":[{"train/global_step":47,"train/loss":1.5},{"train/global_step":59,"train/loss":1.25},{"train/global_step":48,"train/loss":1.4},{"train/global_step":61,"train/loss":1.1}]}`,
	})
	facts, asked, err := tell(t, p, p.serve(t).FineTunes(), relay.Mark{Told: []string{"fine_tune.created", "fine_tune.running"}})
	want := []string{
		`fine_tune.checkpoint step=48;kind=intermediate @09:20:00 {"fine_tune_id":"` + tuneID + `","step":48,"loss":1.4,"checkpoint_type":"intermediate","path":null,"created_at":"2026-07-01T09:20:00Z"}`,
		`fine_tune.restarted at=2026-07-01T09:21:00Z;n=1 @09:21:00 {"fine_tune_id":"` + tuneID + `","message":null,"step":null}`,
		`fine_tune.restarted at=2026-07-01T09:21:00Z;n=2 @09:21:00 {"fine_tune_id":"` + tuneID + `","message":null,"step":null}`,
		`fine_tune.checkpoint step=60;kind=intermediate wait @09:26:00 {"fine_tune_id":"` + tuneID + `","step":60,"loss":1.25,"checkpoint_type":"intermediate","path":"ft/60","created_at":"2026-07-01T09:26:00Z"}`,
	}
	if diff := cmp.Diff(want, short(facts)); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if len(asked) != 3 {
		t.Error(asked)
	}
}

func TestLossIsWaitedFor(t *testing.T) {
	t.Parallel()
	save := logOf(`{"step":100,"created_at":"2026-07-01T09:20:00Z","checkpoint_type":"Intermediate"}`)
	for _, c := range []struct {
		name, status, metrics string
		brief, wait           bool
		asked                 int // for metrics, mostly
	}{
		{"not yet", "running", `{"metrics":[]}`, false, true, 2},
		{"older", "running", `{"metrics":[{"train/global_step":99,"train/loss":1}]}`, false, false, 1},
		{"over", "error", `{"metrics":[]}`, false, false, 3}, // and once for the job itself
		{"not finite", "running", `{"metrics":[{"train/global_step":90,"train/loss":2},{"train/global_step":100,"train/loss":NaN}]}`, false, false, 1},
		{"never: not found", "running", `#404 {}`, false, false, 1},
		{"never: bad request", "running", `#400 {}`, false, false, 1},
		{"never: forbidden", "running", `#403 {}`, false, false, 1},
		{"never: another shape", "running", `{}`, false, false, 1},
		{"brief", "running", `#500 `, true, false, 0},
	} {
		p := provide(map[string]string{tunes: tune(`"status":"` + c.status + `","steps_completed":100`), logPath: logOf(), savesPath: save, metricsPath: c.metrics})
		f := p.client(t, APIConfig{Transport: p}).FineTunes()
		job := only(t, f)
		job.Brief = c.brief
		p.requests()
		facts, err := f.Tell(t.Context(), job, relay.Mark{Told: []string{"fine_tune.created", "fine_tune.running"}})
		if err != nil || len(facts) == 0 || facts[0].Wait != c.wait || len(p.requests())-2 != c.asked {
			t.Errorf("%s: %v, %v", c.name, short(facts), err)
		}
	}
}

// The end is not told before the details it needs, for as long as there is hope.
func TestDetailsThatFail(t *testing.T) {
	t.Parallel()
	good := map[string]string{
		logPath:   logOf(line("job_start", "09:05:00", ""), line("job_restarted", "09:10:00", ""), line("early_stopped", "09:30:00", "")),
		savesPath: logOf(`{"step":48,"created_at":"2026-07-01T09:20:00Z","checkpoint_type":"Intermediate"}`), metricsPath: twoMetrics,
	}
	all := []string{"fine_tune.created", "fine_tune.running", "fine_tune.restarted at=2026-07-01T09:10:00Z;n=1",
		"fine_tune.checkpoint step=48;kind=intermediate", "fine_tune.early_stopped", "fine_tune.completed"}
	for _, c := range []struct {
		broken  string
		before  []string // what is told while there is hope
		without []string // what is told when it is given up
	}{
		{logPath, all[:1], []string{all[0], all[3], all[5]}},
		{savesPath, all[:2], []string{all[0], all[1], all[2], all[4], all[5]}},
		{metricsPath, all[:3], all},
	} {
		for _, answer := range []string{"#502 <html>", "nonsense", "#429 {}", "#401 {}"} {
			p := provide(map[string]string{tunes: tune(`"status":"completed"`)})
			maps.Copy(p.says, good)
			p.says[c.broken] = answer
			f := p.client(t, APIConfig{Transport: p, PerMinute: 1e6}).FineTunes()
			facts, _, err := tell(t, p, f, relay.Mark{Waits: relay.MaxFailures - 1})
			if diff := cmp.Diff(c.before, keys(facts)); diff != "" || err == nil {
				t.Errorf("%s %s: %s, %v", c.broken, answer, diff, err)
			}
			later := answer[0] == '#' && answer[1] == '4'
			if answer == "#401 {}" {
				f = p.client(t, APIConfig{Transport: p, PerMinute: 1e6}).FineTunes() // one that is not paused
			}
			facts, _, err = tell(t, p, f, relay.Mark{Waits: relay.GiveUp})
			want := c.without
			if later {
				want = c.before
			}
			if diff := cmp.Diff(want, keys(facts)); diff != "" || (err != nil) != later || later != errors.As(err, new(*relay.Later)) {
				t.Errorf("%s %s, at last: %s, %v", c.broken, answer, diff, err)
			}
		}
	}
}

func TestEvalLossOnlyIfThereCanBeOne(t *testing.T) {
	t.Parallel()
	for members, asks := range map[string]bool{
		`"n_evals":0`: false, `"validation_file":""`: false, `"n_evals":2,"validation_file":"file-1"`: true, `"validation_file":null`: true,
		`"validation_file":7`: true, `"early_stopped":true,"early_stopping_best_metric":1.5`: false, `"early_stopped":true,"early_stopping_best_metric":null`: true,
	} {
		p := provide(map[string]string{tunes: tune(`"status":"completed",` + members), logPath: logOf(), savesPath: logOf(), metricsPath: twoMetrics})
		facts, asked, err := tell(t, p, p.client(t, APIConfig{Transport: p}).FineTunes(), relay.Mark{})
		if got := slices.Contains(asked, "GET "+metricsPath+"?resolution=1"); err != nil || got != asks {
			t.Errorf("%s: asked %v, %v", members, asked, err)
		}
		data := string(facts[len(facts)-1].Event.CloudEvent.Data())
		want := `"eval_loss":null`
		if asks {
			want = `"eval_loss":2.05`
		} else if strings.Contains(members, "1.5") {
			want = `"eval_loss":1.5`
		}
		if !strings.Contains(data, want) {
			t.Errorf("%s: %s", members, data)
		}
	}
}

// What the list leaves out is asked for once, at the end.
func TestCompletedJobIsAskedForItsObject(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		`{"id":"` + tuneID + `","status":"completed","n_evals":0,"model_output_name":"a/b","model_object_id":"ml_7"}`: `"model_object_id":"ml_7"`,
		`{"id":"` + tuneID + `","status":"completed","model_output_name":"a/b"}`:                                      `"model_object_id":null`,
		"#404 {}": `"model_object_id":null`,
		"#500 {}": "",
	} {
		p := provide(map[string]string{tunes: tune(`"status":"completed","n_evals":0`), tunePath: answer, logPath: logOf(), savesPath: logOf()})
		f := p.client(t, APIConfig{Transport: p}).FineTunes()
		facts, _, err := tell(t, p, f, relay.Mark{Told: []string{"fine_tune.created"}})
		if want == "" {
			if len(facts) > 0 || err == nil {
				t.Error(answer, facts, err)
			}
			facts, _, err = tell(t, p, f, relay.Mark{Told: []string{"fine_tune.created"}, Waits: relay.GiveUp})
		}
		if err != nil || len(facts) != 1 || !strings.Contains(string(facts[0].Event.CloudEvent.Data()), want) {
			t.Error(answer, short(facts), err)
		}
	}
}

func TestModelNameFallsBack(t *testing.T) {
	t.Parallel()
	for members, want := range map[string]string{
		`"model_output_name":"a/b","model_output_path":"s3://x"`:      `"a/b"`,
		`"model_output_name":null,"model_output_path":"s3://x/y?s=1"`: `""`,
		`"model_output_name":null`:                                    `""`,
	} {
		p := provide(map[string]string{tunes: tune(`"status":"completed","n_evals":0,` + members), logPath: logOf(), savesPath: logOf()})
		facts, _, err := tell(t, p, p.client(t, APIConfig{Transport: p}).FineTunes(), relay.Mark{})
		if data := string(facts[len(facts)-1].Event.CloudEvent.Data()); err != nil || !strings.Contains(data, `"model_name":`+want) {
			t.Errorf("%s: %s, %v", members, data, err)
		}
	}
}

// Pitfall: a job that is absent from the list is asked for, and gone if that gives 404.
func TestFind(t *testing.T) {
	t.Parallel()
	p := provide(map[string]string{tunePath: `{"id":"` + tuneID + `","status":"Completed"}`, tunes + "/other": `{"id":"third"}`, tunes + "/list": `[]`, tunes + "/a%2Fb": "{}"})
	f := p.serve(t).FineTunes()
	if job, err := f.Find(t.Context(), tuneID); err != nil || job.ID != tuneID || !job.Over {
		t.Error(job, err)
	}
	if _, err := f.Find(t.Context(), "none"); !errors.Is(err, relay.ErrGone) {
		t.Error(err)
	}
	for _, id := range []string{"other", "list"} {
		if _, err := f.Find(t.Context(), id); err == nil || errors.Is(err, relay.ErrGone) {
			t.Error(err)
		}
	}
	if facts, err := f.Tell(t.Context(), relay.Job{ID: tuneID, Gone: true}, relay.Mark{}); len(facts) > 0 || err != nil {
		t.Error(facts, err)
	}
}

func TestFactTimeAndSchema(t *testing.T) {
	t.Parallel()
	from, err := newOrigin(Origin{Name: "mine", URI: "https://mine.example", Schemas: map[string]string{"x.y": "https://schemas.example/x.y.json"}})
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	f := from.fact("x.y", strings.Repeat("long", 300), "", time.Time{}, struct{}{})
	ev := f.Event.CloudEvent
	if ev.Time().Before(before) || ev.DataSchema() != "https://schemas.example/x.y.json" || ev.Source() != "https://mine.example" ||
		ev.Subject() != "" || f.Event.Source != "mine" || ev.Type() != "ai.together.x.y" {
		t.Error(ev)
	}
	if _, err := newOrigin(Origin{URI: "a b:\x00"}); err == nil {
		t.Error("a bad URI is taken")
	}
}
