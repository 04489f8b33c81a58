package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/together"
)

type whereFlags struct {
	since  string
	as     string
	limit  int
	output string
}

// What an argument of where can be.
const (
	asAny      = "any" // a resource, or else an id
	asID       = "id"
	asResource = "resource"
	asSequence = "sequence"
)

func newWhere() *cobra.Command {
	var f whereFlags
	cmd := &cobra.Command{
		Use:   "where EVENT",
		Short: "Say what became of an event with each team",
		Long: `Finds events by the resource that they are about, or else by their id, and says of each when it was
received, where it is stored, and how each team stands to it: pending (not delivered yet), waiting for its
acknowledgement, being tried again, acknowledged, dead, or sent once more by a replay. A delivery that never became
an event is found among the dead letters.

A resource is found at once. An id is not part of any subject, so the headers of all that is stored are
read; --since makes that shorter.

NATS tells how far a team has got and how many events it has not acknowledged, not which. Where that leaves
it open whether an event is acknowledged, it says so. Whatever was dropped from the dead letters looks acknowledged.`,
		Example: `  together-relay where ft-1
  together-relay where evt_1 --since 24h
  together-relay where 4711 --as sequence -o json`,
		Args: cobra.ExactArgs(1),
	}
	s := newSettings(cmd.Flags(), forAll|forNATS)
	fl := cmd.Flags()
	sinceFlag(cmd, &f.since, "", "stored")
	fl.StringVar(&f.as, "as", asAny, "what EVENT is: any (a resource, or else an id), id, resource or sequence")
	fl.IntVar(&f.limit, "limit", 20, "the `number` of events that are shown at most, the newest; 0 is all")
	outputFlag(cmd, &f.output)
	_ = cmd.RegisterFlagCompletionFunc("as", cobra.FixedCompletions([]string{asAny, asID, asResource, asSequence}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		if err := oneOf("--as", f.as, asAny, asID, asResource, asSequence); err != nil {
			return err
		}
		return where(cmd.Context(), s, f, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

func where(ctx context.Context, s *settings, f whereFlags, arg string, stdout, stderr io.Writer) error {
	since, err := parseSince(f.since, time.Now())
	if err != nil {
		return usagef("--since: %w", err)
	}
	if arg == "" {
		return usagef("EVENT is empty; name an id, or a resource")
	}
	sequence, err := strconv.ParseUint(arg, 10, 64)
	if f.as == asSequence && (err != nil || sequence == 0) {
		return usagef("%q is no sequence", arg)
	}
	prefixes, err := s.prefixList()
	if err != nil {
		return err
	}
	reader, err := s.reader()
	if err != nil {
		return err
	}
	defer reader.Close()
	q := whereSearch{settings: s, reader: reader, f: f, arg: arg, sequence: sequence, stderr: stderr, search: jetstream.Search{Since: since, Prefixes: prefixes}}
	if err := q.find(ctx); err != nil {
		return err
	}
	if err := q.findLetters(ctx); err != nil {
		return err
	}
	if len(q.events)+len(q.letters) == 0 {
		return q.nothing(ctx)
	}
	if q.left > 0 {
		fmt.Fprintf(stderr, "together-relay: %d older events are left out; --limit shows more\n", q.left)
	}
	return q.show(ctx, stdout)
}

// A whereSearch looks for events, and for deliveries that never became one.
type whereSearch struct {
	*settings
	reader   *jetstream.Reader
	f        whereFlags
	arg      string
	sequence uint64 // what arg is, if it is one
	search   jetstream.Search
	stderr   io.Writer

	events  []jetstream.Message
	left    int // older events that are not shown
	letters []jetstream.Letter
}

// take keeps the newest events.
func (q *whereSearch) take(m jetstream.Message) error {
	q.events = append(q.events, m)
	if q.f.limit > 0 && len(q.events) > q.f.limit {
		q.events, q.left = q.events[1:], q.left+1
	}
	return nil
}

func (q *whereSearch) find(ctx context.Context) error {
	if q.f.as == asSequence {
		m, ok, err := q.reader.BySequence(ctx, q.sequence)
		if ok {
			q.events = append(q.events, m)
		}
		return err
	}
	if q.f.as != asID {
		if err := q.reader.ByResource(ctx, q.arg, q.search, q.take); err != nil {
			return err
		}
	}
	if q.f.as == asResource || len(q.events) > 0 {
		return nil
	}
	search := q.search
	search.Read = q.progress(time.Now())
	return q.reader.ByID(ctx, q.arg, search, q.take)
}

// progress says what takes so long.
func (q *whereSearch) progress(start time.Time) func(read, all uint64) {
	next := start.Add(2 * time.Second)
	return func(read, all uint64) {
		if now := time.Now(); now.After(next) {
			fmt.Fprintf(q.stderr, "together-relay: looking for the id %s in the headers of all that is stored, %d of %d; --since makes it shorter\n", printable(q.arg), read, all)
			next = now.Add(3 * time.Second)
		}
	}
}

// findLetters finds deliveries that name what is looked for, and are dead letters.
func (q *whereSearch) findLetters(ctx context.Context) error {
	if q.f.as == asSequence {
		return nil
	}
	return q.reader.DeadDeliveries(ctx, q.search, func(l jetstream.Letter) error {
		id, data := together.Mentions(l.Body, q.arg)
		if id && q.f.as != asResource || data && q.f.as != asID {
			q.letters = append(q.letters, l)
		}
		return nil
	})
}

// nothing says what was looked through in vain.
func (q *whereSearch) nothing(ctx context.Context) error {
	events, first, last, err := q.reader.Held(ctx)
	if err != nil {
		return err
	}
	what := map[string]string{asAny: "of that resource or id", asID: "of that id", asResource: "about that resource", asSequence: "of that sequence"}[q.f.as]
	since := ""
	if !q.search.Since.IsZero() {
		since = ", stored since " + q.search.Since.UTC().Format(time.RFC3339)
	}
	holds := fmt.Sprintf("%d events, sequences %d to %d", events, first, last)
	if events == 0 {
		holds = "none"
	}
	return fmt.Errorf("%s: no event %s%s, and no dead letter of such a delivery; the stream %s holds %s", printable(q.arg), what, since, q.stream.Stream, holds)
}
