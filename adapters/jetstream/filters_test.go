package jetstream

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestTeamFilters(t *testing.T) {
	t.Parallel()
	one := map[string]string{"together": "together"}
	for _, test := range []struct {
		name     string
		prefixes map[string]string
		patterns []string
		want     []string
		err      string
	}{
		{name: "a type", prefixes: one, patterns: []string{"batch.done"}, want: []string{"together.batch.done.*"}},
		{name: "a pattern", prefixes: one, patterns: []string{"fine_tune.*", "model.>"}, want: []string{"together.fine_tune.*.*", "together.model.>"}},
		{name: "all", prefixes: one, patterns: []string{">", "batch.done"}, want: []string{"together.>"}},
		{name: "one within another", prefixes: one, patterns: []string{"batch.done", "batch.*", "batch.failed"}, want: []string{"together.batch.*.*"}},
		{name: "twice", prefixes: one, patterns: []string{"batch.done", "batch.done"}, want: []string{"together.batch.done.*"}},
		{name: "odd bytes", prefixes: one, patterns: []string{"a b.é"}, want: []string{"together.a%20b.%C3%A9.*"}},
		{name: "each source", prefixes: map[string]string{"a": "a", "b": "x.b"}, patterns: []string{"batch.done"}, want: []string{"a.batch.done.*", "x.b.batch.done.*"}},
		{name: "prefixes below one another", prefixes: map[string]string{"a": "a", "b": "a.b"}, patterns: []string{">"}, want: []string{"a.>"}},
		{name: "one prefix for two", prefixes: map[string]string{"a": "a", "b": "a"}, patterns: []string{"batch.done"}, want: []string{"a.batch.done.*"}},
		{name: "crossing", prefixes: one, patterns: []string{"fine_tune.*", "*.completed"}, err: "together.*.completed.* and together.fine_tune.*.* overlap"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := TeamFilters(test.prefixes, test.patterns)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("filters (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever was left out is within what was kept, and nothing that was kept overlaps.
func TestTeamFiltersHoldWhatWasAsked(t *testing.T) {
	t.Parallel()
	token := rapid.SampledFrom([]string{"a", "b", "*"})
	pattern := rapid.Custom(func(t *rapid.T) string {
		tokens := rapid.SliceOfN(token, 1, 3).Draw(t, "tokens")
		if rapid.Bool().Draw(t, "open") {
			tokens = append(tokens, ">")
		}
		return strings.Join(tokens, ".")
	})
	subject := rapid.Custom(func(t *rapid.T) string {
		return "p." + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 5).Draw(t, "subject"), ".")
	})
	rapid.Check(t, func(t *rapid.T) {
		patterns := rapid.SliceOfN(pattern, 1, 5).Draw(t, "patterns")
		kept, err := TeamFilters(map[string]string{"p": "p"}, patterns)
		if err != nil {
			return
		}
		s := subject.Draw(t, "event")
		holds := func(filter string) bool { return within(s, filter) }
		asked := slices.ContainsFunc(patterns, func(p string) bool { return slices.ContainsFunc(typeFilters([]string{"p.>"}, p, ""), holds) })
		if got := slices.ContainsFunc(kept, holds); got != asked {
			t.Errorf("%s: asked for %v by %q, taken %v by %q", s, asked, patterns, got, kept)
		}
	})
}

// What both lists hold is what their common filters hold, and these do not overlap if the lists
// do not.
func TestBothOf(t *testing.T) {
	t.Parallel()
	filter := rapid.Custom(func(t *rapid.T) string {
		tokens := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*"}), 1, 4).Draw(t, "tokens")
		if rapid.Bool().Draw(t, "open") {
			tokens = append(tokens, ">")
		}
		return strings.Join(tokens, ".")
	})
	rapid.Check(t, func(t *rapid.T) {
		some, errSome := apart(rapid.SliceOfN(filter, 1, 4).Draw(t, "some"))
		others, errOthers := apart(rapid.SliceOfN(filter, 1, 4).Draw(t, "others"))
		if errSome != nil || errOthers != nil {
			return
		}
		common := bothOf(some, others)
		if kept, err := apart(common); err != nil || len(kept) != len(common) {
			t.Errorf("%q and %q have %q in common, and these overlap: %v", some, others, common, err)
		}
		subject := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 6).Draw(t, "subject"), ".")
		holds := func(f string) bool { return within(subject, f) }
		want := slices.ContainsFunc(some, holds) && slices.ContainsFunc(others, holds)
		if got := slices.ContainsFunc(common, holds); got != want {
			t.Errorf("%s: %q and %q hold it: %v; %q holds it: %v", subject, some, others, want, common, got)
		}
	})
}
