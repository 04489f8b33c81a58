package jetstream

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                             "",
		"nats://a:4222":                "nats://a:4222",
		"nats://u:hush@a:4222,tls://b": "nats://u:********@a:4222,tls://b",
		"nats://hush@a:4222, nats://b": "nats://********@a:4222, nats://b",
		"nats://u:hush%zz@a:4222":      "********",
		"a:4222":                       "a:4222",
	} {
		if got := Redact(in); got != want || strings.Contains(got, "hush") {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestMissingCredentialsAreAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	for _, auth := range []Auth{{Creds: missing}, {NKey: missing}, {CA: missing}, {Cert: missing, Key: missing}} {
		if l, err := Open("nats://127.0.0.1:1", auth, testConfig(), zerolog.Nop()); err == nil {
			l.Close()
			t.Errorf("opened with %+v", auth)
		}
	}
}
