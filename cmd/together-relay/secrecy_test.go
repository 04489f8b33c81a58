package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// hidden is in every secret of the test, and in every body where it is nobody's business.
const hidden = "hunter2"

// mustNotSay fails if the relay wrote what was hidden, or any of the words.
func (p *process) mustNotSay(t *testing.T, words ...string) {
	t.Helper()
	_, metrics := p.get(t, p.admin+"/metrics")
	for _, word := range append(words, hidden) {
		for what, text := range map[string]string{"log": p.log.String(), "output": p.out.String(), "metrics": metrics} {
			if strings.Contains(text, word) {
				t.Errorf("the %s says %q", what, word)
			}
		}
	}
}

func TestBodiesAreNeverLogged(t *testing.T) {
	t.Parallel()
	p := launch{env: []string{"TOGETHER_WEBHOOK_SECRET=" + secret + "," + hidden}, args: []string{"--log-level=trace", "--max-body=2000"}}.start(t).waitReady(t)
	var signatures []string
	for name, test := range map[string]struct {
		body   string
		status int
	}{
		"stored":    {`{"id":"evt_1","type":"batch.done","data":{"batch_id":"b-1","output_url":null,"total_tokens":1,"hunter2":"hunter2"},"hunter2":["hunter2"]}`, 200},
		"schema":    {`{"id":"evt_2","type":"batch.done","data":{"batch_id":"b-1","output_url":"hunter2 hunter2","total_tokens":"hunter2"}}`, 202},
		"no object": {`{"id":"evt_3","type":"batch.done","data":"hunter2"}`, 202},
		"no id":     {`{"type":"hunter2","data":{}}`, 202},
		"bad type":  {`{"id":"evt_4","type":"hunter2..hunter2","data":{}}`, 202},
		"cut off":   {`{"id":"evt_5","hunter2":"hunter2`, 202},
		"no JSON":   {`hunter2`, 202},
		"no UTF-8":  {"{\"hunter2\":\"\xff\"}", 202},
		"too large": {`{"id":"` + strings.Repeat(hidden, 1000) + `"}`, 413},
	} {
		signatures = append(signatures, sign(hidden, []byte(test.body)))
		if a, err := p.send(hidden, []byte(test.body)); err != nil || a.Status != test.status {
			t.Errorf("%s: the answer is %+v, %v; want %d", name, a, err, test.status)
		}
	}
	// Neither is what comes with a wrong signature, nor the one that had been right.
	body := []byte(`{"id":"hunter2","type":"hunter2","data":{"hunter2":"hunter2"}}`)
	for _, wrong := range []string{"", "hunter2", sign("hunter3", body)} {
		p.mustDeliver(t, "together", body, signature(wrong), http.StatusUnauthorized)
	}
	p.mustNotSay(t, append(signatures, sign(hidden, body), sign(secret, body))...)
}

func TestSecretsAreNeverLogged(t *testing.T) {
	t.Parallel()
	ns := runNATS(t, server.Options{Username: "relay", Password: hidden})
	url := strings.Replace(ns.ClientURL(), "nats://", "nats://relay:"+hidden+"@", 1)
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "sources: {other: {secrets: [hunter2]}}")
	// It refuses the key, and says which it was.
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, r.Header.Get("Authorization"), http.StatusUnauthorized)
	}))
	t.Cleanup(api.Close)
	p := launch{env: []string{
		"NATS_URL=" + url, "TOGETHER_WEBHOOK_SECRET=" + hidden, "TOGETHER_API_KEY=" + hidden, "TOGETHER_BASE_URL=" + api.URL, "RELAY_CONFIG=" + file,
	}, args: []string{"--log-level=trace"}}.start(t).waitReady(t)

	writeFile(t, file, "sources: {other: {secrets: hunter2}}")
	p.signal(t, syscall.SIGHUP)
	p.waitLog(t, "configuration not read again; the old one stays")
	endNATS(ns)
	eventually(t, "not ready", func() bool {
		status, why := p.get(t, p.url+"/readyz")
		if strings.Contains(why, hidden) {
			t.Fatalf("/readyz says %s", why)
		}
		return status == http.StatusServiceUnavailable
	})
	p.mustNotSay(t)
	for _, verb := range []string{"events", "config", "health"} {
		if r := p.verb(t, verb); strings.Contains(r.stdout+r.stderr, hidden) {
			t.Errorf("%s says a secret: %+v", verb, r)
		}
	}
}

// A password in the address of the API is refused, and not said.
func TestPasswordInTheAddressOfTheAPI(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	for verb, code := range map[string]int{"config": exitDone, "reconcile": exitUsage, "webhooks ls": exitUsage} {
		cmd, stdout, stderr := p.newVerb(t, strings.Fields(verb)...)
		cmd.Env = append(cmd.Env, "TOGETHER_API_KEY=key", "TOGETHER_BASE_URL=https://user:"+hidden+"@127.0.0.1:1/")
		_ = cmd.Run()
		if said := stdout.String() + stderr.String(); strings.Contains(said, hidden) || cmd.ProcessState.ExitCode() != code {
			t.Errorf("%s: exit code %d, %s", verb, cmd.ProcessState.ExitCode(), said)
		}
	}
}

func TestWrongNATSPasswordIsNotSaid(t *testing.T) {
	t.Parallel()
	ns := runNATS(t, server.Options{Username: "relay", Password: "another"})
	url := strings.Replace(ns.ClientURL(), "nats://", "nats://relay:"+hidden+"@", 1)
	p := launch{env: append([]string{"NATS_URL=" + url}, withSecret...), args: []string{"--log-level=trace"}}.start(t)
	p.waitLog(t, "cannot store; trying again")
	if status, why := p.get(t, p.url+"/readyz"); status != http.StatusServiceUnavailable || strings.Contains(why, hidden) {
		t.Errorf("/readyz is %d %s", status, why)
	}
	p.mustNotSay(t)
	if r := p.verb(t, "events"); r.code != 1 || strings.Contains(r.stdout+r.stderr, hidden) {
		t.Errorf("events: %+v, want exit code 1 and no secret", r)
	}
}

func TestNATSTokenIsNeverLogged(t *testing.T) {
	t.Parallel()
	ns := runNATS(t, server.Options{Authorization: hidden})
	url := strings.Replace(ns.ClientURL(), "nats://", "nats://"+hidden+"@", 1)
	p := launch{env: append([]string{"NATS_URL=" + url}, withSecret...)}.start(t).waitReady(t)
	p.mustNotSay(t)
	for _, verb := range []string{"events", "config"} {
		if r := p.verb(t, verb); r.code != 0 || strings.Contains(r.stdout+r.stderr, hidden) {
			t.Errorf("%s: %+v", verb, r)
		}
	}
}
