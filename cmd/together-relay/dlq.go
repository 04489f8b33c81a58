package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
	"together-relay/schemas"
)

func newDLQ() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look at the dead letters, try them again, drop them",
		Long: `A delivery that is proven but unusable is kept as a dead letter, with a reason. They are
numbered by their sequence in the dead-letter stream.`,
		Example: `  together-relay dlq ls
  together-relay dlq show 3
  together-relay dlq retry 3 4
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
	reader *jetstream.Reader
}

// withLetters makes run a verb that has a connection and a reader.
func withLetters(cmd *cobra.Command, run func(l letters, args []string, w io.Writer) error) {
	s := newSettings(cmd.Flags(), forAll|forNATS)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		reader, err := s.reader()
		if err != nil {
			return err
		}
		defer reader.Close()
		return run(letters{s, reader}, args, cmd.OutOrStdout())
	}
}

func newDLQLs() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the dead letters",
		Example: "  together-relay dlq ls -o json",
		Args:    cobra.NoArgs,
	}
	outputFlag(cmd, &output)
	withLetters(cmd, func(l letters, _ []string, w io.Writer) error {
		return l.reader.Letters(cmd.Context(), jetstream.LetterQuery{}, func(letter jetstream.Letter) error {
			if output == "json" {
				return printLetterJSON(w, letter, false)
			}
			if letter.Broken != nil {
				_, err := fmt.Fprintf(w, "%d\t%s\tbroken\t%v\n", letter.Sequence, letter.Stored.UTC().Format(time.RFC3339), letter.Broken)
				return err
			}
			_, err := fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", letter.Sequence, letter.Arrived.UTC().Format(time.RFC3339),
				printable(letter.Source), printable(letter.Reason), printable(letter.Detail))
			return err
		})
	})
	return cmd
}

func newDLQShow() *cobra.Command {
	var output string
	var body bool
	cmd := &cobra.Command{
		Use:   "show N",
		Short: "Show a dead letter whole",
		Example: `  together-relay dlq show 3
  together-relay dlq show 3 --body > delivery.json`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&body, "body", false, "only the body, byte for byte")
	outputFlag(cmd, &output)
	withLetters(cmd, func(l letters, args []string, w io.Writer) error {
		numbers, err := parseNumbers(args)
		if err != nil {
			return err
		}
		letter, err := l.reader.Letter(cmd.Context(), numbers[0])
		if err != nil {
			return err
		}
		switch {
		case body:
			_, err = w.Write(letter.Body)
			return err
		case output == "json":
			return printLetterJSON(w, letter, true)
		}
		if letter.Broken != nil {
			fmt.Fprintf(w, "%-10s%v\n", "broken", letter.Broken)
		}
		for _, line := range [][2]string{
			{"number", strconv.FormatUint(letter.Sequence, 10)}, {"source", letter.Source},
			{"received", letter.Arrived.UTC().Format(time.RFC3339Nano)}, {"reason", letter.Reason}, {"detail", letter.Detail},
		} {
			fmt.Fprintf(w, "%-10s%s\n", line[0], printable(line[1]))
		}
		for _, name := range slices.Sorted(maps.Keys(letter.Header)) {
			fmt.Fprintf(w, "%-10s%s: %s\n", "header", name, printable(letter.Header[name]))
		}
		_, err = fmt.Fprintf(w, "body      %d bytes\n\n%s\n", len(letter.Body), bodyText(w, letter.Body))
		return err
	})
	return cmd
}

// bodyText is the body as it is, or quoted where it could move a terminal's cursor.
func bodyText(w io.Writer, body []byte) string {
	if colorful(w) && !json.Valid(body) {
		return fmt.Sprintf("%q", body)
	}
	return string(body)
}

func newDLQRetry() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retry N…",
		Short: "Open dead letters again, and store those that are usable now",
		Long: `Opens each dead letter as it was delivered, judged by its time of arrival and the secrets
in force now. One that has become usable, by a new release or schema, is stored as an event
and leaves the dead letters; any other stays, and the exit code is 1.`,
		Example: "  together-relay dlq retry 3 4 5",
		Args:    cobra.MinimumNArgs(1),
	}
	withLetters(cmd, func(l letters, args []string, w io.Writer) error {
		numbers, err := parseNumbers(args)
		if err != nil {
			return err
		}
		return l.retry(cmd.Context(), numbers, w)
	})
	return cmd
}

func (l letters) retry(ctx context.Context, numbers []uint64, w io.Writer) error {
	set, err := schemas.Load()
	if err != nil {
		return err
	}
	sources, err := l.openSources()
	if err != nil {
		return err
	}
	if l.stream.Prefixes, err = l.prefixes(); err != nil {
		return err
	}
	log, err := l.logOf(l.reader)
	if err != nil {
		return err
	}
	intake := openIntake(sources, set, log)
	failed := 0
	for _, n := range numbers {
		letter, err := l.reader.Letter(ctx, n)
		if err == nil {
			err = letter.Broken
		}
		if err == nil {
			receipt, storeErr := intake.Store(ctx, letter.Delivery)
			if err = storeErr; err == nil {
				// Stored first, dropped then: a crash in between leaves a duplicate, and the stream drops that.
				err = l.reader.Drop(ctx, n)
				fmt.Fprintf(w, "%d\tstored\t%s\tseq %d\n", n, receipt.Subject, receipt.Sequence)
			}
		}
		if err != nil {
			failed++
			fmt.Fprintf(w, "%d\tstays\t%v\n", n, err)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d dead letters stay", failed, len(numbers))
	}
	return nil
}

func newDLQDrop() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "drop N…",
		Short:   "Remove dead letters for good",
		Example: "  together-relay dlq drop 3 4",
		Args:    cobra.MinimumNArgs(1),
	}
	withLetters(cmd, func(l letters, args []string, w io.Writer) error {
		numbers, err := parseNumbers(args)
		if err != nil {
			return err
		}
		var failures []error
		for _, n := range numbers {
			if err := l.reader.Drop(cmd.Context(), n); err != nil {
				failures = append(failures, err)
				continue
			}
			fmt.Fprintf(w, "%d\tdropped\n", n)
		}
		return errors.Join(failures...)
	})
	return cmd
}

func parseNumbers(args []string) ([]uint64, error) {
	numbers := make([]uint64, len(args))
	for i, arg := range args {
		n, err := strconv.ParseUint(arg, 10, 64)
		if err != nil || n == 0 {
			return nil, usagef("%q is no number of a dead letter; see together-relay dlq ls", arg)
		}
		numbers[i] = n
	}
	return numbers, nil
}

func printLetterJSON(w io.Writer, letter jetstream.Letter, whole bool) error {
	out := struct {
		Sequence uint64            `json:"sequence"`
		Subject  string            `json:"subject"`
		Source   string            `json:"source,omitempty"`
		Received *time.Time        `json:"received,omitempty"`
		Reason   string            `json:"reason,omitempty"`
		Detail   string            `json:"detail,omitempty"`
		Broken   string            `json:"broken,omitempty"`
		Headers  map[string]string `json:"headers,omitempty"`
		Bytes    int               `json:"bytes"`
		Body     string            `json:"body,omitempty"`
		Base64   []byte            `json:"body_base64,omitempty"`
	}{Sequence: letter.Sequence, Subject: letter.Subject, Source: letter.Source, Reason: letter.Reason, Detail: letter.Detail, Bytes: letter.Size}
	if letter.Broken != nil {
		out.Broken = letter.Broken.Error()
	}
	if !letter.Arrived.IsZero() {
		out.Received = &letter.Arrived
	}
	if whole {
		out.Headers, out.Body, out.Base64 = letter.Header, string(letter.Body), letter.Body
	}
	return writeJSON(w, out)
}
