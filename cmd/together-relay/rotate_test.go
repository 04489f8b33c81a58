package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// waitActive blocks until the relay knows so many secrets of the source.
func (p *process) waitActive(t *testing.T, source string, n int) {
	t.Helper()
	p.waitLine(t, fmt.Sprintf("%d secrets of %s are active", n, source), func(line map[string]any) bool {
		return line["message"] == "secrets changed" && line["source"] == source && line["active"] == float64(n)
	})
}

// mustTake fails for any answer that is not 200.
func mustTake(t *testing.T, answers map[string]int) {
	t.Helper()
	for id, status := range answers {
		if status != http.StatusOK {
			t.Errorf("%s was answered %d, want 200", id, status)
		}
	}
}

func (p *process) mustAnswer(t *testing.T, secret string, body []byte, status int) {
	t.Helper()
	if a, err := p.send(secret, body); err != nil || a.Status != status {
		t.Errorf("signed with %q the answer is %d, %v; want %d", secret, a.Status, err, status)
	}
}

// rotate is the same for all ways of telling the relay: say makes it the active secrets.
func rotate(t *testing.T, p *process, say func(secrets ...string)) {
	t.Helper()
	before := startLoad(p, "before", "old", 3)
	before.waitFor(t, 10)
	p.mustAnswer(t, "new", newBody("evt_1"), http.StatusUnauthorized)

	say("new", "old")
	p.waitActive(t, "together", 2)
	after := startLoad(p, "after", "new", 3)
	after.waitFor(t, 10)
	before.waitFor(t, 10)
	mustTake(t, before.end())

	say("new")
	p.waitActive(t, "together", 1)
	after.waitFor(t, 10)
	mustTake(t, after.end())
	p.mustAnswer(t, "old", newBody("evt_2"), http.StatusUnauthorized)
}

func TestSecretFileChanges(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "secret"), "old\n")
	p := launch{env: []string{"TOGETHER_WEBHOOK_SECRET_FILE=" + file}}.start(t).waitReady(t)
	rotate(t, p, func(secrets ...string) {
		writeFile(t, file, strings.Join(secrets, "\n"))
	})

	// A file that holds none leaves the old one in force.
	writeFile(t, file, "\n")
	p.waitLog(t, "secrets not read again; the old ones stay")
	p.mustAnswer(t, "new", newBody("evt_3"), http.StatusOK)
}

func TestHangupReadsTheSecretsAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "relay.yaml")
	write := func(secrets ...string) {
		writeFile(t, file, "sources: {together: {secrets: ["+strings.Join(secrets, ", ")+"]}}")
	}
	write("old")
	p := launch{args: []string{"--config=" + file}}.start(t).waitReady(t)
	rotate(t, p, func(secrets ...string) {
		write(secrets...)
		p.signal(t, syscall.SIGHUP)
	})

	// A file that cannot be read leaves the old one in force.
	writeFile(t, file, "sources: nonsense")
	p.signal(t, syscall.SIGHUP)
	p.waitLog(t, "configuration not read again; the old one stays")
	p.mustAnswer(t, "new", newBody("evt_3"), http.StatusOK)
}

// A file of one source that cannot be read does not hold up another's.
func TestUnreadableSecretOfAnotherSource(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, other := writeFile(t, filepath.Join(dir, "one"), "old\n"), writeFile(t, filepath.Join(dir, "other"), "x\n")
	config := writeFile(t, filepath.Join(dir, "relay.yaml"), "sources: {together: {secret_file: "+one+"}, other: {secret_file: "+other+"}}")
	p := launch{args: []string{"--config=" + config}}.start(t).waitReady(t)
	writeFile(t, other, "\n")
	p.waitLog(t, "secrets not read again; the old ones stay")
	writeFile(t, one, "new\n")
	p.waitActive(t, "together", 1)
	p.mustAnswer(t, "new", newBody("evt_1"), http.StatusOK)
}
