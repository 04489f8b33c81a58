package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"together-relay/adapters/together/togethersim"
)

// simKey is the key that the made-up Together takes. It opens nothing else.
const simKey = "simulated"

func newTogetherSim() *cobra.Command {
	var address string
	var speed float64
	var seed uint64
	cmd := &cobra.Command{
		Use:   "together-sim",
		Short: "Serve a made-up Together API, for trying things out",
		Long: `Serves the parts of the Together API that the relay watches, with jobs that come and go by
themselves. Its time runs faster than the real one. Nothing is stored, and the same seed makes the same jobs.`,
		Example: `  together-relay together-sim --listen 127.0.0.1:8090
  TOGETHER_API_KEY=simulated TOGETHER_BASE_URL=http://127.0.0.1:8090 together-relay serve --dev --watch-fine-tunes 2s --watch-batches 2s`,
		Args: cobra.NoArgs,
	}
	fl := cmd.Flags()
	fl.StringVar(&address, "listen", "127.0.0.1:8090", "`address` to serve on")
	fl.Float64Var(&speed, "speed", 60, "how many `seconds` pass there in one of ours")
	fl.Uint64Var(&seed, "seed", 0, "`number` that makes the jobs; 0 is another one each time")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if speed <= 0 || speed > 1e5 {
			return usagef("--speed is %g, it must be positive and at most 100000", speed)
		}
		l, err := listen("--listen", "--listen", address)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), `A made-up Together, %g times as fast as the real one:

    export TOGETHER_BASE_URL=%s TOGETHER_API_KEY=%s
`, speed, localURL(l.Addr().String()), simKey)
		return serveSim(cmd.Context(), l, seed, speed)
	}
	return cmd
}

// simSpeed is how many times as fast as ours the time of serve --simulate is.
const simSpeed = 180

// simulate makes the settings those of watching a made-up Together, and opens its address. What is
// set stays as it is, but for the key and the address of the API.
func (s *settings) simulate() (net.Listener, error) {
	l, err := listen("--simulate", "--simulate", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.secrets.apiKey, s.secrets.apiKeyFile, s.watch.base = simKey, "", localURL(l.Addr().String())
	for _, name := range []string{"watch-fine-tunes", "watch-batches", "watch-evaluations", "watch-files"} {
		s.devDefault(name, "1s")
	}
	s.devDefault("watch-models", "5s")
	s.devDefault("watch-budget", "6000")
	return l, nil
}

// serveSim serves a made-up Together until ctx is done.
func serveSim(ctx context.Context, l net.Listener, seed uint64, speed float64) error {
	now := time.Now()
	if seed == 0 {
		seed = uint64(now.UnixNano())
	}
	cfg := togethersim.Busy(seed)
	cfg.Key, cfg.Start, cfg.Now = simKey, now, togethersim.Fast(now, speed)
	server := &http.Server{Handler: togethersim.New(cfg).Handler(), ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { closeQuietly(server) })
	defer stop()
	return ignoreClosed(server.Serve(l))
}
