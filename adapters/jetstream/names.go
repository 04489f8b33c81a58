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
	b := make([]byte, 0, 128) // which is enough for most, and costs nothing
	b = append(b, prefix...)
	for token := range strings.SplitSeq(typ, ".") {
		b = append(b, '.')
		b = appendEscaped(b, token, tokenByte)
	}
	b = append(b, '.')
	return string(appendResource(b, resource))
}

// ResourceToken is the last token of an event's subject: the resource, escaped; "~" and
// the start of its hash if that is too long; "_" if there is none.
func ResourceToken(resource string) string { return string(appendResource(nil, resource)) }

func appendResource(b []byte, resource string) []byte {
	if resource == "" {
		return append(b, '_')
	}
	start := len(b)
	b = appendEscaped(b, resource, tokenByte)
	if len(b)-start > maxResource {
		sum := sha256.Sum256([]byte(resource))
		b = append(b[:start], '~')
		b = hex.AppendEncode(b, sum[:16])
	}
	return b
}

// tokenByte says whether a byte may stand in a subject token as it is.
func tokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_-/:=@+~", c) >= 0
}

// valueByte says whether a byte may stand in a header value as it is: the CloudEvents
// NATS binding escapes what is not printable ASCII, the space, the quote and the percent sign.
func valueByte(c byte) bool { return 0x21 <= c && c <= 0x7e && c != '"' && c != '%' }

const upperHex = "0123456789ABCDEF"

func appendEscaped(b []byte, s string, plain func(byte) bool) []byte {
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b
}

func escapeValue(s string) string { return string(appendValue(nil, s)) }

// appendValue appends a header value, escaped.
func appendValue[text string | []byte](b []byte, s text) []byte {
	start := 0
	for i := range len(s) {
		if c := s[i]; !valueByte(c) {
			b = append(b, s[start:i]...)
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
			start = i + 1
		}
	}
	return append(b, s[start:]...)
}

// CheckPrefix says whether events may be stored below the prefix: legal tokens, none
// that NATS or the relay itself use.
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

// maxTypeTokens is how many tokens a type may have.
const maxTypeTokens = 8

// typeFilters turns a pattern of types into subject filters below each of the stream's
// subjects: "fine_tune.*" is every type of two tokens that begins so, "fine_tune.>" every
// longer one. An empty pattern is every type. A resource, if it is not empty, is that
// of every subject.
func typeFilters(subjects []string, pattern, resource string) []string {
	if pattern == "" {
		pattern = ">"
	}
	last := "*"
	if resource != "" {
		last = ResourceToken(resource)
	}
	var tail []byte
	tokens := strings.Split(pattern, ".")
	open := tokens[len(tokens)-1] == ">"
	if open {
		tokens = tokens[:len(tokens)-1]
	}
	for _, token := range tokens {
		if token == "*" {
			tail = append(tail, token...)
		} else {
			tail = appendEscaped(tail, token, tokenByte)
		}
		tail = append(tail, '.')
	}
	tails := []string{string(tail) + last}
	switch {
	case open && resource == "":
		tails[0] = string(tail) + ">"
	case open:
		tails = nil
		for n := 1; n <= max(1, maxTypeTokens-len(tokens)); n++ {
			tails = append(tails, string(tail)+strings.Repeat("*.", n)+last)
		}
	}
	var filters []string
	for _, s := range subjects {
		for _, tail := range tails {
			filters = append(filters, strings.TrimSuffix(s, ">")+tail)
		}
	}
	return filters
}

// deadRoot is the first token of every subject that is the relay's own: of dead letters, and of
// copies for single teams.
const deadRoot = "relay"

// deadStream names the stream of the dead letters beside an event stream.
func deadStream(stream string) string { return stream + "_DLQ" }

func deadSubject(source, reason string) string {
	return deadRoot + ".dlq.ingest." + ResourceToken(source) + "." + ResourceToken(reason)
}

// teamDeadSubject is where a dead letter of the team lies.
func teamDeadSubject(team, reason string) string {
	return deadRoot + ".dlq.team." + ResourceToken(team) + "." + ResourceToken(reason)
}

// advisoryStream names the stream of what the server says of deliveries that ended badly.
func advisoryStream(stream string) string { return stream + "_ADVISORIES" }

// Where the server says that the deliveries of a message are used up, and that they were
// terminated: below these, by stream and consumer.
const (
	usedUp     = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES."
	terminated = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED."
)

// advisorySubjects are those that say so of the consumers of teams.
func advisorySubjects(stream string) []string {
	var subjects []string
	for _, name := range TeamStreams(stream) {
		subjects = append(subjects, usedUp+name+".*", terminated+name+".*")
	}
	return subjects
}

// replayStream names the stream of the copies for single teams beside an event stream.
func replayStream(stream string) string { return stream + "_REPLAY" }

// replaySubject is where the copy of an event on a subject lies that is for the team alone.
func replaySubject(team, subject string) string {
	return deadRoot + ".replay." + ResourceToken(team) + "." + subject
}

// TeamStreams names the streams on which each team has a consumer, beside an event stream: that
// stream, and the one of the copies that are for single teams.
func TeamStreams(stream string) []string { return []string{stream, replayStream(stream)} }
