package httpd

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"together-relay/relay"
)

// A problem is an error answer by RFC 9457, with the member "error" beside it. It never
// repeats what the sender wrote.
type problem struct {
	status int
	code   string        // the member "error"
	detail string        // one line of help
	retry  time.Duration // Retry-After; zero is none
}

func (p *problem) Error() string { return p.code + ": " + p.detail }

// problemOf is the one table from errors to statuses.
func problemOf(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if errors.Is(err, relay.ErrUnproven) {
		return &problem{status: http.StatusUnauthorized, code: "Invalid signature",
			detail: "the signature does not prove that a known sender wrote this body"}
	}
	if errors.Is(err, relay.ErrUnknownSource) {
		return &problem{status: http.StatusNotFound, code: "Unknown source", detail: "no source of this name is configured"}
	}
	if e, ok := errors.AsType[*echo.HTTPError](err); ok && e.Code < 500 {
		return &problem{status: e.Code, code: http.StatusText(e.Code), detail: "see the README for what is served here"}
	}
	// All else is trouble of ours.
	p := &problem{status: http.StatusServiceUnavailable, code: "Not stored",
		detail: "the event could not be stored now; send it again, it will be stored once", retry: 5 * time.Second}
	if e, ok := errors.AsType[*relay.NotStored](err); ok && e.RetryAfter > 0 {
		p.retry = e.RetryAfter
	}
	return p
}

// writeError answers with the problem that err amounts to.
func writeError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	p := problemOf(err)
	if p.retry > 0 {
		c.Response().Header().Set(echo.HeaderRetryAfter, strconv.Itoa(int(math.Ceil(p.retry.Seconds()))))
	}
	writeJSON(c, p.status, "application/problem+json", struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Error  string `json:"error"`
	}{"about:blank", http.StatusText(p.status), p.status, p.detail, p.code})
}

// answer tells the sender what became of its delivery, and notes the status in out.
func answer(c echo.Context, out *relay.Outcome) error {
	if out.DeadLettered {
		out.Status = http.StatusAccepted
		writeJSON(c, out.Status, echo.MIMEApplicationJSON, struct {
			Received     bool   `json:"received"`
			DeadLettered bool   `json:"dead_lettered"`
			Reason       string `json:"reason"`
			Detail       string `json:"detail"`
		}{true, true, out.Reason, out.Detail})
		return nil
	}
	out.Status = http.StatusOK
	writeReceipt(c, out)
	return nil
}

// writeReceipt answers {"received":true,"id":…,"subject":…,"sequence":…,"duplicate":…}. It is
// nearly every answer, so it is written without reflection, and its length is known at once.
func writeReceipt(c echo.Context, out *relay.Outcome) {
	b := make([]byte, 0, 256)
	b = append(b, `{"received":true,"id":`...)
	b, _ = jsontext.AppendQuote(b, out.ID) // what is not UTF-8 is replaced
	b = append(b, `,"subject":`...)
	b, _ = jsontext.AppendQuote(b, out.Subject)
	b = append(b, `,"sequence":`...)
	b = strconv.AppendUint(b, out.Sequence, 10)
	b = append(b, `,"duplicate":`...)
	b = strconv.AppendBool(b, out.Duplicate)
	b = append(b, "}\n"...)
	c.Response().Header()[echo.HeaderContentType] = []string{echo.MIMEApplicationJSON}
	c.Response().WriteHeader(out.Status)
	_, _ = c.Response().Write(b) // a sender that has gone is nobody's error
}

// writeJSON writes v as a compact line. A sender that has gone is nobody's error.
func writeJSON(c echo.Context, status int, media string, v any) {
	c.Response().Header().Set(echo.HeaderContentType, media)
	c.Response().WriteHeader(status)
	if c.Request().Method == http.MethodHead {
		return
	}
	enc := json.NewEncoder(c.Response())
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}
