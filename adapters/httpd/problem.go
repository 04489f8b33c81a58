package httpd

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

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
	writeJSON(c, out.Status, echo.MIMEApplicationJSON, struct {
		Received  bool   `json:"received"`
		ID        string `json:"id"`
		Subject   string `json:"subject"`
		Sequence  uint64 `json:"sequence"`
		Duplicate bool   `json:"duplicate"`
	}{true, out.ID, out.Subject, out.Sequence, out.Duplicate})
	return nil
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
