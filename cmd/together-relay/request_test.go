package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// BenchmarkRequest is a delivery from its first byte to the answer: HTTP on a connection that
// is kept, signature, schema, and the acknowledgement of the embedded server, which has
// written the event to disk by then. The relay runs in the process of the benchmark, so
// that a profile shows it.
func BenchmarkRequest(b *testing.B) {
	url, runs := serveHere(b), 0
	for _, senders := range []int{1, 64} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			transport := &http.Transport{MaxIdleConnsPerHost: senders}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			runs++ // each run has ids of its own
			bodies := make([][]byte, b.N)
			for i := range bodies {
				bodies[i] = benchmarkBody(fmt.Sprintf("evt_%d_%d", runs, i))
			}
			var next atomic.Int64
			b.SetBytes(int64(len(bodies[0])))
			b.ReportAllocs()
			b.ResetTimer()
			done := make(chan error, senders)
			for range senders {
				go func() {
					for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
						if err := postOne(client, url, bodies[i]); err != nil {
							done <- err
							return
						}
					}
					done <- nil
				}()
			}
			for range senders {
				if err := <-done; err != nil {
					b.Error(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func postOne(client *http.Client, url string, body []byte) error {
	req, err := http.NewRequest(http.MethodPost, url+"/webhooks/together", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Together-Signature", sign(secret, body))
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer closeQuietly(resp.Body)
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the answer is %s %s, %w", resp.Status, answer, err)
	}
	return nil
}

// benchmarkBody is 450 bytes, about what an event of a fine-tuning job has.
func benchmarkBody(id string) []byte {
	body := fmt.Appendf(nil, `{"id":%q,"type":"fine_tune.completed","created_at":"2026-07-01T09:00:00Z","data":{"fine_tune_id":"ft-1",`+
		`"model_name":"acme/Llama-3.3-70B-Instruct-support","eval_loss":0.8731,"note":"`, id)
	return append(append(body, strings.Repeat("x", 450-len(body)-len(`"}}`))...), `"}}`...)
}

// serveHere runs serve in this process until the benchmark ends.
func serveHere(b *testing.B) (url string) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	dir, log := filepath.Join(b.TempDir(), "data"), &output{}
	file := writeFile(b, filepath.Join(b.TempDir(), "relay.yaml"), "sources: {together: {secrets: ["+secret+"]}}")
	ended := make(chan int)
	go func() {
		ended <- run(ctx, []string{"serve", "--config=" + file, "--data-dir=" + dir, "--log-level=warn",
			"--listen=127.0.0.1:0", "--admin-listen=", "--nats-listen=127.0.0.1:0"}, nil, io.Discard, log)
	}()
	b.Cleanup(func() {
		cancel()
		if code := <-ended; code != 0 || log.String() != "" {
			b.Errorf("serve ended with exit code %d:\n%s", code, log)
		}
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(b, "ready", func() bool {
		note, err := readRunning(dir)
		if err != nil || note.URL == "" {
			return false
		}
		url = note.URL
		resp, err := client.Get(url + "/readyz")
		if err != nil {
			return false
		}
		closeQuietly(resp.Body)
		return resp.StatusCode == http.StatusOK
	})
	return url
}
