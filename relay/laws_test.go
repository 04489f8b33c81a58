package relay_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestImports is the law of the house: the story knows no foreign language, an adapter
// knows the story and no other adapter, and only the wiring knows all.
func TestImports(t *testing.T) {
	t.Parallel()
	const module, sdk = "together-relay/", "github.com/cloudevents/sdk-go/v2"
	// Which rooms a foreign thing may be named in, tests aside.
	rooms := map[string][]string{
		"github.com/labstack/echo/v4":         {"adapters/httpd"},
		"github.com/nats-io/nats.go":          {"adapters/jetstream", "adapters/natsd"},
		"github.com/nats-io/nats-server/v2":   {"adapters/natsd"},
		"github.com/prometheus/client_golang": {"adapters/telemetry"},
		"go.opentelemetry.io/otel":            {"adapters/telemetry"},
		"github.com/spf13/cobra":              {"cmd/together-relay"},
		"github.com/spf13/pflag":              {"cmd/together-relay"},
		"github.com/rs/zerolog":               {"adapters/jetstream", "adapters/natsd", "cmd/together-relay"},
	}
	for file, imports := range sources(t, "..") {
		room := filepath.ToSlash(filepath.Dir(file))
		for _, path := range imports {
			foreign := strings.Contains(strings.Split(path, "/")[0], ".")
			ours := strings.TrimPrefix(path, module)
			switch {
			case room == "relay" && (foreign && !within(path, sdk) || path != ours):
				t.Errorf("%s imports %s; relay knows the standard library and the CloudEvents event", file, path)
			case strings.HasPrefix(room, "adapters/") && path != ours && ours != "relay":
				t.Errorf("%s imports %s; an adapter knows relay and nothing else of ours", file, path)
			}
			for thing, allowed := range rooms {
				if within(path, thing) && !slices.Contains(allowed, room) {
					t.Errorf("%s imports %s, which is at home in %s", file, path, strings.Join(allowed, ", "))
				}
			}
		}
	}
}

func within(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

// sources lists the imports of each Go file that is no test, by its path below root.
// Modules of their own, such as the client examples, are not ours to rule.
func sources(t *testing.T, root string) map[string][]string {
	t.Helper()
	files := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "clients" || name == "data") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files[rel] = []string{}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			files[rel] = append(files[rel], imported)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d files found below %s", len(files), root)
	}
	return files
}
