package together

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"together-relay/relay"
)

const evalID = "eval-1234aedf"

func oneEval(members string) string {
	return `{"workflow_id":"` + evalID + `","type":"score","created_at":"2026-07-23T17:10:04.837888Z","updated_at":"2026-07-23T17:31:44Z",
		"parameters":{"judge":{"external_api_token":"sk-secret","prompt":"customer text"}},` + members + `}`
}

// Pitfall: the parameters of an evaluation hold a token, and must not be told.
func TestEvaluations(t *testing.T) {
	t.Parallel()
	for members, want := range map[string]string{
		`"status":"pending"`:  "",
		`"status":"queued"`:   "",
		`"status":"RUNNING"`:  "",
		`"status":"sleeping"`: "? ",
		`"status":"completed","results":{"aggregated_scores":{"mean_score":7.9,"std_score":1.1,"pass_percentage":83.0,"extra":1},"failed_samples":0,"result_file_id":"file-1234","api_token":"sk-secret"}`: `! evaluation.completed @17:31:44 {"evaluation_id":"ID","evaluation_type":"score","results":{"failed_samples":0,"aggregated_scores":{"mean_score":7.9,"std_score":1.1,"pass_percentage":83},"result_file_id":"file-1234"},"result_file_id":"file-1234"}`,
		`"type":"CLASSIFY","status":"completed","results":{"generation_fail_count":"1","invalid_label_count":2.0,"pass_percentage":50,"label_counts":"{\"yes\": 3,\"no\":1}"}`:                             `! evaluation.completed @17:31:44 {"evaluation_id":"ID","evaluation_type":"classify","results":{"generation_fail_count":1,"invalid_label_count":2,"pass_percentage":50,"label_counts":"{\"yes\": 3,\"no\":1}"},"result_file_id":null}`,
		`"type":"compare","status":"completed","results":{"A_wins":3,"B_wins":1,"Ties":0,"judge_fail_count":0,"label_counts":"nonsense"}`:                                                                  `! evaluation.completed @17:31:44 {"evaluation_id":"ID","evaluation_type":"compare","results":{"judge_fail_count":0,"A_wins":3,"B_wins":1,"Ties":0},"result_file_id":null}`,
		`"status":"error","results":{"error":"judge broke https://s3/x?sig=1"}`:                                                                                                                            `! evaluation.failed @17:31:44 {"evaluation_id":"ID","error_message":"judge broke https://s3/x","error_class":"system","evaluation_type":"score"}`,
		`"status":"user_error","results":null,"status_updates":[{"status":"error","message":"for administrators"}]`:                                                                                        `! evaluation.failed @17:31:44 {"evaluation_id":"ID","error_message":"status=user_error","error_class":"user","evaluation_type":"score"}`,
		`"status":"error","results":[]`: `! evaluation.failed @17:31:44 {"evaluation_id":"ID","error_message":"status=error","error_class":"system","evaluation_type":"score"}`,
	} {
		p := provide(map[string]string{"/v1/evaluation": "[" + oneEval(members) + "]"})
		e := p.client(t, APIConfig{Transport: p}).Evaluations()
		job := only(t, e)
		if asked := p.requests(); asked[0] != "GET /v1/evaluation?limit=100" {
			t.Error(asked)
		}
		facts, _, err := tell(t, p, e, relay.Mark{Waits: relay.GiveUp})
		last, over := strings.CutPrefix(want, "! ")
		last, odd := strings.CutPrefix(last, "? ")
		var expected []string
		if last != "" {
			expected = append(expected, strings.ReplaceAll(last, "ID", evalID))
		}
		if diff := cmp.Diff(expected, short(facts)); diff != "" || err != nil || job.Over != over || (len(p.odd) > 0) != odd {
			t.Errorf("%s: %s, %v, over %v, odd %v", members, diff, err, job.Over, p.odd)
		}
	}
}

func TestEvaluationResultsAreAskedFor(t *testing.T) {
	t.Parallel()
	p := provide(map[string]string{
		"/v1/evaluation":           "[" + oneEval(`"status":"completed"`) + "]",
		"/v1/evaluation/" + evalID: oneEval(`"status":"completed","results":{"A_wins":1,"result_file_id":"f"}`),
	})
	e := p.serve(t).Evaluations()
	facts, asked, err := tell(t, p, e, relay.Mark{})
	if err != nil || len(asked) != 1 || !strings.Contains(string(facts[0].Event.CloudEvent.Data()), `"results":{"A_wins":1,"result_file_id":"f"},"result_file_id":"f"`) {
		t.Error(short(facts), asked, err)
	}
	p.set("/v1/evaluation/"+evalID, "#500 ")
	if facts, _, err := tell(t, p, e, relay.Mark{Waits: 1}); len(facts) > 0 || err == nil {
		t.Error(facts, err)
	}
	if facts, _, err := tell(t, p, e, relay.Mark{Waits: relay.MaxFailures}); len(facts) != 1 || err != nil || !strings.Contains(string(facts[0].Event.CloudEvent.Data()), `"results":null`) {
		t.Error(facts, err)
	}
	if _, err := e.Find(t.Context(), "eval-none"); !errors.Is(err, relay.ErrGone) {
		t.Error(err)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	one := func(members string) string {
		return `{"id":"file-1","object":"file","created_at":1782896400,"filename":"train.jsonl?sig=1","bytes":"1000","purpose":"fine-tune","Processed":true,"FileType":"jsonl"` + members + `}`
	}
	for members, want := range map[string]string{
		`,"processing_status":"PENDING"`:   "",
		`,"processing_status":"RUNNING"`:   "",
		`,"processing_status":"SCANNING"`:  "? ",
		`,"processing_status":"COMPLETED"`: `! file.processed {"file_id":"file-1","filename":"train.jsonl","purpose":"fine-tune","bytes":1000,"lines":null}`,
		`,"processing_status":"COMPLETED","validation_report":{"valid":true,"nlines":42,"dataset_format":"chat"}`:          `! file.processed {"file_id":"file-1","filename":"train.jsonl","purpose":"fine-tune","bytes":1000,"lines":42}`,
		`,"processing_status":"INVALID_FORMAT","validation_report":{"valid":false,"error":"line 3","error_type":"format"}`: `! file.invalid {"file_id":"file-1","error_message":"line 3","error_type":"format","filename":"train.jsonl","purpose":"fine-tune"}`,
		`,"processing_status":"FAILED"`: `! 1 file.failed {"file_id":"file-1","error_message":"by id","error_type":null,"filename":"train.jsonl","purpose":"fine-tune"}`,
	} {
		p := provide(map[string]string{
			"/v1/files":        `{"data":[` + one(members) + `,{"id":"file-2","purpose":"batch-api"},{"id":"file-3","processing_status":null}]}`,
			"/v1/files/file-1": one(`,"processing_status":"FAILED","validation_report":{"error":"by id"}`),
		})
		f := p.client(t, APIConfig{Transport: p}).Files()
		job := only(t, f)
		facts, asked, err := tell(t, p, f, relay.Mark{})
		last, over := strings.CutPrefix(want, "! ")
		last, odd := strings.CutPrefix(last, "? ")
		last, asks := strings.CutPrefix(last, "1 ")
		var got, expected []string
		for _, f := range facts {
			got = append(got, f.Key+" "+string(f.Event.CloudEvent.Data()))
		}
		if last != "" {
			expected = append(expected, last)
		}
		if diff := cmp.Diff(expected, got); diff != "" || err != nil || job.Over != over || (len(p.odd) > 0) != odd || (len(asked) > 0) != asks {
			t.Errorf("%s: %s, %v, over %v, odd %v, asked %v", members, diff, err, job.Over, p.odd, asked)
		}
	}
}

// leaks are words that no event may hold.
func leaks() []string {
	return []string{"sk-secret", "external_api_token", "kube_config", "X-Amz-Signature", "sig=", "customer text", testKey}
}

// Pitfall: secrets in answers. Whatever the provider adds to an object, no event has it.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	const junk = `"external_api_token":"sk-secret","kube_config":"x","environment_variables":{"A":"sk-secret"},"inputs":"customer text","url":"https://s3/x?X-Amz-Signature=1"`
	const signed = `"https://s3/x?X-Amz-Signature=1&sig=2"`
	p := provide(map[string]string{
		tunes:       tune(`"status":"error","model_output_path":` + signed + `,"model_output_name":null,` + junk),
		logPath:     logOf(line("job_error", "09:00:00", `"message":"lost `+strings.Trim(signed, `"`)+`",`+junk), line("checkpoint_save", "09:00:00", `"step":1,"checkpoint_path":`+signed)),
		savesPath:   logOf(`{"step":2,"path":` + signed + `,"checkpoint_type":"Final",` + junk + `}`),
		metricsPath: twoMetrics, "/v1/batches": "[" + oneBatch(`"status":"FAILED","output_file_id":"f","error":`+signed+`,`+junk) + "]",
		"/v1/evaluation": "[" + oneEval(`"status":"error","results":{"error":`+signed+`,`+junk+`},`+junk) + "]",
		"/v1/files":      `[{"id":"f","processing_status":"FAILED","filename":` + signed + `,"validation_report":{"error":` + signed + `,"error_type":` + signed + `,` + junk + `},` + junk + `}]`,
		"/v1/models":     `[{"id":"m","type":"chat","display_name":` + signed + `,` + junk + `}]`,
	})
	a := p.serve(t)
	models, err := a.Models(nil)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, of := range []relay.Resource{a.FineTunes(), a.Batches(0), a.Evaluations(), a.Files(), models} {
		facts, _, err := tell(t, p, of, relay.Mark{})
		if err != nil || len(facts) == 0 {
			t.Fatal(err)
		}
		for _, f := range facts {
			count++
			text := f.Event.CloudEvent.String() + f.Key
			if slices.ContainsFunc(leaks(), func(leak string) bool { return strings.Contains(text, leak) }) {
				t.Errorf("%s leaks: %s", f.Key, text)
			}
		}
	}
	if count < 8 {
		t.Error(count)
	}
}
