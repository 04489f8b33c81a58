package together

import (
	"regexp"
	"strings"
)

// TraceHeaders are the request's trace context, kept in the event under the same names.
var TraceHeaders = []string{"traceparent", "tracestate"}

// traceparent is the form that W3C Trace Context gives the header, whatever its version.
var traceparent = regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?$`)

// traced says whether the text is a trace context that may be carried on.
func traced(text string) bool {
	m := traceparent.FindStringSubmatch(text)
	return m != nil && m[1] != "ff" && strings.Trim(m[2], "0") != "" && strings.Trim(m[3], "0") != "" &&
		(m[1] != "00" || m[4] == "")
}
