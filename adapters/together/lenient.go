package together

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// What follows reads values that the API writes in more than one way. None of it ever
// fails: a value that says nothing is as if it were not there, so that one bad member
// does not spoil its object.

// A word is a string.
type word string

// UnmarshalJSON takes any value.
func (t *word) UnmarshalJSON(b []byte) error {
	*t = ""
	if b[0] == '"' {
		*t = word(scalar(b))
	}
	return nil
}

// scalar is a string, or the digits of a number; else empty.
func scalar(b []byte) string {
	switch {
	case b[0] == '"':
		var s string
		_ = json.Unmarshal(b, &s) // it was found to be JSON before
		return s
	case b[0] == '-' || b[0] >= '0' && b[0] <= '9':
		return string(b)
	}
	return ""
}

// A message is a string, or the member message of an object.
type message string

// UnmarshalJSON takes any value.
func (m *message) UnmarshalJSON(b []byte) error {
	*m = ""
	var t word
	if b[0] == '{' {
		var inner struct {
			Message word `json:"message"`
		}
		_ = json.Unmarshal(b, &inner)
		t = inner.Message
	} else {
		_ = t.UnmarshalJSON(b)
	}
	*m = message(t)
	return nil
}

// A number is one, or a string that holds one; empty if there is none that is finite.
type number string

// UnmarshalJSON takes any value.
func (n *number) UnmarshalJSON(b []byte) error {
	s := strings.TrimSpace(scalar(b))
	*n = ""
	if v, err := strconv.ParseFloat(s, 64); err == nil && !math.IsInf(v, 0) && !math.IsNaN(v) {
		*n = number(s)
	}
	return nil
}

// float is nil if there is no number.
func (n number) float() *float64 {
	if n == "" {
		return nil
	}
	v, _ := strconv.ParseFloat(string(n), 64)
	return &v
}

// int is nil if there is no number, or one that is out of range. A fraction is cut off.
func (n number) int() *int64 {
	if v, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return &v
	}
	f := n.float()
	if f == nil || math.Abs(*f) >= 1<<63 {
		return nil
	}
	v := int64(*f)
	return &v
}

// A reading is a number that may be there without being finite.
type reading struct {
	number
	there bool
}

// UnmarshalJSON takes any value.
func (r *reading) UnmarshalJSON(b []byte) error {
	r.there = true
	return r.number.UnmarshalJSON(b)
}

// A truth is a bool, or a string that says one.
type truth bool

// UnmarshalJSON takes any value.
func (t *truth) UnmarshalJSON(b []byte) error {
	*t = truth(strings.EqualFold(strings.Trim(string(b), `"`), "true"))
	return nil
}

// A state is a name in lower case, in the one spelling that we use.
type state string

// UnmarshalJSON takes any value.
func (s *state) UnmarshalJSON(b []byte) error {
	*s = spelled(scalar(b))
	return nil
}

func spelled(name string) state {
	name = strings.ToLower(strings.TrimSpace(name))
	switch name {
	case "canceled":
		name = "cancelled"
	case "canceling":
		name = "cancelling"
	case "complete":
		name = "completed"
	case "compressing_model":
		name = "model_compressing"
	}
	return state(name)
}

// An instant is a time in RFC 3339, or in Unix seconds or a thousandth, millionth or
// billionth of them; zero if there is none.
type instant struct {
	time.Time
	raw string // as it was written
}

// UnmarshalJSON takes any value.
func (i *instant) UnmarshalJSON(b []byte) error {
	*i = instant{}
	s := strings.TrimSpace(scalar(b))
	var when time.Time
	var n number
	_ = n.UnmarshalJSON(b)
	if whole := n.int(); whole != nil {
		when = unix(*whole, *n.float())
	} else if when = rfc3339(s); when.IsZero() {
		return nil
	}
	if when = when.UTC(); when.Year() >= 1 && when.Year() <= 9999 && !when.IsZero() {
		*i = instant{when, s}
	}
	return nil
}

// unix tells the unit from the size: seconds reach 10^11 in the year 5138.
func unix(n int64, f float64) time.Time {
	switch size := math.Abs(f); {
	case n == 0:
		return time.Time{}
	case size < 1e11:
		return time.Unix(n, int64((f-math.Trunc(f))*1e6)*1e3)
	case size < 1e14:
		return time.UnixMilli(n)
	case size < 1e17:
		return time.UnixMicro(n)
	}
	return time.Unix(0, n)
}

// rfc3339 also takes a space for the T, and no zone for UTC.
func rfc3339(s string) time.Time {
	s = strings.ToUpper(s)
	if strings.Contains(s, ",") {
		return time.Time{}
	}
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t
		}
	}
	return time.Time{}
}

// A maybe is a T if the value can be read as one.
type maybe[T any] struct {
	is T
	ok bool // it was there and could be read
}

// UnmarshalJSON takes any value.
func (m *maybe[T]) UnmarshalJSON(b []byte) error {
	var v T
	*m = maybe[T]{}
	if string(b) == "null" || json.Unmarshal(b, &v) != nil {
		return nil
	}
	*m = maybe[T]{v, true}
	return nil
}
