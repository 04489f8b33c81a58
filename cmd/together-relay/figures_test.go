package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/labstack/echo/v4" //nolint:depguard // the handler that the relay is compared with
	"github.com/nats-io/nats.go/jetstream"
)

var figures = flag.Bool("measure", false, "measure throughput, latency and CPU by configuration, on a quiet machine")

// TestMeasure prints the README's table of figures. The relay, the broker and the load are
// processes of their own; ratios are of one run.
func TestMeasure(t *testing.T) {
	if !*figures {
		t.Skip("-measure is not set")
	}
	table := &strings.Builder{}
	fmt.Fprintf(table, "| configuration | senders | events/s | p50 ms | p99 ms | p99.9 ms | relay's CPU per event |\n|---|---|---|---|---|---|---|\n")
	row := func(name string, senders int, m measured) {
		fmt.Fprintf(table, "| %s | %d | %.0f | %.2f | %.2f | %.2f | %.0f µs |\n", name, senders, m.Throughput, m.Latency.P50, m.Latency.P99, m.Latency.P999, m.cpu)
		t.Logf("%-60s %4d senders %8.0f/s %6.1f µs", name, senders, m.Throughput, m.cpu)
	}
	for _, senders := range []int{1, 64, 512} {
		for _, sync := range []string{"always", "group", "never"} {
			name := map[string]string{"always": "embedded, a flush for each message", "group": "embedded, group commit (as shipped)", "never": "embedded, no flush at all"}[sync]
			row(name, senders, measureRelay(t, senders, "--nats-sync="+sync))
		}
	}
	for _, senders := range []int{1, 64, 512} {
		for _, batches := range []bool{false, true} {
			b := node{store: t.TempDir()}.startBroker(t)
			name := "outside server that flushes each message, one by one"
			if batches {
				name = "outside server that flushes each message, batches (as shipped)"
			} else {
				makeStreamWithoutBatches(t, b.url)
			}
			row(name, senders, measureRelay(t, senders, "--nats-url="+b.url))
		}
	}
	var ratios []float64
	for range 5 {
		b := node{store: t.TempDir(), sync: "2m"}.startBroker(t)
		relay, reference := measureRelay(t, 64, "--nats-url="+b.url), measureProcess(t, 64, "test-reference")
		b.end(t, syscall.SIGKILL)
		if len(ratios) == 0 {
			row("outside server that does not flush", 64, relay)
			row("for comparison: a bare Echo handler that stores nothing", 64, reference)
		}
		ratios = append(ratios, relay.cpu/reference.cpu)
	}
	slices.Sort(ratios)
	t.Logf("the relay's CPU per event is %.2f times that of the bare handler, the median of %.2f\n\n%s", ratios[len(ratios)/2], ratios, table)
}

// measured is what one run showed.
type measured struct {
	benchReport
	cpu float64 // of the measured process, in microseconds per event
}

func measureRelay(t *testing.T, senders int, args ...string) measured {
	t.Helper()
	dir := t.TempDir()
	return measureProcess(t, senders, "together-relay", append([]string{"serve", "--admin-listen=", "--nats-listen=127.0.0.1:0", "--data-dir=" + dir}, args...)...)
}

// measureProcess starts a server, lets the bench verb load it, and ends it.
func measureProcess(t *testing.T, senders int, name string, args ...string) measured {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", fixedPort(t))
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "RELAY_LISTEN="+address, withSecret[0])
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	eventually(t, name+" is ready", func() bool { return isOK("http://" + address + "/readyz") })

	tool, err := exec.LookPath("together-relay")
	if err != nil {
		t.Fatal(err)
	}
	bench := exec.Command(tool, "bench", "-o", "json", "--duration=5s", "--senders="+strconv.Itoa(senders), "--url=http://"+address+"/webhooks/together")
	bench.Env = cmd.Env
	before := cpuOf(t, cmd.Process.Pid)
	text, err := bench.Output()
	spent := cpuOf(t, cmd.Process.Pid) - before
	if err != nil {
		t.Fatalf("bench: %v: %s", err, text)
	}
	var m measured
	if err := json.Unmarshal(text, &m.benchReport); err != nil {
		t.Fatal(err)
	}
	m.cpu = float64(spent.Microseconds()) / float64(m.Stored)
	return m
}

// cpuOf is the processor time that a process has used, in steps of 10 ms; Linux only.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skip("this machine does not tell a process's processor time: ", err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// makeStreamWithoutBatches makes the stream as an operator could, so that the relay sends one
// message at a time.
func makeStreamWithoutBatches(t *testing.T, url string) {
	t.Helper()
	js := connect(t, url)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "TOGETHER", Subjects: []string{"together.>"}, Discard: jetstream.DiscardNew,
		MaxAge: 720 * time.Hour, Duplicates: 72 * time.Hour, AllowDirect: true})
	if err != nil {
		t.Fatal(err)
	}
}

// referenceMain is the bare handler that the relay is compared with: it reads the body, checks
// its HMAC and decodes the envelope.
func referenceMain() {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.GET("/readyz", func(c echo.Context) error { return c.NoContent(http.StatusOK) })
	e.POST("/webhooks/together", func(c echo.Context) error {
		body, err := io.ReadAll(c.Request().Body)
		if err != nil {
			return err
		}
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		signature, err := hex.DecodeString(c.Request().Header.Get("X-Together-Signature"))
		if err != nil || !hmac.Equal(signature, mac.Sum(nil)) {
			return c.NoContent(http.StatusUnauthorized)
		}
		var envelope struct {
			ID   string          `json:"id"`
			Type string          `json:"type"`
			Data json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(body, &envelope); err != nil {
			return err
		}
		return c.JSON(http.StatusOK, map[string]any{"received": true, "id": envelope.ID})
	})
	_ = e.Start(os.Getenv("RELAY_LISTEN"))
}
