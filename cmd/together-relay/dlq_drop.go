package main

import (
	"context"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
)

func newDLQDrop() *cobra.Command {
	var choice letterChoice
	var yes bool
	cmd := &cobra.Command{
		Use:   "drop [N…]",
		Short: "Remove dead letters for good",
		Long: `Removes dead letters for good. Nothing is asked: unless numbers are given, --yes has to say that it
is meant.`,
		Example: `  together-relay dlq drop 3 4
  together-relay dlq drop --team billing --reason gone --dry-run
  together-relay dlq drop --all --yes`,
	}
	choice.bulkFlags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "it is meant")
	check := func(args []string) error {
		if err := choice.checkBulk(args); err != nil {
			return err
		}
		if choice.numbers == nil && !yes && !choice.dryRun {
			return usagef("this removes all dead letters of the choice for good; look at them with --dry-run, and if it is meant, add --yes")
		}
		return nil
	}
	withLetters(cmd, check, func(ctx context.Context, l letters, _ []string) error {
		return l.each(ctx, choice, "stays", func(letter jetstream.Letter) (string, error) {
			if choice.dryRun {
				return "would be dropped\t" + whose(letter) + "\t" + printable(letter.Reason), nil
			}
			return "dropped", l.reader.Drop(ctx, letter.Sequence)
		})
	})
	return cmd
}
