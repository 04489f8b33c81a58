package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
	"together-relay/relay"
	"together-relay/schemas"
)

type replayFlags struct {
	choice       jetstream.Choice
	since, until string
	all, dryRun  bool
	resume       string
	output       string
}

func newReplay() *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Send stored events to one team again",
		Long: `Copies stored events to one team alone, in the order in which they were stored. The copies come
beside the team's live events, from its consumer on the stream <stream>_REPLAY, with the same headers and
ce-replay besides. The stream of events is not written to, and nobody's place on it moves.

What is chosen is fixed at the beginning, so a replay ends while events come in. Only events that
the team subscribes to are copied, unless --any is given. Ctrl-C ends it at any point, and so does a crash:
--resume ID goes on, and no event is copied twice or left out. While NATS is away, or has no room, it waits.`,
		Example: `  together-relay replay --team billing --since 24h --type batch.done
  together-relay replay --team billing --from-seq 1000 --to-seq 2000 --dry-run
  together-relay replay --resume 3h0vn5a2kc
  together-relay replay ls`,
		Args: cobra.NoArgs,
	}
	s := newSettings(cmd.Flags(), forAll|forNATS)
	fl := cmd.Flags()
	fl.StringVar(&f.choice.Team, "team", "", "the `team` that gets the copies")
	sinceFlag(cmd, &f.since, "", "stored")
	fl.StringVar(&f.until, "until", "", "stored before then: a `time`, or how long ago")
	fl.StringSliceVar(&f.choice.Types, "type", nil, "`pattern` of types: batch.done, 'fine_tune.*' or 'fine_tune.>'; may be given more than once")
	fl.StringVar(&f.choice.Resource, "resource", "", "the `resource` that events are about, such as ft-1")
	fl.Uint64Var(&f.choice.From, "from-seq", 0, "the first `sequence` in the stream")
	fl.Uint64Var(&f.choice.To, "to-seq", 0, "the last `sequence` in the stream")
	fl.BoolVar(&f.all, "all", false, "all that is stored for the team; without it, something above has to be said")
	fl.BoolVar(&f.choice.Any, "any", false, "also events that the team does not subscribe to")
	fl.Float64Var(&f.choice.Rate, "rate", 100, "copies in a `second`; 0 is as fast as it goes")
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would be copied, and copy nothing")
	fl.StringVar(&f.resume, "resume", "", "go on with the replay of that `id`")
	outputFlag(cmd, &f.output)
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(schemas.Types(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		if err := f.check(cmd.Flags().Changed, time.Now()); err != nil {
			return err
		}
		rate := math.NaN() // that of the plan
		if f.resume == "" || cmd.Flags().Changed("rate") {
			rate = f.choice.Rate
		}
		return replay(cmd.Context(), s, f, rate, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	cmd.AddCommand(newReplayLs(), newReplayStop())
	return cmd
}

// chosenBy are the flags that choose events.
var chosenBy = [...]string{"since", "until", "type", "resource", "from-seq", "to-seq"}

// check completes the choice, and refuses what was probably not meant.
func (f *replayFlags) check(given func(string) bool, now time.Time) (err error) {
	c := &f.choice
	some := slices.ContainsFunc(chosenBy[:], given)
	switch {
	case c.Rate < 0 || math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0):
		return usagef("--rate must be a number of copies in a second, or 0")
	case f.resume != "" && (some || f.all || c.Any || f.dryRun || c.Team != ""):
		return usagef("--resume goes on with a plan as it was made; beside it, only --rate can be given")
	case f.resume != "":
		return nil
	case c.Team == "":
		return usagef("--team is missing: which team is to get the copies? together-relay teams ls lists them")
	case !relay.ValidTeamName(c.Team):
		return usagef("%q is no name of a team", c.Team)
	case !some && !f.all:
		return usagef("this would copy everything that is stored for team %s; choose by --since, --until, --type, --resource, --from-seq or --to-seq, or say --all", c.Team)
	case some && f.all:
		return usagef("--all and a choice exclude each other")
	case given("from-seq") && c.From == 0, given("to-seq") && c.To == 0:
		return usagef("sequences begin with 1")
	case c.To > 0 && c.From > c.To:
		return usagef("--from-seq %d lies behind --to-seq %d", c.From, c.To)
	}
	for flag, value := range map[string]string{"since": f.since, "until": f.until, "type": strings.Join(c.Types, ""), "resource": c.Resource} {
		if given(flag) && value == "" {
			return errEmptyFlag(flag)
		}
	}
	for _, pattern := range c.Types {
		if err := checkPattern(pattern); err != nil {
			return usagef("--type: %w", err)
		}
	}
	if c.Since, err = parseSince(f.since, now); err != nil {
		return usagef("--since: %w", err)
	}
	if c.Until, err = parseSince(f.until, now); err != nil {
		return usagef("--until: %w", err)
	}
	switch {
	case c.Since.After(now):
		return usagef("--since %s is in the future", f.since)
	case !c.Until.IsZero() && !c.Since.Before(c.Until):
		return usagef("--since %s does not lie before --until %s", f.since, f.until)
	}
	return nil
}

// errEmptyFlag refuses a choice that chooses nothing, as of a variable of the shell that is not set:
// it would be a choice of all.
func errEmptyFlag(flag string) error {
	return usagef("--%s is empty; leave it out, or say which", flag)
}

// replay makes a plan, or takes up an old one, and runs it.
func replay(ctx context.Context, s *settings, f replayFlags, rate float64, stdout, stderr io.Writer) error {
	return s.withReplayer(func(p *jetstream.Replayer) error {
		plan, err := s.replayPlan(ctx, p, f, stderr)
		if err != nil {
			return err
		}
		if f.dryRun {
			return printReplay(stdout, f.output, plan, "would be copied", time.Now())
		}
		if !math.IsNaN(rate) {
			plan.Rate = rate
		}
		if f.resume == "" {
			if plan, err = p.Begin(ctx, plan); err != nil {
				return err
			}
		}
		progress := newReplayProgress(stderr, plan)
		got, err := p.Run(ctx, plan, progress.told)
		return endReplay(stdout, f.output, got, err)
	})
}

// explainReplay says what to do about an id that is not there.
func explainReplay(err error) error {
	if errors.Is(err, jetstream.ErrNoReplay) {
		return fmt.Errorf("%w; together-relay replay ls lists them", err)
	}
	return err
}

// replayPlan is the plan of the flags, or the one that is to be taken up again.
func (s *settings) replayPlan(ctx context.Context, p *jetstream.Replayer, f replayFlags, stderr io.Writer) (jetstream.Replay, error) {
	if f.resume != "" {
		plan, err := p.Find(ctx, f.resume)
		if err == nil && plan.State == jetstream.ReplayStopped {
			return plan, fmt.Errorf("replay %s was stopped for good; begin a new one", plan.ID)
		}
		return plan, explainReplay(err)
	}
	prefixes, err := s.prefixList()
	if err != nil {
		return jetstream.Replay{}, err
	}
	f.choice.Prefixes = prefixes
	plan, err := p.Plan(ctx, f.choice)
	if errors.Is(err, jetstream.ErrNoTeam) {
		return plan, fmt.Errorf("%w%s", err, nearest(f.choice.Team, sortedNames(s.teams)))
	}
	if errors.Is(err, jetstream.ErrOverlap) {
		return plan, usagef("%w", err)
	}
	if err != nil {
		return plan, err
	}
	if plan.Before > 0 {
		fmt.Fprintf(stderr, "together-relay: what lies before sequence %d is not stored any more\n", plan.Before)
	}
	if plan.Paused {
		fmt.Fprintf(stderr, "together-relay: team %s is paused; it gets the copies when it is resumed\n", plan.Team)
	}
	return plan, nil
}

// withReplayer hands run what copies events, on a connection that outlasts its server.
func (s *settings) withReplayer(run func(*jetstream.Replayer) error) error {
	reader, err := s.reader(jetstream.Patient())
	if err != nil {
		return err
	}
	defer reader.Close()
	p, err := reader.Replayer(s.clientStream())
	if err != nil {
		return err
	}
	return run(p)
}

// endReplay says how it ended.
func endReplay(stdout io.Writer, output string, got jetstream.Replay, err error) error {
	if printed := printReplay(stdout, output, got, "copied", time.Now()); printed != nil {
		return printed
	}
	again := fmt.Sprintf("together-relay replay --resume %s goes on", got.ID)
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted with %d of %d events copied; %s", got.Copied, got.Total, again)
	case errors.Is(err, jetstream.ErrReplayStopped), errors.Is(err, jetstream.ErrReplayGone), errors.Is(err, jetstream.ErrReplayTaken):
		return fmt.Errorf("replay %s: %w", got.ID, err)
	case err != nil:
		return fmt.Errorf("replay %s: %w; %s", got.ID, err, again)
	case got.Skipped > 0:
		return fmt.Errorf("replay %s: %d events were passed over; their copies do not fit into a message", got.ID, got.Skipped)
	}
	return nil
}
