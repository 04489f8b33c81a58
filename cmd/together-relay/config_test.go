package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"together-relay/adapters/jetstream"
	"together-relay/relay"
)

// Help of each verb says what it does, and has examples of it that can be pasted.
func TestHelp(t *testing.T) {
	t.Parallel()
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if len(cmd.Short) < 10 || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short help is %q", path, cmd.Short)
		}
		if !strings.Contains(cmd.Example, "  "+path) {
			t.Errorf("%s: no example of it in %q", path, cmd.Example)
		}
		var stdout, stderr bytes.Buffer
		args := append(strings.Fields(path)[1:], "--help")
		if code := run(t.Context(), args, nil, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
			t.Errorf("%s --help: exit code %d, %s", path, code, &stderr)
		}
		says := cmd.Long
		if says == "" {
			says = cmd.Short
		}
		if !strings.HasPrefix(stdout.String(), cmd.Example+"\n\n"+says+"\n\nUsage:\n") {
			t.Errorf("%s --help does not begin with an example and what it does:\n%s", path, &stdout)
		}
		for _, sub := range cmd.Commands() {
			look(sub)
		}
	}
	look(newRoot())
}

// Every setting is known by its flag, its variable and its key in the file; secrets are no flags.
func TestEverySettingHasItsNames(t *testing.T) {
	t.Parallel()
	serve := newServe()
	for name, knob := range (&settings{}).declare().known {
		if flag := serve.Flags().Lookup(name); (flag == nil) != knob.secret {
			t.Errorf("%s: secret is %t, and it is a flag: %t", name, knob.secret, flag != nil)
		}
		if name != "config" {
			text := yamlKey(name) + ": ${" + knob.env + "}"
			f, err := parseFile("relay.yaml", []byte(text), func(string) (string, bool) { return "x", true })
			if err != nil || f.values[name] != (fileValue{"x", "relay.yaml:1"}) {
				t.Errorf("%s: %v, %v", text, f, err)
			}
		}
	}
}

func TestByteSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]byteSize{
		"0": 0, "1": 1, "1048576": 1 << 20, "500KiB": 500 << 10, "1MiB": 1 << 20, "20GiB": 20 << 30, "1TiB": 1 << 40,
		"7 MB": 7e6, "3kB": 3e3, "2GB": 2e9, "1TB": 1e12, "9B": 9,
	} {
		var size byteSize
		if err := size.Set(text); err != nil || size != want {
			t.Errorf("%q is %d, %v; want %d", text, size, err, want)
		}
		var again byteSize
		if err := again.Set(size.String()); err != nil || again != size {
			t.Errorf("%q is written as %q, which is %d, %v", text, &size, again, err)
		}
	}
	for _, text := range []string{"", "KiB", "-1", "1.5MiB", "1KB", "1 2", "0x10", "99999999999TiB", "9223372036854775808", "1MiB1"} {
		size := byteSize(7)
		if err := size.Set(text); err == nil || size != 7 {
			t.Errorf("%q is %d, want an error", text, size)
		}
	}
}

func TestParseSince(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                          {},
		"2h":                        now.Add(-2 * time.Hour),
		"7d":                        now.AddDate(0, 0, -7),
		"0.5d":                      now.Add(-12 * time.Hour),
		"90s":                       now.Add(-90 * time.Second),
		"2026-06-30":                time.Date(2026, 6, 30, 0, 0, 0, 0, time.UTC),
		"2026-06-30 09:00:00":       time.Date(2026, 6, 30, 9, 0, 0, 0, time.UTC),
		"2026-06-30T09:00:00+02:00": time.Date(2026, 6, 30, 7, 0, 0, 0, time.UTC),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"-2h", "-1d", "yesterday", "d", "2", "2026-13-01", "1d2h"} {
		if got, err := parseSince(text, now); err == nil {
			t.Errorf("%q is %s, want an error", text, got)
		}
	}
}

func TestLocalURL(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		":8080":            "http://127.0.0.1:8080",
		"0.0.0.0:80":       "http://127.0.0.1:80",
		"[::]:8080":        "http://127.0.0.1:8080",
		"[::1]:8080":       "http://[::1]:8080",
		"127.0.0.1:8080":   "http://127.0.0.1:8080",
		"relay.local:8080": "http://relay.local:8080",
	} {
		if got := localURL(address); got != want {
			t.Errorf("%s is reached at %s, want %s", address, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	keys := []string{"dev", "listen", "log_level", "uri"}
	for key, want := range map[string]string{
		"lissten": `; did you mean "listen"?`, "loglevel": `; did you mean "log_level"?`, "url": `; did you mean "uri"?`,
		"x": "", "<<": "", "nothing_like_it": "",
	} {
		if got := nearest(key, keys); got != want {
			t.Errorf("nearest to %q: %q, want %q", key, got, want)
		}
	}
}

// Whatever a setting holds, config prints it so that YAML reads the same.
func TestQuoteIfOdd(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "plain", ":8080", "127.0.0.1:4222", "[::]:8080", "*", "a # b", "a b", `a"b`, "a'b", "{x}", "&x", "!x", "%x", "@x",
		"https://example.com/?a=b&c=d", "new\nline", "é", "- x", "? x", "|", ">", "`x`", ",x", "#x", "x:", "-", "~", "a: b", "]", "}",
	} {
		var got struct{ Key string }
		written := "key: " + quoteIfOdd(text) + "   # comment\n"
		if err := yaml.Unmarshal([]byte(written), &got); err != nil || got.Key != text {
			t.Errorf("%q is printed as %q, which is read as %q, %v", text, written, got.Key, err)
		}
	}
}

// What a sender wrote must not move the cursor of whoever looks at it.
func TestPrettyEvent(t *testing.T) {
	t.Parallel()
	ev := event.New()
	ev.SetID("evt_1\r\x1b[2J")
	ev.SetType("ai.together.batch.done")
	ev.DataEncoded = []byte(`{"a":1.0,"b":"\u001b[2J"}`)
	m := jetstream.Message{
		Event: relay.Event{CloudEvent: ev, Resource: "b-1\u009b2J"},
		Place: jetstream.Place{Sequence: 7, Stored: time.Date(2026, 7, 1, 9, 0, 0, 0, time.Local)},
	}
	var out bytes.Buffer
	if err := printEventPretty(&out, m); err != nil {
		t.Fatal(err)
	}
	const bold, dim, plain = "\x1b[1m", "\x1b[2m", "\x1b[0m"
	want := dim + "2026-07-01 09:00:00" + plain + "  " + bold + "batch.done" + plain + `  "b-1\u009b2J"  ` +
		dim + `"evt_1\r\x1b[2J"` + "  seq 7" + plain + "\n    {\n      \"a\": 1.0,\n      \"b\": \"\\u001b[2J\"\n    }\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("printed (-want +got):\n%s", diff)
	}
}

func FuzzParseFile(f *testing.F) {
	for _, text := range []string{
		"", "# nothing", "---\n...\n", "listen: :8080\nreplicas: 3\n", "stream: ONE\nstream: TWO", "lissten: x", "listen: ${HOST}:80", "listen: ${", "a: $$",
		"sources:\n  gateway:\n    secrets: [a, \"${B}\"]\n    uri: https://x\n    tolerance: 5m\n    rate: 2.5\n    allowed_origins: ['*']\n",
		"sources: &a {x: *a}", "sources: {x: &b {secrets: [x]}, y: *b}", "listen: a\n---\nlisten: b", "\"a", "\t", "- 1", "? [a]\n: b", "<<: {listen: x}",
		"sources: {x: {rate: .nan, tolerance: 1e999h}}", "!!binary x: y", "listen: !!int x", "%YAML 1.1\n---\nlisten: x", "\xff\xfel\x00", "sources: {x: {secrets: [~]}}",
	} {
		f.Add([]byte(text))
	}
	env := func(name string) (string, bool) { return "value of " + name, len(name)%2 == 0 }
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := parseFile("relay.yaml", text, env)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "relay.yaml:") {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		for name, value := range file.values {
			if !strings.HasPrefix(value.at, "relay.yaml:") || (&settings{}).declare().Lookup(name) == nil {
				t.Errorf("setting %q is %+v", name, value)
			}
		}
		for name, source := range file.sources {
			if !sourceName.MatchString(name) || source == nil {
				t.Errorf("source %q is %+v", name, source)
			}
		}
	})
}
