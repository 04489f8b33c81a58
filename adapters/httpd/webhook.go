package httpd

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/time/rate"

	"together-relay/relay"
)

// A gate is a source's part of the checks.
type gate struct {
	Source
	canonical []string      // the names in Header as a request holds them
	limiter   *rate.Limiter // nil is no limit
}

func newGate(s Source) *gate {
	g := &gate{Source: s}
	for _, name := range s.Header {
		g.canonical = append(g.canonical, http.CanonicalHeaderKey(name))
	}
	if s.Rate > 0 {
		g.limiter = rate.NewLimiter(rate.Limit(s.Rate), int(math.Ceil(s.Rate)))
	}
	return g
}

// webhook takes one delivery, or answers the handshake that asks for consent to send.
func (s *Server) webhook(c echo.Context) error {
	started := time.Now()
	name := c.Param("source")
	g := s.sources[name]
	if g != nil && c.Request().Method == http.MethodOptions {
		return handshake(c, g)
	}
	out := relay.Outcome{Remote: c.RealIP()}
	if g != nil {
		out.Source = name
	}
	err := s.deliver(c, g, &out)
	if err != nil {
		p := problemOf(err)
		out.Status = p.status
		err = p
	}
	out.Took = time.Since(started)
	s.cfg.Done(out)
	return err
}

// deliver is the checks in their order, and the answer. It notes in out what it learns.
func (s *Server) deliver(c echo.Context, g *gate, out *relay.Outcome) (err error) {
	defer func() {
		if p := recover(); p != nil {
			out.Result = relay.ResultNotStored
			out.Err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			err = out.Err
		}
	}()
	r := c.Request()
	out.Result = relay.ResultRejected
	reject := func(reason string, p *problem) error {
		out.Rejected = reason
		return p
	}
	if g == nil {
		return reject(relay.RejectedRoute, &problem{status: http.StatusNotFound, code: "Unknown source",
			detail: "no source of this name is configured"})
	}
	if r.Method != http.MethodPost {
		c.Response().Header().Set(echo.HeaderAllow, allowed)
		return reject(relay.RejectedMethod, &problem{status: http.StatusMethodNotAllowed, code: "Method not allowed",
			detail: "deliveries are sent with POST"})
	}
	if detail := checkMedia(r.Header); detail != "" {
		return reject(relay.RejectedMedia, &problem{status: http.StatusUnsupportedMediaType, code: "Unsupported media type", detail: detail})
	}
	limit := s.cfg.MaxBody()
	tooLarge := func() error {
		// What is left of the body is not worth waiting for.
		c.Response().Header().Set(echo.HeaderConnection, "close")
		return reject(relay.RejectedSize, &problem{status: http.StatusRequestEntityTooLarge, code: "Body too large",
			detail: fmt.Sprintf("the limit is %d bytes", limit)})
	}
	if r.ContentLength > limit {
		return tooLarge()
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return reject(relay.RejectedBusy, &problem{status: http.StatusTooManyRequests, code: "Too many requests",
			detail: fmt.Sprintf("%d deliveries are in flight, which is the limit", s.cfg.MaxInFlight), retry: time.Second})
	}
	if g.limiter != nil && !g.limiter.Allow() {
		return reject(relay.RejectedRate, &problem{status: http.StatusTooManyRequests, code: "Too many requests",
			detail: fmt.Sprintf("the source's rate is %g deliveries a second", g.Rate), retry: time.Second})
	}
	body, err := read(r, limit)
	defer body.free()
	out.Body = len(body.bytes)
	switch {
	case err == nil:
	case errors.Is(err, errBodyTooLarge):
		return tooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.Response().Header().Set(echo.HeaderConnection, "close")
		return reject(relay.RejectedBody, &problem{status: http.StatusRequestTimeout, code: "Request timeout",
			detail: fmt.Sprintf("the body did not arrive within %s", s.cfg.ReadTimeout)})
	default:
		return reject(relay.RejectedBody, &problem{status: http.StatusBadRequest, code: "Bad request",
			detail: "the body could not be read to its end"})
	}
	out.Receipt, err = s.cfg.Receiver.Receive(r.Context(), relay.Delivery{
		Source:  out.Source,
		Body:    body.bytes,
		Header:  g.pick(r.Header),
		Arrived: time.Now(),
	})
	out.Err = err
	switch {
	case errors.Is(err, relay.ErrUnproven):
		return reject(relay.RejectedSignature, problemOf(err))
	case errors.Is(err, relay.ErrUnknownSource):
		return reject(relay.RejectedRoute, problemOf(err))
	}
	out.Result = relay.Result(out.Receipt, err)
	if err != nil {
		return err
	}
	return answer(c, out)
}

// allowed is what a source's path answers to.
const allowed = "POST, OPTIONS"

// checkMedia says what is wrong with the way the body is written, if anything is.
func checkMedia(h http.Header) string {
	media := ""
	if values := h[echo.HeaderContentType]; len(values) > 0 { // the name is canonical, which Get would see to
		media, _, _ = strings.Cut(values[0], ";")
	}
	if !strings.EqualFold(strings.TrimSpace(media), echo.MIMEApplicationJSON) {
		return "the content type must be application/json"
	}
	if len(h[echo.HeaderContentEncoding]) > 0 {
		return "the body must not be encoded: the signature is that of the plain bytes"
	}
	return ""
}

// maxPicked is the longest header value in bytes that is looked at. A signature is shorter.
const maxPicked = 1024

// odd says whether a character has no business in a header that is looked at.
func odd(r rune) bool { return r < ' ' || r > '~' }

// pick takes the headers that the source needs.
func (g *gate) pick(h http.Header) map[string]string {
	picked := make(map[string]string, len(g.Header))
	for i, name := range g.canonical {
		values := h[name]
		if len(values) > 0 && values[0] != "" && len(values[0]) <= maxPicked && !strings.ContainsFunc(values[0], odd) {
			picked[g.Header[i]] = values[0]
		}
	}
	return picked
}

var errBodyTooLarge = errors.New("body too large")

// read takes the body through the limit, whatever length was declared.
func read(r *http.Request, limit int64) (buffer, error) {
	body := newBuffer(r.ContentLength)
	err := body.fill(r.Body, limit)
	return body, err
}

// handshake answers whoever asks, by the CloudEvents rules against abuse, whether it may
// send here. Consent is the header WebHook-Allowed-Origin; the answer is 200 either way.
func handshake(c echo.Context, g *gate) error {
	request, response := c.Request().Header, c.Response().Header()
	response.Set(echo.HeaderAllow, allowed)
	origin := request.Get("WebHook-Request-Origin")
	for _, ok := range g.AllowedOrigins {
		if origin == "" || ok != "*" && !strings.EqualFold(ok, origin) {
			continue
		}
		response.Set("WebHook-Allowed-Origin", origin)
		perMinute := "*"
		if g.Rate > 0 {
			perMinute = fmt.Sprintf("%.0f", math.Max(1, math.Floor(g.Rate*60)))
		}
		response.Set("WebHook-Allowed-Rate", perMinute)
		break
	}
	return c.NoContent(http.StatusOK)
}
