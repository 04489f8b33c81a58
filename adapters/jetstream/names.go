package jetstream

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// maxResource is the longest resource token in bytes; a longer one is hashed.
const maxResource = 256

// Subject names the subject of an event: <prefix>.<type>.<resource>. Every token of the
// type and the resource becomes one NATS token, whatever bytes it is made of.
func Subject(prefix, typ, resource string) string {
	var b strings.Builder
	b.Grow(len(prefix) + len(typ) + len(resource) + 2)
	b.WriteString(prefix)
	for token := range strings.SplitSeq(typ, ".") {
		b.WriteByte('.')
		writeEscaped(&b, token, tokenByte)
	}
	b.WriteByte('.')
	b.WriteString(ResourceToken(resource))
	return b.String()
}

// ResourceToken is the last token of an event's subject: the resource, escaped; "~" and
// the start of its hash if that is too long; "_" if there is none.
func ResourceToken(resource string) string {
	if resource == "" {
		return "_"
	}
	var b strings.Builder
	writeEscaped(&b, resource, tokenByte)
	if b.Len() > maxResource {
		sum := sha256.Sum256([]byte(resource))
		return "~" + hex.EncodeToString(sum[:16])
	}
	return b.String()
}

// tokenByte says whether a byte may stand in a subject token as it is.
func tokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_-/:=@+~", c) >= 0
}

// valueByte says whether a byte may stand in a header value as it is: the CloudEvents
// NATS binding escapes what is not printable ASCII, the space, the quote and the percent sign.
func valueByte(c byte) bool { return 0x21 <= c && c <= 0x7e && c != '"' && c != '%' }

const upperHex = "0123456789ABCDEF"

func writeEscaped(b *strings.Builder, s string, plain func(byte) bool) {
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
	}
}

func escapeValue(s string) string {
	for i := range len(s) {
		if !valueByte(s[i]) {
			var b strings.Builder
			b.Grow(len(s) + 16)
			writeEscaped(&b, s, valueByte)
			return b.String()
		}
	}
	return s
}

// CheckPrefix says whether events may be stored below the prefix: legal tokens, none
// that NATS or the dead letters use.
func CheckPrefix(prefix string) error {
	for token := range strings.SplitSeq(prefix, ".") {
		if token == "" {
			return fmt.Errorf("prefix %q has an empty token", prefix)
		}
		for i := range len(token) {
			if !tokenByte(token[i]) {
				return fmt.Errorf("prefix %q: byte %q is not allowed in a subject token", prefix, token[i])
			}
		}
	}
	if first, _, _ := strings.Cut(prefix, "."); first == deadRoot || first[0] == '_' {
		return fmt.Errorf("prefix %q: %q is reserved", prefix, first)
	}
	return nil
}

// subjectsBelow lists the subjects that hold every event of the prefixes. A prefix below
// another one adds nothing, and the server would refuse it.
func subjectsBelow(prefixes []string) []string {
	sorted := slices.Compact(slices.Sorted(slices.Values(prefixes)))
	var subjects []string
	for _, p := range sorted {
		covered := slices.ContainsFunc(sorted, func(other string) bool { return strings.HasPrefix(p, other+".") })
		if !covered {
			subjects = append(subjects, p+".>")
		}
	}
	return subjects
}

// typeFilters turns a pattern of types into subject filters below each of the stream's
// subjects: "fine_tune.*" is every type of two tokens that begins so, "fine_tune.>" every
// longer one. An empty pattern is every type.
func typeFilters(subjects []string, pattern string) []string {
	if pattern == "" || pattern == ">" {
		return subjects
	}
	var b strings.Builder
	tokens := strings.Split(pattern, ".")
	for i, token := range tokens {
		switch {
		case token == "*" || token == ">" && i == len(tokens)-1:
			b.WriteString(token)
		default:
			writeEscaped(&b, token, tokenByte)
		}
		b.WriteByte('.')
	}
	tail := strings.TrimSuffix(b.String(), ">.") + "*"
	if strings.HasSuffix(pattern, ">") {
		tail = strings.TrimSuffix(b.String(), ".")
	}
	filters := make([]string, len(subjects))
	for i, s := range subjects {
		filters[i] = strings.TrimSuffix(s, ">") + tail
	}
	return filters
}

// deadRoot is the first token of every dead letter's subject.
const deadRoot = "relay"

func deadSubject(source, reason string) string {
	return deadRoot + ".dlq.ingest." + ResourceToken(source) + "." + ResourceToken(reason)
}
