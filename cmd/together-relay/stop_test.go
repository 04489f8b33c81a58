package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gofrs/flock"
)

// halfSend opens a connection and sends a signed delivery but for the last byte of its body.
func halfSend(t *testing.T, p *process, body []byte) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeQuietly(conn) })
	fmt.Fprintf(conn, "POST /webhooks/together HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\n"+
		"X-Together-Signature: %s\r\nContent-Length: %d\r\n\r\n%s", sign(secret, body), len(body), body[:len(body)-1])
	eventually(t, "the request is in flight", func() bool {
		_, metrics := p.get(t, p.admin+"/metrics")
		return strings.Contains(metrics, "\nrelay_requests_in_flight 1\n")
	})
	return conn
}

func TestStopAnswersWhatIsInFlight(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	body := newBody("evt_1")
	conn := halfSend(t, p, body)

	p.signal(t, syscall.SIGTERM)
	p.waitLog(t, "relay stops; requests in flight get their answers")
	eventually(t, "nobody else is let in", func() bool {
		late, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err == nil {
			closeQuietly(late)
		}
		return err != nil
	})
	if p.hasEnded() {
		t.Fatal("the relay ended before it answered")
	}

	if _, err := conn.Write(body[len(body)-1:]); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	closeQuietly(resp.Body)
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the answer is %s, want 200", resp.Status)
	}
	if state := p.wait(t); state.ExitCode() != 0 {
		t.Errorf("the relay ended with %s, want exit code 0", state)
	}

	again := launch{env: withSecret, dir: p.dir}.start(t).waitReady(t)
	if a := again.mustSend(t, body, http.StatusOK); !a.Duplicate {
		t.Errorf("the event was not stored: %+v", a)
	}
}

func TestStopCutsOffWhoeverTakesTooLong(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret, args: []string{"--drain-timeout=50ms"}}.start(t).waitReady(t)
	halfSend(t, p, newBody("evt_1"))
	p.signal(t, syscall.SIGTERM)
	if state := p.wait(t); state.ExitCode() != 1 || !strings.Contains(p.log.String(), "together-relay: requests in flight were cut off after 50ms") {
		t.Errorf("the relay ended with %s, want exit code 1 and why:\n%s", state, p.log)
	}
}

func TestSlowSenderIsCutOff(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret, args: []string{"--read-timeout=100ms"}}.start(t).waitReady(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(conn)
	fmt.Fprint(conn, "POST /webhooks/together HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	answer, err := io.ReadAll(conn) // it ends only when the relay hangs up
	if err != nil || strings.Contains(string(answer), " 200 ") {
		t.Errorf("a slow sender is answered %q, %v", answer, err)
	}
}

func TestRequestsInFlightAreBounded(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret, args: []string{"--max-in-flight=1"}}.start(t).waitReady(t)
	body := newBody("evt_1")
	conn := halfSend(t, p, body)
	if a := p.mustSend(t, newBody("evt_2"), http.StatusTooManyRequests); a.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	if status, _ := p.get(t, p.url+"/readyz"); status != http.StatusOK {
		t.Errorf("/readyz is %d while a request is in flight, want 200", status)
	}
	if _, err := conn.Write(body[len(body)-1:]); err != nil {
		t.Fatal(err)
	}
	if line := p.waitLine(t, "the first is stored", func(line map[string]any) bool { return line["event_id"] == "evt_1" }); line["status"] != 200.0 {
		t.Errorf("log line %v, want 200", line)
	}
	eventually(t, "the next is let in", func() bool {
		a, err := p.send(secret, newBody("evt_2"))
		return err == nil && a.Status == http.StatusOK
	})
}

func TestStopLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	p.stop(t)
	if _, err := os.Stat(runningPath(p.dir)); !os.IsNotExist(err) {
		t.Errorf("the note where the relay runs: %v, want none", err)
	}
	lock := flock.New(filepath.Join(p.dir, "lock"))
	if ok, err := lock.TryLock(); !ok || err != nil {
		t.Errorf("the lock of the data directory: %v, %v; want it free", ok, err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	p := launch{env: withSecret}.start(t).waitReady(t)
	halfSend(t, p, newBody("evt_1"))
	p.signal(t, syscall.SIGTERM)
	p.waitLog(t, "relay stops; requests in flight get their answers")
	eventually(t, "the relay ends while a request is in flight", func() bool {
		p.signal(t, syscall.SIGTERM) // until it is heard as the second one
		return p.hasEnded()
	})
	if status, ok := p.wait(t).Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
		t.Errorf("the relay ended with %s, want the signal's own end", p.cmd.ProcessState)
	}
}
