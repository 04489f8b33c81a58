package httpd

import (
	"net/http"
	"regexp"
	"testing"

	"together-relay/schemas"
)

func TestSchemas(t *testing.T) {
	t.Parallel()
	s := serve(t, newReceiver())
	list := `{"schemas":[{"type":"batch.done","href":"/schemas/batch.done.json"},{"type":"model.deprecated","href":"/schemas/model.deprecated.json"}]}` + "\n"
	for _, c := range []struct{ path, media, text string }{
		{"/schemas", "application/json", list},
		{"/schemas/", "application/json", list},
		{"/schemas/batch.done.json", "application/schema+json", `{"title":"batch.done"}`},
		{"/asyncapi.yaml", "application/yaml", "asyncapi: 3.0.0\n"},
	} {
		a := s.get(t, c.path)
		if a.Status != http.StatusOK || a.Header.Get("Content-Type") != c.media || a.Body != c.text {
			t.Errorf("%s: %d %v %q", c.path, a.Status, a.Header, a.Body)
		}
		if a := s.do(t, http.MethodHead, c.path, nil); a.Status != http.StatusOK || a.Header.Get("Content-Type") != c.media || a.Body != "" {
			t.Errorf("HEAD %s: %d %v %q", c.path, a.Status, a.Header, a.Body)
		}
	}
}

// Nothing but <type>.json is served below /schemas/.
func TestUnknownSchemas(t *testing.T) {
	t.Parallel()
	s := serve(t, newReceiver())
	for _, path := range []string{
		"/schemas/nothing.json", "/schemas/batch.done", "/schemas/.json", "/schemas/BATCH.DONE.JSON", "/schemas/asyncapi.yaml", "/schemas/*.json",
		"/schemas/examples/batch.done.json", "/schemas/examples%2Fbatch.done.json", "/schemas/./batch.done.json", "/schemas//batch.done.json",
		"/schemas/../asyncapi.yaml", "/schemas/../schemas_test.go", "/schemas/..%2fgo.mod", "/schemas/..%5c..%5cgo.mod.json",
		"/schemas/%2e%2e/%2e%2e/etc/passwd", "/schemas//etc/passwd.json", "/schemas/batch.done.json%00.json", "/schemas/batch.done.json/", "/asyncapi.yml",
	} {
		a := s.get(t, path)
		if a.Status != http.StatusNotFound {
			t.Errorf("%s: %d %q", path, a.Status, a.Body)
			continue
		}
		a.wantProblem(t, http.StatusNotFound, "Not Found")
	}
}

// What the served AsyncAPI document refers to is served where it says.
func TestAsyncAPIRefersToServedSchemas(t *testing.T) {
	t.Parallel()
	s := serve(t, newReceiver(), func(c *Config) { c.Schemas = schemas.Files })
	refs := regexp.MustCompile(`\$ref: \.(/\S+)`).FindAllStringSubmatch(s.get(t, "/asyncapi.yaml").Body, -1)
	if len(refs) == 0 {
		t.Fatal("the document refers to no schema")
	}
	for _, ref := range refs {
		if a := s.get(t, ref[1]); a.Status != http.StatusOK {
			t.Errorf("%s: %d", ref[1], a.Status)
		}
	}
}
