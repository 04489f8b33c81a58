package jetstream

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// TeamFilters lists the subjects below the prefixes that hold the events of the patterns, in
// order. One that lies within another is left out: the server refuses filters that overlap.
// Those that overlap otherwise are an error.
func TeamFilters(prefixes map[string]string, patterns []string) ([]string, error) {
	var filters []string
	for _, prefix := range slices.Compact(slices.Sorted(maps.Values(prefixes))) {
		for _, pattern := range patterns {
			filters = append(filters, typeFilters([]string{prefix + ".>"}, pattern, "")...)
		}
	}
	return apart(filters)
}

// within says whether each subject of the filter is one of the other's too.
func within(filter, other string) bool {
	a, b := strings.Split(filter, "."), strings.Split(other, ".")
	for i, token := range b {
		switch {
		case i >= len(a):
			return false
		case token == ">":
			return true
		case a[i] == ">" || token != "*" && token != a[i]:
			return false
		}
	}
	return len(a) == len(b)
}

// holds says whether one of the filters holds the subject.
func holds(filters []string, subject string) bool {
	return slices.ContainsFunc(filters, func(f string) bool { return within(subject, f) })
}

// collide says whether there is a subject that both filters hold.
func collide(filter, other string) bool {
	a, b := strings.Split(filter, "."), strings.Split(other, ".")
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == ">" || b[i] == ">":
			return true
		case a[i] != "*" && b[i] != "*" && a[i] != b[i]:
			return false
		}
	}
	return len(a) == len(b)
}

// both is the filter of the subjects that two filters hold; ok is false if there is none.
func both(filter, other string) (common string, ok bool) {
	a, b := strings.Split(filter, "."), strings.Split(other, ".")
	var tokens []string
	for i := range max(len(a), len(b)) {
		switch {
		case i < len(a) && a[i] == ">" && i < len(b):
			return strings.Join(append(tokens, b[i:]...), "."), true
		case i < len(b) && b[i] == ">" && i < len(a):
			return strings.Join(append(tokens, a[i:]...), "."), true
		case i >= len(a) || i >= len(b):
			return "", false
		case a[i] == "*":
			tokens = append(tokens, b[i])
		case b[i] == "*" || a[i] == b[i]:
			tokens = append(tokens, a[i])
		default:
			return "", false
		}
	}
	return strings.Join(tokens, "."), true
}

// bothOf lists the filters of the subjects that both lists hold. If neither list overlaps itself,
// the result does not either.
func bothOf(filters, others []string) []string {
	var all []string
	for _, a := range filters {
		for _, b := range others {
			if common, ok := both(a, b); ok {
				all = append(all, common)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ErrOverlap says that filters cannot be had together.
var ErrOverlap = errors.New("overlap, and NATS filters by no two that do")

// apart leaves out the filters that lie within another one. Those that overlap otherwise are an
// error: the server refuses them.
func apart(filters []string) ([]string, error) {
	filters = slices.Compact(slices.Sorted(slices.Values(filters)))
	kept := slices.DeleteFunc(slices.Clone(filters), func(f string) bool {
		return slices.ContainsFunc(filters, func(other string) bool { return f != other && within(f, other) })
	})
	for i, a := range kept {
		for _, b := range kept[:i] {
			if collide(a, b) {
				return nil, fmt.Errorf("the subjects %s and %s %w; write out the types of one of them", b, a, ErrOverlap)
			}
		}
	}
	return kept, nil
}
