package schemas

import (
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestPrograms(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir("clients")
	if err != nil {
		t.Fatal(err)
	}
	var folders []string
	for _, entry := range entries {
		if entry.IsDir() {
			folders = append(folders, entry.Name())
		}
	}
	if !slices.Equal(folders, Languages()) {
		t.Errorf("there are %q, and %q can be printed", folders, Languages())
	}
	for _, p := range programs() {
		text, err := clients.ReadFile("clients/" + p.file)
		if err != nil {
			t.Error(err)
		} else if n := strings.Count(string(text), "\n"); n > 75 { // as the README says
			t.Errorf("the program in %s has %d lines", p.language, n)
		}
	}
	for _, language := range Languages() {
		text, run, err := Program(language, "EVENTS", "EVENTS_AGAIN", "billing", "nats://nats.example.com:4333")
		if err != nil {
			t.Error(err)
			continue
		}
		for _, part := range []string{"EVENTS", "EVENTS_AGAIN", "billing", "nats://nats.example.com:4333", "CONSUMER", "NATS_URL", "NATS_USER", "NATS_PASSWORD"} {
			if !regexp.MustCompile(`\b` + regexp.QuoteMeta(part) + `\b`).MatchString(text) {
				t.Errorf("%s: %s is not in the program", language, part)
			}
		}
		if found := regexp.MustCompile(`getConsumerContext|get_stream|streams\.get|STREAM\.`).FindString(text); found != "" {
			t.Errorf("%s: %s asks for the stream, which no team may", language, found)
		}
		if found := regexp.MustCompile(`TOGETHER|demo-|FILTER|127\.0\.0\.1|[Cc]reateConsumer|create_consumer|add_consumer|consumers?\.add|consumer add`).FindString(text); found != "" {
			t.Errorf("%s: %s is in the program", language, found)
		}
		if !strings.Contains(run, ":") && !strings.Contains(run, "io.nats:jnats") {
			t.Errorf("%s: how it is run: %q", language, run)
		}
	}
	if _, _, err := Program("cobol", "EVENTS", "EVENTS_AGAIN", "billing", "nats://localhost"); err == nil || !strings.Contains(err.Error(), "go, java, python, rust, shell, typescript") {
		t.Errorf("cobol: %v", err)
	}
}

// How the program in Go is run names the versions that it is tested with.
func TestVersionsInGo(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("clients/go/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	_, run, err := Program("go", "EVENTS", "EVENTS_AGAIN", "billing", "nats://localhost")
	if err != nil {
		t.Fatal(err)
	}
	needed := regexp.MustCompile(`(?m)^\t(\S+) (v\S+)$`).FindAllStringSubmatch(string(text), -1) // without those that are indirect
	if len(needed) == 0 {
		t.Error("go.mod requires nothing")
	}
	for _, module := range needed {
		if version := module[1] + "@" + module[2]; !strings.Contains(run, version) {
			t.Errorf("%s is not in %q", version, run)
		}
	}
}

// A file of another module cannot be compiled in, so the program in Go has a copy.
func TestProgramInGo(t *testing.T) {
	t.Parallel()
	program, err := os.ReadFile("clients/go/main.go")
	if err != nil {
		t.Fatal(err)
	}
	printed, err := clients.ReadFile("clients/go.txt")
	if err != nil {
		t.Fatal(err)
	}
	if string(program) != string(printed) {
		t.Error("schemas/clients/go.txt is no copy of schemas/clients/go/main.go; make it one")
	}
	text, _, err := Program("go", "EVENTS", "EVENTS_AGAIN", "billing", "nats://localhost")
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "main.go", text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range file.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		name := path[strings.LastIndex(path, "/")+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if strings.HasSuffix(path, "nats.go") {
			name = "nats"
		}
		if !strings.Contains(text, name+".") {
			t.Errorf("%s is imported, and not used", path)
		}
	}
}

// What is said to be installed is what the programs are tested with.
func TestProgramsAreRunWithWhatTheyAreTestedWith(t *testing.T) {
	t.Parallel()
	for language, pinned := range map[string]struct{ file, line, form string }{
		"python":     {"clients/python/requirements.txt", `(?m)^(\S+)==(\S+)$`, "$1==$2"},
		"rust":       {"clients/rust/Cargo.toml", `(?m)^([a-z-_]+) = (?:\{ version = )?"=([0-9.]+)"`, "$1@=$2"},
		"typescript": {"clients/typescript/package.json", `(?m)^    "([^"]+)": "([0-9.]+)"`, "$1@$2"},
	} {
		text, err := os.ReadFile(pinned.file)
		if err != nil {
			t.Fatal(err)
		}
		_, run, err := Program(language, "EVENTS", "EVENTS_AGAIN", "billing", "nats://localhost")
		if err != nil {
			t.Fatal(err)
		}
		line := regexp.MustCompile(pinned.line)
		found := line.FindAllStringSubmatchIndex(string(text), -1)
		if len(found) == 0 {
			t.Errorf("%s names nothing", pinned.file)
		}
		for _, at := range found {
			if want := string(line.ExpandString(nil, pinned.form, string(text), at)); !strings.Contains(run, want) {
				t.Errorf("%s: %s is not in: %s", language, want, run)
			}
		}
	}
}
