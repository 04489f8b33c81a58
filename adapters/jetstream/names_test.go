package jetstream

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"pgregory.net/rapid"
)

func TestSubject(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ typ, resource, want string }{
		{"batch.done", "b1", "p.batch.done.b1"},
		{"model.deprecated", "meta-llama/Llama-3.3-70B", "p.model.deprecated.meta-llama/Llama-3%2E3-70B"},
		{"batch.done", "", "p.batch.done._"},
		{"fine_tune.>", "*", "p.fine_tune.%3E.%2A"},
		{"$JS.API", "_INBOX.x", "p.%24JS.API._INBOX%2Ex"},
		{"x", "a b\r\n\t\x00é%", "p.x.a%20b%0D%0A%09%00%C3%A9%25"},
		{"x", "-/:=@+~_", "p.x.-/:=@+~_"},
		{"x", strings.Repeat("r", 256), "p.x." + strings.Repeat("r", 256)},
		{"x", strings.Repeat("r", 257), "p.x.~62f1ad91072eb59aba4e093d8953818c"},
		{"x", strings.Repeat(".", 86), "p.x.~6d2e1b262a9aee883cc33f0fbbbacc87"},
	} {
		if got := Subject("p", c.typ, c.resource); got != c.want {
			t.Errorf("Subject(%q, %q) = %s, want %s", c.typ, c.resource, got, c.want)
		}
	}
}

// Nothing that a sender writes adds a token, a wildcard, or leaves the prefix; and two
// different resources never share a subject.
func TestSubjectIsSafe(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.SliceOfN(rapid.StringN(1, 20, -1).Filter(func(s string) bool { return !strings.Contains(s, ".") }), 1, 8).Draw(t, "type")
		a, b := rapid.String().Draw(t, "resource"), rapid.String().Draw(t, "other")
		subject := Subject("p", strings.Join(tokens, "."), a)
		if !server.IsValidLiteralSubject(subject) || strings.Count(subject, ".") != len(tokens)+1 || !strings.HasPrefix(subject, "p.") {
			t.Fatalf("subject %q", subject)
		}
		if a != b && a != "" && b != "" && ResourceToken(a) == ResourceToken(b) {
			t.Fatalf("%q and %q share the token %q", a, b, ResourceToken(a))
		}
	})
}

func TestCheckPrefix(t *testing.T) {
	t.Parallel()
	for prefix, ok := range map[string]bool{"together": true, "acme.together": true, "a-b_c": true, "": false, "a..b": false, ".a": false, "a.": false,
		"a.>": false, "*": false, "a b": false, "$JS": false, "_INBOX": false, "relay": false, "relay.x": false, "relays": true, "é": false} {
		if err := CheckPrefix(prefix); (err == nil) != ok {
			t.Errorf("CheckPrefix(%q) = %v", prefix, err)
		}
	}
}

func TestSubjectsBelow(t *testing.T) {
	t.Parallel()
	got := subjectsBelow([]string{"b", "a.b", "a", "b", "ab"})
	if want := []string{"a.>", "ab.>", "b.>"}; !slices.Equal(got, want) {
		t.Errorf("subjects = %v, want %v", got, want)
	}
}

func TestTypeFilters(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"":            "[together.> other.>]",
		">":           "[together.> other.>]",
		"batch.done":  "[together.batch.done.* other.batch.done.*]",
		"fine_tune.*": "[together.fine_tune.*.* other.fine_tune.*.*]",
		"fine_tune.>": "[together.fine_tune.> other.fine_tune.>]",
		"*.done":      "[together.*.done.* other.*.done.*]",
		"$JS.a b":     "[together.%24JS.a%20b.* other.%24JS.a%20b.*]",
	} {
		if got := fmt.Sprint(typeFilters([]string{"together.>", "other.>"}, pattern, "")); got != want {
			t.Errorf("typeFilters(%q) = %s, want %s", pattern, got, want)
		}
	}
}

func TestTypeFiltersOfAResource(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"batch.done":    "[a.batch.done.r%2E1]",
		"fine_tune.*":   "[a.fine_tune.*.r%2E1]",
		"a.b.c.d.e.f.>": "[a.a.b.c.d.e.f.*.r%2E1 a.a.b.c.d.e.f.*.*.r%2E1]",
		"":              "[a.*.r%2E1 a.*.*.r%2E1 a.*.*.*.r%2E1 a.*.*.*.*.r%2E1 a.*.*.*.*.*.r%2E1 a.*.*.*.*.*.*.r%2E1 a.*.*.*.*.*.*.*.r%2E1 a.*.*.*.*.*.*.*.*.r%2E1]",
	} {
		if got := fmt.Sprint(typeFilters([]string{"a.>"}, pattern, "r.1")); got != want {
			t.Errorf("typeFilters(%q) = %s, want %s", pattern, got, want)
		}
	}
}
