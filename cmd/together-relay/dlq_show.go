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
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
)

func newDLQLs() *cobra.Command {
	var output string
	var choice letterChoice
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the dead letters",
		Long: `Lists the dead letters of deliveries, and those of teams: number, since when, source or team, reason,
detail; and of a team's the event and how often it was delivered.`,
		Example: `  together-relay dlq ls
  together-relay dlq ls --team billing --reason terminated --since 24h
  together-relay dlq ls -o json`,
		Args: cobra.NoArgs,
	}
	outputFlag(cmd, &output)
	choice.flags(cmd)
	withLetters(cmd, func([]string) error { return choice.check() }, func(ctx context.Context, l letters, _ []string) error {
		if output == "json" {
			return l.reader.Letters(ctx, choice.query, func(letter jetstream.Letter) error { return printLetterJSON(l.stdout, letter, false) })
		}
		w := newLetterTable(l.stdout)
		if err := l.reader.Letters(ctx, choice.query, w.print); err != nil {
			return err
		}
		return w.flush()
	})
	return cmd
}

// A letterTable prints letters a line each: with tabs between, or on a terminal under headings.
type letterTable struct {
	w     io.Writer
	table *tabwriter.Writer // nil unless there is a terminal
	rows  int
}

func newLetterTable(w io.Writer) *letterTable {
	t := &letterTable{w: w}
	if colorful(w) {
		t.table = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	}
	return t
}

// tableRows is how many lines are aligned with one another.
const tableRows = 500

func (t *letterTable) print(letter jetstream.Letter) error {
	row := []string{strconv.FormatUint(letter.Sequence, 10), letter.Stored.UTC().Format(time.RFC3339), whose(letter), printable(letter.Reason), printable(letter.Detail)}
	switch {
	case letter.Broken != nil:
		row = append(row[:2], "broken", printable(letter.Broken.Error()))
	case letter.Team != nil:
		row = append(row, printable(letter.Team.ID), strconv.Itoa(letter.Team.Attempts))
	default:
		row[1] = letter.Arrived.UTC().Format(time.RFC3339)
	}
	if t.table == nil {
		_, err := fmt.Fprintln(t.w, strings.Join(row, "\t"))
		return err
	}
	if t.rows == 0 {
		fmt.Fprintln(t.table, "NUMBER\tSINCE\tOF\tREASON\tDETAIL\tEVENT\tDELIVERED")
	}
	fmt.Fprintln(t.table, strings.Join(row, "\t"))
	if t.rows++; t.rows%tableRows == 0 {
		return t.table.Flush()
	}
	return nil
}

func (t *letterTable) flush() error {
	if t.table == nil {
		return nil
	}
	return t.table.Flush()
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
	var numbers []uint64
	check := func(args []string) (err error) { numbers, err = parseNumbers(args); return err }
	withLetters(cmd, check, func(ctx context.Context, l letters, _ []string) error {
		letter, err := l.reader.Letter(ctx, numbers[0])
		switch {
		case errors.Is(err, jetstream.ErrNoLetter):
			return fmt.Errorf("%w; together-relay dlq ls lists them", err)
		case err != nil:
			return err
		case body:
			_, err = l.stdout.Write(letter.Body)
			return err
		case output == "json":
			return printLetterJSON(l.stdout, letter, true)
		}
		return printLetter(l.stdout, letter)
	})
	return cmd
}

// printLetter shows the letter for people.
func printLetter(w io.Writer, letter jetstream.Letter) error {
	if letter.Broken != nil {
		fmt.Fprintf(w, "%-10s%v\n", "broken", printable(letter.Broken.Error()))
	}
	lines := [][2]string{{"number", strconv.FormatUint(letter.Sequence, 10)}}
	if team := letter.Team; team != nil {
		lines = append(lines, [2]string{"team", team.Team}, [2]string{"since", letter.Stored.UTC().Format(time.RFC3339Nano)}, [2]string{"delivered", strconv.Itoa(team.Attempts)},
			[2]string{"stream", letter.Stream}, [2]string{"event", team.ID}, [2]string{"type", team.Type}, [2]string{"subject", team.Subject})
		if team.Sequence > 0 {
			lines = append(lines, [2]string{"sequence", strconv.FormatUint(team.Sequence, 10)})
		}
		lines = append(lines, [2]string{"replay", team.Replay}, [2]string{"omitted", letter.Omitted})
	}
	received := ""
	if !letter.Arrived.IsZero() {
		received = letter.Arrived.UTC().Format(time.RFC3339Nano)
	}
	lines = append(lines, [2]string{"source", letter.Source}, [2]string{"received", received}, [2]string{"reason", letter.Reason}, [2]string{"detail", letter.Detail})
	for _, line := range lines {
		if line[1] != "" || letter.Team == nil {
			fmt.Fprintf(w, "%-10s%s\n", line[0], printable(line[1]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(letter.Header)) {
		fmt.Fprintf(w, "%-10s%s: %s\n", "header", name, printable(letter.Header[name]))
	}
	_, err := fmt.Fprintf(w, "body      %d bytes\n\n%s\n", len(letter.Body), bodyText(w, letter.Body))
	return err
}

// bodyText is the body as it is, or quoted where it could move a terminal's cursor.
func bodyText(w io.Writer, body []byte) string {
	if colorful(w) && !json.Valid(body) {
		return fmt.Sprintf("%q", body)
	}
	return string(body)
}

// A letterLine is a letter for programs.
type letterLine struct {
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

	// Of a team's alone.
	Team          string     `json:"team,omitempty"`
	Since         *time.Time `json:"since,omitempty"`
	Attempts      int        `json:"attempts,omitempty"`
	Stream        string     `json:"stream,omitempty"` // on which the attempts were made
	EventID       string     `json:"event_id,omitempty"`
	EventType     string     `json:"event_type,omitempty"`
	EventSubject  string     `json:"event_subject,omitempty"`
	EventSequence uint64     `json:"event_sequence,omitempty"`
	Replay        string     `json:"replay,omitempty"`
	Omitted       string     `json:"omitted,omitempty"`
}

func printLetterJSON(w io.Writer, letter jetstream.Letter, whole bool) error {
	out := letterLine{Sequence: letter.Sequence, Subject: letter.Subject, Source: letter.Source, Reason: letter.Reason, Detail: letter.Detail, Bytes: letter.Size}
	if letter.Broken != nil {
		out.Broken = letter.Broken.Error()
	}
	out.Received = timeOrNil(letter.Arrived)
	if team := letter.Team; team != nil {
		out.Team, out.Since, out.Attempts, out.Stream, out.Replay, out.Omitted = team.Team, &letter.Stored, team.Attempts, letter.Stream, team.Replay, letter.Omitted
		out.EventID, out.EventType, out.EventSubject, out.EventSequence = team.ID, team.Type, team.Subject, team.Sequence
	}
	if whole {
		out.Headers, out.Body, out.Base64 = letter.Header, string(letter.Body), letter.Body
	}
	return writeJSON(w, out)
}
