package main

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDevKeepsItsSecret(t *testing.T) {
	t.Parallel()
	dev := launch{args: []string{"--dev", "--log-format=json"}}
	p := dev.start(t).waitReady(t)
	for _, name := range []string{"dev-secret", "running.json"} {
		info, err := os.Stat(filepath.Join(p.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode(); mode != fs.FileMode(0o600) {
			t.Errorf("%s has mode %s, want it readable by its owner only", name, mode)
		}
	}
	text, err := os.ReadFile(filepath.Join(p.dir, "dev-secret"))
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimSpace(string(text))
	if len(secret) < 32 {
		t.Errorf("the secret has %d characters, want more", len(secret))
	}
	p.mustAnswer(t, secret, newBody("evt_1"), http.StatusOK)
	for what, text := range map[string]string{"log": p.log.String(), "banner": p.out.String()} {
		if strings.Contains(text, secret) {
			t.Errorf("the %s says the secret", what)
		}
	}
	p.stop(t)

	dev.dir = p.dir
	again := dev.start(t).waitReady(t)
	again.mustAnswer(t, secret, newBody("evt_2"), http.StatusOK)
}

// Further sources in relay.yaml do not keep the verbs from finding the secret.
func TestDevSecretBesideOtherSources(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "relay.yaml"), "sources: {gateway: {secrets: [gateway]}}")
	p := launch{args: []string{"--dev", "--log-format=json"}, env: []string{"RELAY_CONFIG=" + file}}.start(t).waitReady(t)
	for _, source := range []string{"together", "gateway"} {
		if r := p.verb(t, "trigger", "batch.done", "--source="+source); r.code != 0 {
			t.Errorf("trigger --source=%s: %+v", source, r)
		}
	}
}

func TestBannerLinesCanBePasted(t *testing.T) {
	t.Parallel()
	p := launch{args: []string{"--dev", "--log-format=json"}}.start(t).waitReady(t)
	eventually(t, "the banner", func() bool { return strings.Contains(p.out.String(), "nats --server "+p.nats+" sub 'together.>'") })
	var pasted bool
	for line := range strings.Lines(p.out.String()) {
		words := strings.Fields(line)
		if len(words) < 2 || words[1] != "trigger" {
			continue
		}
		pasted = true
		if r := p.verb(t, words[1:]...); r.code != 0 {
			t.Errorf("%s: %+v", strings.TrimSpace(line), r)
		}
	}
	if !pasted {
		t.Errorf("no line with trigger:\n%s", p.out)
	}
}

func TestAdminAddressIsNotThePublicOne(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t)
	for url, want := range map[string]int{
		p.admin + "/metrics":            http.StatusOK,
		p.admin + "/debug/pprof/":       http.StatusNotFound, // nobody asked for it
		p.admin + "/webhooks/together":  http.StatusNotFound,
		p.url + "/metrics":              http.StatusNotFound,
		p.url + "/debug/pprof/":         http.StatusNotFound,
		p.url + "/healthz":              http.StatusOK,
		p.url + "/schemas/":             http.StatusOK,
		p.url + "/schemas/nothing.json": http.StatusNotFound,
		p.url + "/asyncapi.yaml":        http.StatusOK,
	} {
		if status, _ := p.get(t, url); status != want {
			t.Errorf("%s is %d, want %d", url, status, want)
		}
	}
	profiled := launch{env: withSecret, args: []string{"--pprof"}}.start(t)
	if status, _ := profiled.get(t, profiled.admin+"/debug/pprof/"); status != http.StatusOK {
		t.Errorf("/debug/pprof/ is %d with --pprof, want 200", status)
	}
}
