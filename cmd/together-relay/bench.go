package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"together-relay/adapters/together"
	"together-relay/schemas"
)

type benchFlags struct {
	source, url, typ, output string
	senders, size            int
	count                    int64
	duplicates               int
	rate                     float64
	duration                 time.Duration
	verify, noRetry          bool
}

func newBench() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Send the relay many signed events and measure its answers",
		Long: `Posts signed events, each with an id of its own, and prints how many were answered a second and
how long the answers took.

With --rate the clock says when each delivery is due, and latency is counted from that moment, so
a relay that stalls is seen in the latencies. What was due is sent even if the relay lags behind,
for as long again as the run was to take and ten seconds more. Without --rate each sender sends
when its last delivery was answered; latencies then are service times, and a stall is hardly seen
in them.

A delivery that is answered 408, 429 or 5xx, or not at all, is sent again up to nine times: after
its Retry-After, ten seconds at most, or after a wait that doubles from 100ms to five seconds.
Its latency lasts until the 200.

--verify reads the stream afterwards: every event that was answered 200 must be there exactly
once, and of this run nothing else. An event whose answer was lost or was 5xx may be there.
It keeps a byte of memory for each event. The clocks of this machine and of the NATS server must
agree to a minute.

Everything that is sent stays in the stream until --max-age of the relay removes it. Proxies of
the environment are not used.

The exit code is 0 if every delivery was answered 200 or 202 in the end and --verify found
nothing wrong. Ctrl-C ends the run and prints what there is.`,
		Example: `  together-relay bench                                      # as fast as it answers, for 10s
  together-relay bench --rate 2000 --duration 1m --verify
  together-relay bench --senders 512 --size 4000 --type batch.done
  together-relay bench --count 100000 --duplicates 5 --verify -o json | jq .latency_ms.p99
  together-relay bench --url https://relay.example.com/webhooks/together --rate 50`,
		Args: cobra.NoArgs,
	}
	s := newSettings(cmd.Flags(), forAll|forNATS)
	fl := cmd.Flags()
	fl.StringVar(&f.source, "source", defaultSource, "`name` of the source")
	fl.StringVar(&f.url, "url", "", "`URL` to post to; by default that of the running relay")
	fl.StringVar(&f.typ, "type", "fine_tune.completed", "event `type`")
	fl.IntVar(&f.senders, "senders", 64, "`connections` that are kept open, each with one delivery at a time")
	fl.Float64Var(&f.rate, "rate", 0, "`deliveries` a second, due by the clock; 0 is as fast as they are answered")
	fl.DurationVar(&f.duration, "duration", 10*time.Second, "for how `long` to send; no limit if only --count is given")
	fl.Int64Var(&f.count, "count", 0, "how many `events` to send; 0 is no limit")
	fl.IntVar(&f.size, "size", 450, "`bytes` of a body")
	fl.IntVar(&f.duplicates, "duplicates", 0, "`percent` of the events that are sent twice")
	fl.BoolVar(&f.verify, "verify", false, "read the stream afterwards")
	fl.BoolVar(&f.noRetry, "no-retry", false, "send nothing again")
	outputFlag(cmd, &f.output)
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(schemas.Types(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.count > 0 && !fl.Changed("duration") {
			f.duration = 0
		} else if f.duration <= 0 {
			return usagef("--duration is %s, it must be positive", f.duration)
		}
		if err := s.asClient(); err != nil {
			return err
		}
		return bench(cmd.Context(), s, f, cmd.OutOrStdout())
	}
	return cmd
}

func bench(ctx context.Context, s *settings, f benchFlags, stdout io.Writer) error {
	r, err := newBenchRun(s, f)
	if err != nil {
		return err
	}
	if f.verify { // not being able to is better known before
		reader, err := s.reader()
		if err != nil {
			return fmt.Errorf("--verify: %w", err)
		}
		reader.Close()
	}
	if err := r.do(ctx); err != nil {
		return err
	}
	report := r.report(ctx.Err() != nil)
	if f.verify {
		// Asked for at the beginning, so done after Ctrl-C too; a second one ends it.
		if report.Verify, err = r.verify(context.WithoutCancel(ctx), s); err != nil {
			err = fmt.Errorf("--verify: %w", err)
		}
	}
	if printErr := report.print(stdout, f.output); err == nil {
		err = printErr
	}
	if err != nil {
		return err
	}
	return report.err()
}

// check finds flags that make no run. The error says what would.
func (f benchFlags) check() error {
	switch {
	case f.senders < 1 || f.senders > 1<<16:
		return usagef("--senders is %d, it must be 1 to %d", f.senders, 1<<16)
	case !(f.rate >= 0 && f.rate <= 1e6): // NaN is neither
		return usagef("--rate is %g, it must be 0 to 1000000", f.rate)
	case f.count < 0 || f.count > maxBenchEvents:
		return usagef("--count is %d, it must be 0 to %d", f.count, int64(maxBenchEvents))
	case f.duplicates < 0 || f.duplicates > 100:
		return usagef("--duplicates is %d, it must be 0 to 100", f.duplicates)
	case f.size > 64<<20:
		return usagef("--size is %d, it must be at most %d", f.size, 64<<20)
	}
	if err := together.CheckType(f.typ); err != nil {
		return usagef("--type: %w", err)
	}
	return nil
}
