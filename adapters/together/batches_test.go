package together

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"together-relay/relay"
)

const batchID = "01234567-8901-2345-6789-012345678901"

// oneBatch is the body of a batch with these members; those that come last count.
func oneBatch(members string) string {
	return `{"id":"` + batchID + `","user_id":"u","endpoint":"/v1/chat/completions","model_id":"Qwen/Qwen3.5-9B",
		"input_file_id":"file-in","progress":100,"file_size_bytes":1056749,"created_at":"2026-07-01T21:14:25.429872Z",
		"job_deadline":"2126-07-02T21:14:25.429867Z","error":null,` + members + `}`
}

const ended = `"completed_at":"2026-07-01T23:08:52.900997Z"`

// Pitfall: a completed batch with an error file, with both files, and with no output.
func TestBatches(t *testing.T) {
	t.Parallel()
	const created = `batch.created @21:14:25 {"batch_id":"ID","model_id":"Qwen/Qwen3.5-9B","endpoint":"/v1/chat/completions","input_file_id":"file-in"}`
	const files = `"output_url_auth":"bearer","output_file_id":"file-out","error_file_id":"file-err","model_id":"Qwen/Qwen3.5-9B","endpoint":"/v1/chat/completions"}`
	const noFiles = `"output_url_auth":"bearer","output_file_id":null,"error_file_id":null,"model_id":"Qwen/Qwen3.5-9B","endpoint":"/v1/chat/completions"}`
	for members, want := range map[string]string{
		`"status":"VALIDATING"`:  "",
		`"status":"CANCELING"`:   "",
		`"status":"AGGREGATING"`: "? ",
		`"status":"COMPLETED","output_file_id":"file-out","error_file_id":"file-err",` + ended: `! batch.done @23:08:52 {"batch_id":"ID","output_url":"BASE/v1/files/file-out/content","total_tokens":null,` + files,
		`"status":"complete","error_file_id":null,` + ended:                                    `! batch.done @23:08:52 {"batch_id":"ID","output_url":null,"total_tokens":null,` + noFiles,
		`"status":"FAILED","error":"bad file\nhttps://s3/x?sig=1",` + ended:                    `! batch.failed @23:08:52 {"batch_id":"ID","error_message":"bad file https://s3/x","output_url":null,` + noFiles,
		`"status":"FAILED","error":{"message":"inner"},` + ended:                               `! batch.failed @23:08:52 {"batch_id":"ID","error_message":"inner","output_url":null,` + noFiles,
		`"status":"EXPIRED","output_file_id":"file-out","error_file_id":"file-err",` + ended:   `! batch.expired @23:08:52 {"batch_id":"ID","error_message":null,"output_url":"BASE/v1/files/file-out/content",` + files,
		`"status":"CANCELLED",` + ended:                                                        `! batch.cancelled @23:08:52 {"batch_id":"ID","error_message":null,"output_url":null,` + noFiles,
		`"status":"canceled",` + ended:                                                         `! batch.cancelled @23:08:52 {"batch_id":"ID","error_message":null,"output_url":null,` + noFiles,
	} {
		p := provide(map[string]string{"/v1/batches": "[" + oneBatch(members) + "]"})
		a := p.client(t, APIConfig{Transport: p})
		b := a.Batches(0)
		job := only(t, b)
		facts, asked, err := tell(t, p, b, relay.Mark{})
		last, over := strings.CutPrefix(want, "! ")
		last, odd := strings.CutPrefix(last, "? ")
		expected := []string{created}
		if last != "" {
			expected = append(expected, last)
		}
		for i := range expected {
			expected[i] = strings.NewReplacer("ID", batchID, "BASE", a.Base()).Replace(expected[i])
		}
		if diff := cmp.Diff(expected, short(facts)); diff != "" || err != nil || job.Over != over || len(asked) > 0 || (len(p.odd) > 0) != odd {
			t.Errorf("%s: %s, %v, over %v, asked %v, odd %v", members, diff, err, job.Over, asked, p.odd)
		}
		for _, f := range facts {
			if !f.Event.Shared || f.Event.Fact != "" || f.Event.Resource != batchID {
				t.Error(f)
			}
		}
	}
}

func TestBatchOverdue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // a bubble's clock starts at 2000
		p := provide(map[string]string{"/v1/batches": "[" + oneBatch(`"status":"IN_PROGRESS","progress":12.5,"job_deadline":"2000-01-01T01:00:00Z"`) + "]"})
		b := p.client(t, APIConfig{Transport: p}).Batches(0)
		before := only(t, b)
		mark := relay.Mark{Told: []string{"batch.created"}}
		facts, _, err := tell(t, p, b, mark)
		want := []string{`batch.in_progress @00:00:00 {"batch_id":"` + batchID + `","model_id":"Qwen/Qwen3.5-9B","endpoint":"/v1/chat/completions","input_file_id":"file-in"}`}
		if diff := cmp.Diff(want, short(facts)); diff != "" || err != nil {
			t.Error(diff, err)
		}
		mark.Told = append(mark.Told, keys(facts)...)
		time.Sleep(time.Hour + 1) //nolint:forbidigo // the bubble's clock
		after := only(t, b)
		if after.Change == before.Change || after.Over {
			t.Error("the deadline is no change, or is an end")
		}
		facts, _, err = tell(t, p, b, mark)
		want = []string{`batch.overdue @01:00:00 {"batch_id":"` + batchID + `","deadline":"2000-01-01T01:00:00Z","progress":12.5,"model_id":"Qwen/Qwen3.5-9B"}`}
		if diff := cmp.Diff(want, short(facts)); diff != "" || err != nil {
			t.Error(diff, err)
		}
		p.set("/v1/batches", "["+oneBatch(`"status":"COMPLETED","job_deadline":"2000-01-01T01:00:00Z"`)+"]")
		job := only(t, b)
		if facts, _, _ = tell(t, p, b, relay.Mark{}); keys(facts)[1] != "batch.done" || !job.Updated.Equal(time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC)) {
			t.Error(keys(facts), job.Updated)
		}
	})
}

func TestBatchChange(t *testing.T) {
	t.Parallel()
	p := provide(nil)
	b := p.serve(t).Batches(0)
	seen := map[string]string{}
	for _, members := range []string{
		`"status":"IN_PROGRESS","progress":1`, `"status":"IN_PROGRESS","progress":2`, `"status":"COMPLETED","progress":2`,
		`"status":"COMPLETED","progress":2,"output_file_id":"f"`, `"status":"COMPLETED","progress":2,"error_file_id":"f"`, `"status":"COMPLETED","progress":2,` + ended,
	} {
		p.set("/v1/batches", "["+oneBatch(members)+"]")
		change := only(t, b).Change
		if other, ok := seen[change]; ok {
			t.Errorf("%s looks like %s", members, other)
		}
		seen[change] = members
	}
}

const (
	okLine    = `{"custom_id":"request-1","response":{"status_code":200,"body":{"choices":[{"message":{"content":"Hello!"}}],"usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15}}}}` + "\n"
	errorLine = `{"custom_id":"req-1","error":{"message":"Invalid model specified","code":"invalid_model"}}` + "\n"
	audioLine = `{"custom_id":"req-1","response":{"status_code":200,"body":{"text":"hi","duration":3.5}}}` + "\n"
)

func TestTokensAreCounted(t *testing.T) {
	t.Parallel()
	content := "/v1/files/file-out/content"
	for _, c := range []struct {
		name, body string
		limit      int64
		want       string
	}{
		{"sum", okLine + errorLine + "\n" + okLine, 10000, "30"},
		{"no end of line", okLine + strings.TrimSpace(okLine), 10000, "30"},
		{"as text", `{"response":{"body":{"usage":{"total_tokens":"7"}}}}`, 10000, "7"},
		{"off", okLine, 0, "null"},
		{"at the cap", okLine, int64(len(okLine)), "15"},
		{"beyond the cap", okLine, int64(len(okLine)) - 1, "null"},
		{"audio", audioLine, 10000, "null"},
		{"empty", "", 10000, "0"},
		{"unreadable", okLine + "nonsense\n", 10000, "null"},
		{"cut off", okLine + okLine[:40], 10000, "null"},
		{"negative", `{"response":{"body":{"usage":{"total_tokens":-7}}}}`, 10000, "null"},
		{"long line", strings.Repeat(" ", 200<<10) + okLine, 1 << 20, "15"},
		{"gone", "#404 {}", 10000, "null"},
	} {
		p := provide(map[string]string{"/v1/batches": "[" + oneBatch(`"status":"COMPLETED","output_file_id":"file-out",`+ended) + "]", content: c.body})
		b := p.serve(t).Batches(c.limit)
		facts, asked, err := tell(t, p, b, relay.Mark{Told: []string{"batch.created"}})
		if err != nil || len(facts) != 1 || !strings.Contains(string(facts[0].Event.CloudEvent.Data()), `"total_tokens":`+c.want+`,`) {
			t.Errorf("%s: %v, %v", c.name, short(facts), err)
		}
		if (len(asked) > 0) != (c.limit > 0) {
			t.Errorf("%s: it asked %v", c.name, asked)
		}
		job := only(t, b)
		job.Brief = true
		p.requests()
		if facts, err := b.Tell(t.Context(), job, relay.Mark{}); len(facts) != 2 || err != nil || len(p.requests()) > 0 {
			t.Error("a brief look reads the output")
		}
	}
}

func TestTokensThatFail(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"#502 <html>", "#429 {}"} {
		p := provide(map[string]string{"/v1/batches": "[" + oneBatch(`"status":"COMPLETED","output_file_id":"file-out"`) + "]", "/v1/files/file-out/content": answer})
		b := p.client(t, APIConfig{Transport: p}).Batches(1000)
		facts, _, err := tell(t, p, b, relay.Mark{})
		if diff := cmp.Diff([]string{"batch.created"}, keys(facts)); diff != "" || err == nil {
			t.Error(answer, diff, err)
		}
		facts, _, err = tell(t, p, b, relay.Mark{Waits: relay.GiveUp})
		if later := answer == "#429 {}"; later != errors.As(err, new(*relay.Later)) || later == (len(facts) == 2) {
			t.Error(answer, keys(facts), err)
		}
	}
}

// An output is never whole in memory: this one is longer than a test may hold.
func TestOutputIsStreamed(t *testing.T) {
	t.Parallel()
	const lines = 20_000
	p := &provider{does: map[string]http.HandlerFunc{"/v1/files/f/content": func(w http.ResponseWriter, _ *http.Request) {
		for range lines {
			fmt.Fprint(w, okLine)
		}
	}}}
	b := p.serve(t).Batches(1 << 30)
	n, err := b.countTokens(t.Context(), "f")
	if err != nil || n == nil || *n != 15*lines {
		t.Error(n, err)
	}
}

func TestBatchFind(t *testing.T) {
	t.Parallel()
	p := provide(map[string]string{"/v1/batches/" + batchID: oneBatch(`"status":"FAILED"`)})
	b := p.serve(t).Batches(0)
	if job, err := b.Find(t.Context(), batchID); err != nil || !job.Over {
		t.Error(job, err)
	}
	if _, err := b.Find(t.Context(), "batch-none"); !errors.Is(err, relay.ErrGone) {
		t.Error(err)
	}
	p.set("/v1/batches", "null")
	if jobs, err := b.List(t.Context(), 3); len(jobs) > 0 || err != nil {
		t.Error(jobs, err)
	}
}
