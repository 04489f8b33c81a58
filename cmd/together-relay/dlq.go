package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
	"together-relay/relay"
)

func newDLQ() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look at the dead letters, try them again, drop them",
		Long: `A delivery that is proven but unusable is kept as a dead letter, with a reason; and so is an event that
a team could not handle: the team has terminated it, or has had it as often as it takes it. They are
numbered by their sequence in the dead-letter stream.`,
		Example: `  together-relay dlq ls --team billing --since 24h
  together-relay dlq show 3
  together-relay dlq retry 3 4
  together-relay dlq retry --team billing --reason max_deliver
  together-relay dlq drop 3`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDLQLs(), newDLQShow(), newDLQRetry(), newDLQDrop())
	return cmd
}

// letters is what every verb of dlq needs.
type letters struct {
	*settings
	reader         *jetstream.Reader
	stdout, stderr io.Writer
}

// withLetters makes run a verb that has a connection and a reader. What check refuses is said
// before there is one.
func withLetters(cmd *cobra.Command, check func(args []string) error, run func(ctx context.Context, l letters, args []string) error) {
	s := newSettings(cmd.Flags(), forAll|forNATS)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		if err := check(args); err != nil {
			return err
		}
		reader, err := s.reader()
		if err != nil {
			return err
		}
		defer reader.Close()
		return run(cmd.Context(), letters{s, reader, cmd.OutOrStdout(), cmd.ErrOrStderr()}, args)
	}
}

// A letterChoice chooses dead letters: by number, or by what they are.
type letterChoice struct {
	team, reason, since string
	all, dryRun         bool
	numbers             []uint64
	query               jetstream.LetterQuery
	given               func(flag string) bool
}

// flags declares what chooses letters.
func (c *letterChoice) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	c.given = fl.Changed
	fl.StringVar(&c.team, "team", "", "those of the `team`")
	fl.StringVar(&c.reason, "reason", "", "those of the `reason`, such as max_deliver, terminated or schema")
	sinceFlag(cmd, &c.since, "", "kept")
	_ = cmd.RegisterFlagCompletionFunc("reason", cobra.FixedCompletions(reasons(), cobra.ShellCompDirectiveNoFileComp))
}

// reasons are those of all dead letters.
func reasons() []string {
	return []string{relay.ReasonMaxDeliver, relay.ReasonTerminated, relay.ReasonGone,
		relay.ReasonJSON, relay.ReasonID, relay.ReasonType, relay.ReasonData, relay.ReasonSchema, relay.ReasonSize}
}

// bulkFlags declares what is beside that for a verb that does something to them.
func (c *letterChoice) bulkFlags(cmd *cobra.Command) {
	c.flags(cmd)
	cmd.Flags().BoolVar(&c.all, "all", false, "all that are stored; without it, something has to be chosen")
	cmd.Flags().BoolVar(&c.dryRun, "dry-run", false, "say what would be done, and do nothing")
}

// some says whether letters are chosen by what they are.
func (c *letterChoice) some() bool { return c.team != "" || c.reason != "" || c.since != "" }

// check completes the choice.
func (c *letterChoice) check() (err error) {
	for flag, value := range map[string]string{"team": c.team, "reason": c.reason, "since": c.since} {
		if c.given(flag) && value == "" {
			return errEmptyFlag(flag)
		}
	}
	if c.team != "" && !relay.ValidTeamName(c.team) {
		return usagef("%q is no name of a team", c.team)
	}
	if c.reason != "" && !slices.Contains(reasons(), c.reason) {
		return usagef("--reason: %q is none of %s", c.reason, strings.Join(reasons(), ", "))
	}
	c.query.Team, c.query.Reason = c.team, c.reason
	if c.query.Since, err = parseSince(c.since, time.Now()); err != nil {
		return usagef("--since: %w", err)
	}
	return nil
}

// checkBulk completes the choice of a verb that does something, and refuses what was probably
// not meant.
func (c *letterChoice) checkBulk(args []string) (err error) {
	switch {
	case len(args) > 0 && (c.some() || c.all):
		return usagef("numbers, and a choice by --team, --reason, --since or --all, exclude each other")
	case len(args) == 0 && !c.some() && !c.all && !c.given("team") && !c.given("reason") && !c.given("since"):
		return usagef("which dead letters? Give their numbers, see together-relay dlq ls; or choose by --team, --reason or --since, or say --all")
	case c.some() && c.all:
		return usagef("--all and a choice exclude each other")
	}
	if c.numbers, err = parseNumbers(args); err != nil {
		return err
	}
	return c.check()
}

// each calls do with each letter of the choice, one after the other, and prints what it says. One
// that fails does not keep the rest from being done. The letters that come meanwhile are left
// alone, so it ends also if what it does makes new ones. Of those that are chosen by what they
// are, do gets no body.
func (l letters) each(ctx context.Context, c letterChoice, undone string, do func(jetstream.Letter) (string, error)) error {
	done, failed := 0, 0
	progress := time.Now()
	one := func(letter jetstream.Letter, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		said := ""
		if err == nil {
			said, err = do(letter)
		}
		if errors.Is(err, context.Canceled) {
			return err
		}
		done++
		if err != nil {
			failed++
			said = undone + "\t" + printable(err.Error())
		}
		if _, err := fmt.Fprintf(l.stdout, "%d\t%s\n", letter.Sequence, said); err != nil {
			return err
		}
		if c.numbers == nil && time.Since(progress) > 2*time.Second {
			progress = time.Now()
			fmt.Fprintf(l.stderr, "together-relay: %d dead letters so far; %d stay\n", done, failed)
		}
		return nil
	}
	err := l.chosen(ctx, c, one)
	if err != nil && (done > 0 || ctx.Err() != nil) {
		err = fmt.Errorf("after %d dead letters, of which %d stay: %w; the same command goes on", done, failed, err)
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d dead letters stay", failed, done)
	}
	if err == nil && done == 0 {
		fmt.Fprintln(l.stderr, "together-relay: no dead letter is like that")
	}
	return err
}

// chosen calls yield with the letters of the choice. A number that stands for none comes with
// an error.
func (l letters) chosen(ctx context.Context, c letterChoice, yield func(jetstream.Letter, error) error) error {
	if c.numbers == nil {
		last, err := l.reader.LastLetter(ctx)
		if err != nil || last == 0 {
			return err
		}
		c.query.UpTo = last
		return l.reader.Letters(ctx, c.query, func(letter jetstream.Letter) error { return yield(letter, nil) })
	}
	for _, n := range c.numbers {
		letter, err := l.reader.Letter(ctx, n)
		letter.Sequence = n
		if err := yield(letter, err); err != nil {
			return err
		}
	}
	return nil
}

// whose says in a few words what the letter is about.
func whose(letter jetstream.Letter) string {
	if letter.Team == nil {
		return printable(letter.Source)
	}
	return "team " + printable(letter.Team.Team)
}

func parseNumbers(args []string) ([]uint64, error) {
	var numbers []uint64
	for _, arg := range args {
		n, err := strconv.ParseUint(arg, 10, 64)
		if err != nil || n == 0 {
			return nil, usagef("%q is no number of a dead letter; see together-relay dlq ls", arg)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}
