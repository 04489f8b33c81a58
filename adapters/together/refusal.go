package together

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"together-relay/relay"
)

// A refusal is an answer that is no good.
type refusal struct {
	what   string // method, path, status and the provider's word
	status int
	cause  error // nil, relay.ErrGone or relay.ErrKeyRefused
}

func (e *refusal) Error() string { return e.what }

func (e *refusal) Unwrap() error { return e.cause }

// status is that of the answer behind the error, or 0.
func status(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	return 0
}

// refused makes an error of an answer that is no good. A refused key pauses all requests; whoever
// is asked to come again later has to see to that.
func (a *API) refused(method, path string, answer *http.Response, body []byte) error {
	err := &refusal{status: answer.StatusCode}
	err.what = fmt.Sprintf("%s %s: %d %s", method, path, answer.StatusCode, http.StatusText(answer.StatusCode))
	meaning := ""
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		meaning = "the API key is refused"
		err.cause = relay.ErrKeyRefused
	case http.StatusPaymentRequired:
		meaning = "the spending limit is reached"
	case http.StatusForbidden:
		meaning = "the key has no right to this"
	case http.StatusNotFound:
		if !html(body) { // which is the word of something in between
			err.cause = relay.ErrGone
		}
	}
	if meaning != "" {
		err.what += ", " + meaning
	}
	if word := strings.ReplaceAll(refusalText(body), a.key, "…"); word != "" {
		err.what += ": " + word
	}
	hint := hintOf(answer.Header, time.Now())
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		a.hold(err, keyPause)
		return &relay.Later{Cause: err, After: keyPause}
	case http.StatusPaymentRequired:
		return &relay.Later{Cause: err, After: max(hint, keyPause)}
	case http.StatusTooManyRequests:
		return &relay.Later{Cause: err, After: hint}
	}
	if answer.StatusCode >= 500 && hint > 0 {
		return &relay.Later{Cause: err, After: hint}
	}
	return err
}

// hintOf is how long the provider wants to be left alone, at most maxHint; 0 if it does
// not say.
func hintOf(h http.Header, now time.Time) time.Duration {
	for _, header := range []struct {
		name string
		unit time.Duration
	}{{"Retry-After-Ms", time.Millisecond}, {"Retry-After", time.Second}, {"X-Ratelimit-Reset", time.Second}} {
		text := strings.TrimSpace(h.Get(header.name))
		n, err := strconv.ParseFloat(text, 64)
		if date, dateErr := http.ParseTime(text); dateErr == nil {
			n, err = float64(date.Sub(now))/float64(header.unit), nil
		}
		if err != nil || math.IsNaN(n) || n <= 0 {
			continue
		}
		return time.Duration(min(n*float64(header.unit), float64(maxHint)))
	}
	return 0
}

// refusalText is what the provider says about an error, on one line: the body has one of
// several shapes.
func refusalText(body []byte) string {
	if html(body) {
		return "the body is HTML"
	}
	var said struct {
		Error   message `json:"error"`
		Message word    `json:"message"`
	}
	if json.Unmarshal(body, &said) != nil {
		var word string
		if json.Unmarshal(body, &word) == nil {
			return sentence(word)
		}
		return sentence(string(body))
	}
	if said.Error != "" {
		return sentence(string(said.Error))
	}
	return sentence(string(said.Message))
}

func html(body []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(body), []byte("<")) }
