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

const (
	catalogue = `[{"id":"zai-org/GLM-5","object":"model","created":0,"type":"chat","display_name":"GLM 5","pricing":{}},
		{"id":"Qwen/Qwen3.5-9B","type":"chat"},{"id":"black-forest-labs/FLUX","type":null,"display_name":null},{"id":"zai-org/GLM-5"}]`
	supportedOne = `{"data":[{"id":"sm_1","name":"zai-org/GLM-5","serverlessEndpoint":"ep_zai-org_GLM-5","status":"SUPPORTED_MODEL_STATUS_DEPRECATED","products":["PRODUCT_SERVERLESS","PRODUCT_FINE_TUNING","PRODUCT_RESERVED"],"updatedAt":"2026-06-01T00:00:00Z"}],"next_cursor":"c2"}`
	supportedTwo = `{"data":[{"name":"black-forest-labs/FLUX-hf","serverlessEndpoint":"black-forest-labs/FLUX","status":"SUPPORTED_MODEL_STATUS_DEPRECATED","products":["PRODUCT_SERVERLESS"]},
		{"name":"old/dedicated-only","status":"supported_model_status_deprecated","products":["PRODUCT_DEDICATED"]},"what",{"status":"DEPRECATED"},{"name":"x","status":"NEW"}],"next_cursor":""}`
)

// day0 is the day in which a bubble's clock starts.
const day0 = "2000-01-01"

// timely runs a test in a bubble, with a client that needs no network.
func timely(t *testing.T, says map[string]string, test func(*testing.T, *provider, *API)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := provide(says)
		test(t, p, p.client(t, APIConfig{Transport: p}))
	})
}

func tellAll(t *testing.T, of relay.Resource, known int, mark relay.Mark) (all []string) {
	t.Helper()
	jobs, err := of.List(t.Context(), known)
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range jobs {
		facts, err := of.Tell(t.Context(), job, mark)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range short(facts) {
			all = append(all, job.ID+": "+s)
		}
	}
	return all
}

func TestModels(t *testing.T) {
	t.Parallel()
	timely(t, map[string]string{"/v1/models": catalogue, "/v2/supported-models": supportedTwo}, func(t *testing.T, p *provider, a *API) {
		p.says["/v2/supported-models"] = supportedOne
		m, err := a.Models([]Deprecation{
			{Model: "Qwen/Qwen3.5-9B", Replacement: "Qwen/Qwen4", Sunset: "2000-01-01"},
			{Model: "Qwen/Qwen3.5-9B", Product: "Dedicated", Sunset: "1999-12-31"},
			{Model: "never/listed"},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			`zai-org/GLM-5: model.added day=2000-01-01 @00:00:00 {"model_id":"zai-org/GLM-5","model_type":"chat","display_name":"GLM 5"}`,
			`zai-org/GLM-5: model.deprecated product=fine_tuning;sunset=none @00:00:00 {"model_id":"zai-org/GLM-5","replacement_model":null,"sunset_date":null,"product":"fine_tuning","source":"supported_models","confidence":"catalog_flag"}`,
			`zai-org/GLM-5: model.deprecated product=serverless;sunset=none @00:00:00 {"model_id":"zai-org/GLM-5","replacement_model":null,"sunset_date":null,"product":"serverless","source":"supported_models","confidence":"catalog_flag"}`,
			`Qwen/Qwen3.5-9B: model.added day=2000-01-01 @00:00:00 {"model_id":"Qwen/Qwen3.5-9B","model_type":"chat","display_name":null}`,
			`Qwen/Qwen3.5-9B: model.deprecated product=dedicated;sunset=1999-12-31 @00:00:00 {"model_id":"Qwen/Qwen3.5-9B","replacement_model":null,"sunset_date":"1999-12-31","product":"dedicated","source":"operator","confidence":"documented"}`,
			`Qwen/Qwen3.5-9B: model.deprecated product=serverless;sunset=2000-01-01 ahead @00:00:00 {"model_id":"Qwen/Qwen3.5-9B","replacement_model":"Qwen/Qwen4","sunset_date":"2000-01-01","product":"serverless","source":"operator","confidence":"documented"}`,
			`black-forest-labs/FLUX: model.added day=2000-01-01 @00:00:00 {"model_id":"black-forest-labs/FLUX","model_type":null,"display_name":null}`,
			`~never/listed: model.deprecated product=serverless;sunset=none ahead @00:00:00 {"model_id":"never/listed","replacement_model":null,"sunset_date":null,"product":"serverless","source":"operator","confidence":"documented"}`,
		}
		if diff := cmp.Diff(want, tellAll(t, m, 0, relay.Mark{First: time.Now()})); diff != "" {
			t.Error(diff)
		}
		if asked := p.requests(); len(asked) != 3 || asked[2] != "GET /v2/supported-models?after=c2&limit=100" {
			t.Error(asked)
		}
	})
}

func TestSupportedModelsHavePages(t *testing.T) {
	t.Parallel()
	timely(t, map[string]string{"/v1/models": catalogue}, func(t *testing.T, p *provider, a *API) {
		m, _ := a.Models([]Deprecation{{Model: "zai-org/GLM-5", Product: ProductDedicated, Replacement: "zai-org/GLM-6", Sunset: "2026-06-22"}})
		p.set("/v2/supported-models", supportedTwo)
		last := tellAll(t, m, 0, relay.Mark{First: time.Now()})
		if want := `~old/dedicated-only: model.deprecated product=dedicated;sunset=none @00:00:00 {"model_id":"old/dedicated-only","replacement_model":null,"sunset_date":null,"product":"dedicated","source":"supported_models","confidence":"catalog_flag"}`; last[len(last)-1] != want {
			t.Error(last)
		}
		if !strings.Contains(strings.Join(last, "\n"), "black-forest-labs/FLUX: model.deprecated product=serverless;sunset=none") {
			t.Error(last)
		}
		if len(p.odd) != 2 || !strings.Contains(p.odd[1], `"new"`) {
			t.Error(p.odd)
		}
		// What the operator says of one product is not said of another.
		p.set("/v2/supported-models", supportedOne)
		all := strings.Join(tellAll(t, m, 0, relay.Mark{First: time.Now()}), "\n")
		for _, want := range []string{
			`product=serverless;sunset=none @00:00:00 {"model_id":"zai-org/GLM-5","replacement_model":null,"sunset_date":null,"product":"serverless","source":"supported_models","confidence":"catalog_flag"}`,
			`product=dedicated;sunset=2026-06-22 ahead`,
		} {
			if !strings.Contains(all, want) {
				t.Errorf("%s\nis not in\n%s", want, all)
			}
		}
		// A provider that goes on for ever is not followed.
		n := 0
		p.does = map[string]http.HandlerFunc{"/v2/supported-models": func(w http.ResponseWriter, _ *http.Request) {
			n++
			fmt.Fprintf(w, `{"data":[],"next_cursor":"c%d"}`, n)
		}}
		if _, err := m.List(t.Context(), 0); err != nil || n != maxPages {
			t.Error(n, err)
		}
	})
}

func TestModelsWithoutSupportedModels(t *testing.T) {
	t.Parallel()
	for answer, fine := range map[string]bool{"#404 {}": true, "#403 {}": true, "#500 ": false, "#429 ": false, "<html>": false} {
		timely(t, map[string]string{"/v1/models": catalogue, "/v2/supported-models": answer}, func(t *testing.T, _ *provider, a *API) {
			m, _ := a.Models(nil)
			if jobs, err := m.List(t.Context(), 0); (err == nil) != fine || fine && len(jobs) != 3 {
				t.Error(answer, jobs, err)
			}
		})
	}
}

// Pitfall: a catalogue that is empty, or has shrunk a lot, is not believed.
func TestShrunkenCatalogue(t *testing.T) {
	t.Parallel()
	timely(t, map[string]string{"/v1/models": catalogue}, func(t *testing.T, p *provider, a *API) {
		m, _ := a.Models(nil)
		for known, fine := range map[int]bool{0: true, 3: true, 4: true, 5: false, 400: false} {
			if _, err := m.List(t.Context(), known); (err == nil) != fine || errors.As(err, new(*relay.Later)) {
				t.Error(known, err)
			}
		}
		for _, body := range []string{"[]", "null", `{"data":[]}`, `[{}]`} {
			p.set("/v1/models", body)
			if _, err := m.List(t.Context(), 0); err == nil {
				t.Error(body)
			}
		}
	})
}

func TestModelThatIsGone(t *testing.T) {
	t.Parallel()
	timely(t, nil, func(t *testing.T, _ *provider, a *API) {
		m, _ := a.Models(nil)
		gone := time.Date(2000, 1, 3, 23, 30, 0, 0, time.FixedZone("", -3600)) // the 4th in UTC
		removed := `model.removed day=2000-01-04 @00:30:00 {"model_id":"a/b","model_type":null}`
		for told, want := range map[string][]string{
			"model.added day=" + day0: {`model.deprecated product=serverless;sunset=none @00:30:00 {"model_id":"a/b","replacement_model":null,"sunset_date":null,"product":"serverless","source":"catalogue","confidence":"disappeared"}`, removed},
			"model.added day=" + day0 + "|model.deprecated product=dedicated;sunset=none": {removed},
			"": nil,
		} {
			mark := relay.Mark{Told: strings.Split(told, "|"), Gone: gone}
			facts, err := m.Tell(t.Context(), relay.Job{ID: "a/b", Gone: true, Over: true}, mark)
			if diff := cmp.Diff(want, short(facts)); diff != "" || err != nil {
				t.Error(told, diff, err)
			}
		}
		if _, err := m.Find(t.Context(), "a/b"); !errors.Is(err, relay.ErrGone) {
			t.Error(err)
		}
	})
}

// A model that was there at the first look is no news, however far that looks back.
func TestModelThatWasThereBefore(t *testing.T) {
	t.Parallel()
	timely(t, map[string]string{"/v1/models": catalogue}, func(t *testing.T, _ *provider, a *API) {
		m, _ := a.Models(nil)
		jobs, _ := m.List(t.Context(), 0)
		since := time.Now().AddDate(-20, 0, 0)
		job := jobs[0]
		job.Brief = true
		facts, err := m.Tell(t.Context(), job, relay.Mark{First: time.Now()})
		if err != nil || !job.Updated.Before(since) || len(facts) != 1 || facts[0].Key != "model.added day="+day0 || !facts[0].Event.CloudEvent.Time().Before(since) {
			t.Error(job, short(facts), err)
		}
	})
}

func TestModelChange(t *testing.T) {
	t.Parallel()
	timely(t, map[string]string{"/v1/models": catalogue}, func(t *testing.T, p *provider, a *API) {
		m, _ := a.Models(nil)
		before, _ := m.List(t.Context(), 0)
		again, _ := m.List(t.Context(), 0)
		p.set("/v2/supported-models", strings.Replace(supportedOne, "c2", "", 1))
		flagged, _ := m.List(t.Context(), 0)
		m, _ = a.Models([]Deprecation{{Model: "zai-org/GLM-5", Sunset: "2026-06-22"}})
		dated, _ := m.List(t.Context(), 0)
		if before[0].Change != again[0].Change || before[0].Change == flagged[0].Change || flagged[0].Change == dated[0].Change || before[0].Over {
			t.Error(before, again, flagged, dated)
		}
	})
}

func TestDeprecationTableIsChecked(t *testing.T) {
	t.Parallel()
	a := provide(nil).serve(t)
	for _, bad := range []Deprecation{{}, {Model: "a", Product: "magic"}, {Model: "a", Sunset: "tomorrow"}, {Model: "a", Sunset: "2026-06-22T00:00:00Z"}} {
		if _, err := a.Models([]Deprecation{bad}); err == nil {
			t.Error(bad)
		}
	}
}

// A date that moves is news; see what a webhook can tell, too.
func TestSharedFacts(t *testing.T) {
	t.Parallel()
	a := provide(nil).serve(t)
	for _, c := range []struct{ typ, discriminator, want string }{
		{"fine_tune.completed", "", ""},
		{typeCheckpoint, "step=48;kind=final", "step=48"},
		{typeDeprecated, "product=serverless;sunset=2026-06-22", "product=serverless;sunset=2026-06-22"},
		{"fine_tune.restarted", "at=2026-07-01T09:00:00Z;n=2", "at=2026-07-01T09:00:00Z;n=2"},
		{"model.added", "day=2026-07-01", "day=2026-07-01"},
	} {
		f := a.origin.fact(c.typ, "r", c.discriminator, time.Time{}, struct{}{})
		if f.Event.Fact != c.want || !f.Event.Shared || f.Key != strings.TrimSpace(c.typ+" "+c.discriminator) {
			t.Errorf("%+v: %q", c, f.Event.Fact)
		}
	}
}

// What a webhook brings is the same fact as what the API tells.
func TestWebhookFacts(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`"type":"batch.done","data":{"batch_id":"b"}`:                                            "true ",
		`"type":"fine_tune.completed","data":{"id":"b"}`:                                         "true ",
		`"type":"fine_tune.checkpoint","data":{"fine_tune_id":"b","step":48,"loss":1}`:           "true step=48",
		`"type":"fine_tune.checkpoint","data":{"fine_tune_id":"b","step":1,"step":2}`:            "true step=2",
		`"type":"fine_tune.checkpoint","data":{"fine_tune_id":"b","step":48.5}`:                  "false ",
		`"type":"fine_tune.checkpoint","data":{"fine_tune_id":"b","step":"48"}`:                  "false ",
		`"type":"fine_tune.checkpoint","data":{"fine_tune_id":"b"}`:                              "false ",
		`"type":"model.deprecated","data":{"model_id":"b","sunset_date":"2026-06-22T00:00:00Z"}`: "true sunset=2026-06-22",
		`"type":"model.deprecated","data":{"model_id":"b","sunset_date":"2026-06-22"}`:           "true sunset=2026-06-22",
		`"type":"model.deprecated","data":{"model_id":"b","sunset_date":null}`:                   "true sunset=none",
		`"type":"model.deprecated","data":{"model_id":"b"}`:                                      "true sunset=none",
		`"type":"model.deprecated","data":{"model_id":"b","product":"PRODUCT_Dedicated"}`:        "true product=dedicated;sunset=none",
		`"type":"model.deprecated","data":{"model_id":"b","product":"a;sunset=b"}`:               "true sunset=none",
		`"type":"model.deprecated","data":{"model_id":"b","product":7}`:                          "true sunset=none",
		`"type":"fine_tune.restarted","data":{"fine_tune_id":"b"}`:                               "false ",
		`"type":"model.added","data":{"model_id":"b"}`:                                           "false ",
		`"type":"novel.thing","data":{"novel_id":"b"}`:                                           "false ",
		`"type":"batch.done","data":{}`:                                                          "false ",
	} {
		ev, err := Read([]byte(`{"id":"evt_1",` + body + `}`))
		if got := fmt.Sprintf("%v %s", ev.Shared, ev.Fact); err != nil || got != want {
			t.Errorf("%s: %q, %v", body, got, err)
		}
	}
}

func TestWebhookFactCostsNothing(t *testing.T) {
	env, err := readEnvelope([]byte(`{"id":"evt_1","type":"batch.done","data":{"batch_id":"b"}}`))
	if n := testing.AllocsPerRun(100, func() { told(&env) }); n > 0 || err != nil {
		t.Errorf("%v allocations for a fact that happens once", n)
	}
}
