package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// driftedStream makes the stream TOGETHER as the relay would, but for what change does.
func driftedStream(t *testing.T, change func(*jetstream.StreamConfig)) (url string, look func() jetstream.StreamConfig) {
	t.Helper()
	url = runNATS(t, server.Options{}).ClientURL()
	js := connect(t, url)
	cfg := jetstream.StreamConfig{
		Name: "TOGETHER", Subjects: []string{"together.>"}, Discard: jetstream.DiscardNew,
		MaxAge: 720 * time.Hour, Duplicates: 72 * time.Hour, AllowDirect: true,
	}
	change(&cfg)
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return url, func() jetstream.StreamConfig {
		stream, err := js.Stream(t.Context(), "TOGETHER")
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().Config
	}
}

func TestHarmlessDriftIsAWarning(t *testing.T) {
	t.Parallel()
	url, look := driftedStream(t, func(cfg *jetstream.StreamConfig) { cfg.MaxAge = 100 * time.Hour })
	p := launch{env: append([]string{"NATS_URL=" + url}, withSecret...)}.start(t).waitReady(t)
	line := p.waitLog(t, "stream differs from the configuration; serve --provision=apply changes it")
	if line["level"] != "warn" || line["setting"] != "max_age" || line["have"] != "100h0m0s" || line["want"] != "720h0m0s" {
		t.Errorf("log line %v, want the setting and both values", line)
	}
	p.mustSend(t, newBody("evt_1"), http.StatusOK)
	if age := look().MaxAge; age != 100*time.Hour {
		t.Errorf("max age is %s now, it was changed silently", age)
	}
}

func TestDriftThatBreaksAPromise(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*jetstream.StreamConfig)
		says   string
	}{
		{"memory", func(cfg *jetstream.StreamConfig) { cfg.Storage = jetstream.MemoryStorage },
			"stream TOGETHER: storage is Memory, configured is File"},
		{"window", func(cfg *jetstream.StreamConfig) { cfg.Duplicates = time.Hour },
			"stream TOGETHER: duplicate_window is 1h0m0s, configured is 72h0m0s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url, _ := driftedStream(t, test.change)
			p := launch{env: append([]string{"NATS_URL=" + url}, withSecret...)}.start(t)
			p.waitLine(t, test.says, func(line map[string]any) bool {
				why, _ := line["error"].(string)
				return line["message"] == "cannot store; trying again" && strings.Contains(why, test.says)
			})
			if status, why := p.get(t, p.url+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(why, test.says) {
				t.Errorf("/readyz is %d %s, want 503 and why", status, why)
			}
			if a := p.mustSend(t, newBody("evt_1"), http.StatusServiceUnavailable); a.Header.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
			if n := len(messages(t, url, "TOGETHER")); n != 0 {
				t.Errorf("%d messages in the stream, want none", n)
			}
		})
	}
}

func TestProvisionApplyChangesTheStream(t *testing.T) {
	t.Parallel()
	url, look := driftedStream(t, func(cfg *jetstream.StreamConfig) {
		cfg.Duplicates, cfg.MaxAge, cfg.Discard, cfg.MaxMsgs = time.Hour, 100*time.Hour, jetstream.DiscardOld, 10
	})
	p := launch{env: append([]string{"NATS_URL=" + url}, withSecret...), args: []string{"--provision=apply"}}.start(t).waitReady(t)
	p.waitLine(t, "the window was changed", func(line map[string]any) bool {
		return line["message"] == "stream changed" && line["setting"] == "duplicate_window" && line["from"] == "1h0m0s" && line["to"] == "72h0m0s"
	})
	p.mustSend(t, newBody("evt_1"), http.StatusOK)
	if cfg := look(); cfg.Duplicates != 72*time.Hour || cfg.MaxAge != 720*time.Hour || cfg.Discard != jetstream.DiscardNew || cfg.MaxMsgs != -1 {
		t.Errorf("the stream is %+v, want what is configured", cfg)
	}
}

func TestProvisionCheckMakesNothing(t *testing.T) {
	t.Parallel()
	ns := runNATS(t, server.Options{})
	p := launch{env: append([]string{"NATS_URL=" + ns.ClientURL()}, withSecret...), args: []string{"--provision=check"}}.start(t)
	p.waitLog(t, "cannot store; trying again")
	if status, _ := p.get(t, p.url+"/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz is %d, want 503", status)
	}
	p.mustSend(t, newBody("evt_1"), http.StatusServiceUnavailable)
	for name := range connect(t, ns.ClientURL()).StreamNames(t.Context()).Name() {
		t.Errorf("stream %s was made", name)
	}
}
