package jetstream

import (
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
	slices.Sort(filters)
	filters = slices.Compact(filters)
	kept := slices.DeleteFunc(slices.Clone(filters), func(f string) bool {
		return slices.ContainsFunc(filters, func(other string) bool { return f != other && within(f, other) })
	})
	for i, a := range kept {
		for _, b := range kept[:i] {
			if collide(a, b) {
				return nil, fmt.Errorf("the subjects %s and %s overlap, and NATS filters by no two that do; write out the types of one of them", b, a)
			}
		}
	}
	return kept, nil
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
