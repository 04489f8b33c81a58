package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// A target is where deliveries are posted, with the part of the request that is always the same.
type target struct {
	address string
	secure  *tls.Config // nil is plain HTTP
	head    []byte      // the request line and the fixed headers
}

func newTarget(where string, size int) (*target, error) {
	u, err := url.Parse(where)
	if err != nil {
		return nil, usagef("--url: %w", err)
	}
	t := &target{}
	port := u.Port()
	switch {
	case u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, usagef("--url is %q; write it as http://host:port/webhooks/%s", where, defaultSource)
	case u.Scheme == "https":
		t.secure = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
		port = orElse(port, "443")
	default:
		port = orElse(port, "80")
	}
	t.address = net.JoinHostPort(u.Hostname(), port)
	t.head = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: together-relay/%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n",
		u.RequestURI(), u.Host, version(), size)
	if u.User != nil {
		password, _ := u.User.Password()
		t.head = fmt.Appendf(t.head, "Authorization: Basic %s\r\n", base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	}
	return t, nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// A wire is one connection that is kept, and opened again when it broke. It exists because
// http.Client takes more than twice the time for a request, which on a machine that also
// runs the relay is taken from the relay. Answers are read by net/http.
type wire struct {
	to     *target
	conn   net.Conn // nil is not open
	in     *bufio.Reader
	out    []byte
	body   []byte
	used   time.Time
	unhook func() bool
}

const (
	dialTimeout   = 5 * time.Second
	answerTimeout = 30 * time.Second
	idleLimit     = 5 * time.Second // servers and balancers close what idles longer
	maxAnswer     = 1 << 20         // bytes; a longer one is cut
)

// open connects unless that is done. When ctx ends, so does what the connection waits for.
func (w *wire) open(ctx context.Context) error {
	if w.conn != nil && time.Since(w.used) > idleLimit {
		w.close()
	}
	if w.conn != nil {
		return nil
	}
	ctxDial, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctxDial, "tcp", w.to.address)
	if err != nil {
		return err
	}
	if w.to.secure != nil {
		secure := tls.Client(conn, w.to.secure)
		if err := secure.HandshakeContext(ctxDial); err != nil {
			closeQuietly(conn)
			return fmt.Errorf("greet %s: %w", w.to.address, err)
		}
		conn = secure
	}
	w.conn, w.used = conn, time.Now()
	if w.in == nil {
		w.in = bufio.NewReader(conn)
	}
	w.in.Reset(conn)
	w.unhook = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return nil
}

func (w *wire) close() {
	if w.conn != nil {
		w.unhook()
		closeQuietly(w.conn)
		w.conn = nil
	}
}

// A reply is an answer. Its text is good until the next post.
type reply struct {
	status int
	header http.Header
	text   []byte
}

// post sends the body and returns the answer. After an error nobody knows whether the body
// was taken.
func (w *wire) post(ctx context.Context, header map[string]string, body []byte) (reply, error) {
	if err := w.open(ctx); err != nil {
		return reply{}, err
	}
	w.out = append(w.out[:0], w.to.head...)
	for name, value := range header {
		w.out = append(append(append(append(w.out, name...), ": "...), value...), "\r\n"...)
	}
	w.out = append(append(w.out, "\r\n"...), body...)
	got, last, err := w.exchange(ctx)
	w.used = time.Now()
	// Bytes that nobody asked for would be taken for the next answer.
	if err != nil || last || w.in.Buffered() > 0 {
		w.close()
	}
	return got, err
}

var errClosed = errors.New("connection closed without an answer")

// exchange writes the request and reads the answer. The last one is that after which the
// connection is of no more use.
func (w *wire) exchange(ctx context.Context) (got reply, last bool, err error) {
	if err := w.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return got, true, err
	}
	if err := ctx.Err(); err != nil { // or else the deadline of its end may just have been replaced
		return got, true, err
	}
	_, writeErr := w.conn.Write(w.out) // an early answer may be there all the same
	resp, err := http.ReadResponse(w.in, nil)
	for err == nil && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
		resp, err = http.ReadResponse(w.in, nil)
	}
	switch {
	case err != nil && writeErr != nil:
		return got, true, writeErr
	case errors.Is(err, io.ErrUnexpectedEOF):
		return got, true, errClosed
	case err != nil:
		return got, true, err
	}
	defer closeQuietly(resp.Body)
	w.body, last, err = readUpTo(maxAnswer, resp.Body, w.body[:0])
	if last || err != nil {
		w.close() // the rest is not waited for
	}
	return reply{resp.StatusCode, resp.Header, w.body}, last || resp.Close || writeErr != nil, err
}

// readUpTo appends what r gives to buf, and says whether the limit cut it.
func readUpTo(limit int, r io.Reader, buf []byte) (text []byte, cut bool, err error) {
	for len(buf) < limit {
		buf = slices.Grow(buf, 512)
		n, err := r.Read(buf[len(buf):min(cap(buf), limit)])
		buf = buf[:len(buf)+n]
		switch {
		case errors.Is(err, io.EOF):
			return buf, false, nil
		case err != nil:
			return buf, false, err
		}
	}
	return buf, true, nil
}
