package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// An elector answers for a cluster of three as one does around an election. The real one does so for
// moments that no test can choose.
type elector struct {
	mu    sync.Mutex
	asked map[string]int // how often, by subject and start
}

const (
	noLeader = `"cluster":{"name":"c1","replicas":[{"name":"n1"},{"name":"n2"},{"name":"n3"}]}`
	leaderN1 = `"cluster":{"name":"c1","leader":"n1","replicas":[{"name":"n2"},{"name":"n3"}]}`
)

// startElector answers what is asked of JetStream, on a server that has none.
func startElector(t *testing.T, answer func(subject string, data []byte, nth func(key string) int) string) *Replayer {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { stopServer(ns) })
	nc := client(t, ns.ClientURL())
	e := elector{asked: map[string]int{}}
	nth := func(key string) int {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.asked[key]++
		return e.asked[key]
	}
	_, err = nc.Subscribe("$JS.API.>", func(m *nats.Msg) {
		if text := answer(strings.TrimPrefix(m.Subject, "$JS.API."), m.Data, nth); text != "" {
			_ = m.Respond([]byte(text))
		}
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	h := teamHouse{url: ns.ClientURL()}
	return h.replayer(t)
}

// A plan promises all that was acknowledged before it, also if a replica that is behind is asked
// first: as one that answers for a stream without a leader, and as one that counts.
func TestPlanIsTheLeaders(t *testing.T) {
	t.Parallel()
	p := startElector(t, func(subject string, data []byte, nth func(string) int) string {
		switch {
		case subject == "STREAM.INFO.TOGETHER" && nth("info") == 1:
			return `{"config":{"name":"TOGETHER","subjects":["together.>"]},"state":{"messages":90,"first_seq":1,"last_seq":90},` + noLeader + `}`
		case subject == "STREAM.INFO.TOGETHER":
			return `{"config":{"name":"TOGETHER","subjects":["together.>"]},"state":{"messages":150,"first_seq":1,"last_seq":150},` + leaderN1 + `}`
		case strings.HasPrefix(subject, "CONSUMER.INFO."):
			return fmt.Sprintf(`{"name":"ml","config":{"durable_name":"ml","filter_subject":"together.>","metadata":{%q:"ml"}}}`, teamKey)
		case strings.HasPrefix(subject, "CONSUMER.CREATE."):
			var asked struct {
				Config struct {
					Start uint64 `json:"opt_start_seq"`
				} `json:"config"`
			}
			var same struct {
				Config json.RawMessage `json:"config"`
			}
			if err := errors.Join(json.Unmarshal(data, &asked), json.Unmarshal(data, &same)); err != nil {
				return err.Error()
			}
			stored, at := 150, "n1"
			if nth(fmt.Sprint("count from ", asked.Config.Start))%2 == 1 {
				stored, at = 140, "n2"
			}
			return fmt.Sprintf(`{"stream_name":"TOGETHER","name":"c","config":%s,"num_pending":%d,"cluster":{"name":"c1","leader":%q}}`,
				same.Config, max(stored+1-int(asked.Config.Start), 0), at)
		}
		return `{}`
	})
	plan, err := p.Plan(t.Context(), Choice{Team: "ml", From: 1})
	if err != nil || plan.To != 150 || plan.Total != 150 {
		t.Errorf("Plan = %+v, %v", plan, err)
	}
}

// Whoever asks for replays waits while nobody answers, and while only a replica does that is behind.
func TestReplaysOutlastAnElection(t *testing.T) {
	t.Parallel()
	p := startElector(t, func(subject string, data []byte, nth func(string) int) string {
		switch {
		case strings.HasPrefix(subject, "STREAM.INFO.KV_") && nth("info") == 1:
			return "" // there is no leader
		case strings.HasPrefix(subject, "STREAM.INFO.KV_"):
			return `{"config":{"name":"KV_TOGETHER_REPLAYS","subjects":["$KV.TOGETHER_REPLAYS.>"],"max_msgs_per_subject":1},"state":{},` + leaderN1 + `}`
		case strings.HasPrefix(subject, "CONSUMER.CREATE."):
			return `{"stream_name":"KV_TOGETHER_REPLAYS","name":"c","config":{},"num_pending":0}`
		case strings.HasPrefix(subject, "STREAM.MSG.GET.") && nth("get") == 1:
			return `{"message":{"subject":"$KV.TOGETHER_REPLAYS.ml.1","seq":1}}`
		case strings.HasPrefix(subject, "STREAM.MSG.GET.") && nth("get again") == 1:
			return `{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`
		case strings.HasPrefix(subject, "STREAM.MSG.GET."):
			return `{"error":{"code":404,"err_code":10037,"description":"no message found"}}`
		}
		return `{}`
	})
	if _, err := p.Find(t.Context(), "1"); !errors.Is(err, ErrNoReplay) {
		t.Errorf("Find = %v", err)
	}
}

// What does not pass is told at once, and so is that whoever asked has gone.
func TestOutlast(t *testing.T) {
	t.Parallel()
	r := openReader(t, startServer(t, t.TempDir(), -1).ClientURL())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, fails := range []error{ErrNoTeam, nil} {
		asked := 0
		if err := r.outlast(ctx, func() error { asked++; return fails }); !errors.Is(err, fails) || asked != 1 {
			t.Errorf("outlast = %v after %d times", err, asked)
		}
	}
	asked := 0
	err := r.outlast(ctx, func() error {
		if asked++; asked == 3 {
			cancel()
		}
		return errBehind
	})
	if !errors.Is(err, errBehind) || asked != 3 {
		t.Errorf("outlast = %v after %d times", err, asked)
	}
}
