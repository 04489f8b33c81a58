package together

import (
	"fmt"
	"hash/fnv"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxSentence = 500 // runes

// address finds URLs, and what may be a part of one that is signed.
var address = regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'<>]+|[^\s"'<>]*[?][^\s"'<>]*`)

// sentence is somebody else's text on one line, cut short, with no URL's query in it: it
// may hold a signature.
func sentence(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) > 8*maxSentence { // no need to look at what is cut off anyway
		s = strings.ToValidUTF8(s[:8*maxSentence], "")
	}
	s = address.ReplaceAllStringFunc(s, func(found string) string {
		if strings.Contains(found, "://") || strings.Contains(found, "=") {
			return bare(found)
		}
		return found
	})
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if utf8.RuneCountInString(s) > maxSentence {
		s = string([]rune(s)[:maxSentence-1]) + "…"
	}
	return s
}

// bare is a path or URL without its query and fragment, and without a password.
func bare(s string) string {
	s, _, _ = strings.Cut(s, "?")
	if !strings.Contains(s, "://") {
		return s
	}
	s, _, _ = strings.Cut(s, "#")
	if u, err := url.Parse(s); err == nil && u.User != nil {
		u.User = nil
		return u.String()
	}
	return s
}

// fingerprint tells one text from another without a word of what it says.
func fingerprint(b []byte) string {
	h := fnv.New64a()
	_, _ = h.Write(b)
	return fmt.Sprintf("%d bytes, %016x", len(b), h.Sum64())
}
