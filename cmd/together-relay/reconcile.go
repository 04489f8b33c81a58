package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"together-relay/relay"
	"together-relay/schemas"
)

type reconcileFlags struct {
	since  string
	fix    bool
	output string
}

func newReconcile() *cobra.Command {
	var f reconcileFlags
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Compare what Together lists with what the stream holds",
		Long: `Asks the Together API what has happened to fine-tunes, batches, evaluations and files, and
looks for each fact in the stream. What is missing is printed, a line each: time, type, resource, id
and what became of it, separated by tabs. With --fix it is stored, marked as every event of the
watched API. What happened since the relay's last look counts as missing too.

A fine-tune takes two to five requests, and there are at most --watch-budget in a minute.

The exit code is 0 if nothing is missing, or all of it is stored now; else 1. Models are left out: the
API does not tell what the catalogue held earlier. So are videos and queue jobs, which it does not list.`,
		Example: `  together-relay reconcile --since 7d
  together-relay reconcile --since 2026-07-01T09:00:00Z --fix`,
		Args: cobra.NoArgs,
	}
	s := newSettings(cmd.Flags(), forAll|forNATS|forAPI)
	fl := cmd.Flags()
	sinceFlag(cmd, &f.since, "24h", "what happened")
	fl.BoolVar(&f.fix, "fix", false, "store what is missing")
	outputFlag(cmd, &f.output)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		return reconcile(cmd.Context(), s, f, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// progressEach is how often a person who waits is told of the progress.
const progressEach = 10 * time.Second

func reconcile(ctx context.Context, s *settings, f reconcileFlags, stdout, stderr io.Writer) error {
	now := time.Now()
	since, err := parseSince(f.since, now)
	if err != nil {
		return usagef("--since: %w", err)
	}
	if oldest := now.Add(-s.stream.MaxAge); s.stream.MaxAge > 0 && since.Before(oldest) {
		since = oldest
		fmt.Fprintf(stderr, "together-relay: the stream keeps events for %s; what happened before is not compared\n", s.stream.MaxAge)
	}
	api, err := s.openAPI(func(what string) { fmt.Fprintf(stderr, "together-relay: passed over: %s\n", what) })
	if err != nil {
		return err
	}
	if api == nil {
		return errNoKey()
	}
	defer api.Close()
	set, err := schemas.Load()
	if err != nil {
		return err
	}
	if s.stream.Prefixes, err = s.prefixes(); err != nil {
		return err
	}
	reader, err := s.reader()
	if err != nil {
		return err
	}
	defer reader.Close()
	log, err := s.logOf(reader)
	if err != nil {
		return err
	}

	compared, missing, said := 0, 0, now
	err = relay.Reconciliation{Watches: s.jobWatches(api), Since: since, Holds: log.Holds, Looks: func(resource string, done, jobs int) {
		resource = strings.ReplaceAll(resource, "_", "-")
		switch {
		case done == 0:
			fmt.Fprintf(stderr, "together-relay: looking at %d %s\n", jobs, resource)
		case done < jobs && time.Since(said) > progressEach:
			fmt.Fprintf(stderr, "together-relay: %d of %d %s\n", done, jobs, resource)
		default:
			return
		}
		said = time.Now()
	}, Found: func(found relay.Finding) error {
		if compared++; found.Sequence > 0 {
			return nil
		}
		missing++
		if f.fix {
			if err := set.CheckEvent(found.Event); err != nil {
				return err
			}
			if found.Stored, err = log.Append(ctx, found.Event); err != nil {
				return err
			}
		}
		return printFinding(stdout, f.output, found)
	}}.Run(ctx)
	switch {
	case err == nil:
		fmt.Fprintf(stderr, "together-relay: %d facts since %s, %d were missing\n", compared, since.UTC().Format(time.RFC3339), missing)
	case compared > 0:
		fmt.Fprintf(stderr, "together-relay: not complete: %d facts so far, %d of them were missing\n", compared, missing)
	}
	if err == nil && missing > 0 && !f.fix {
		return silent(exitFailed)
	}
	return explainAPI(err)
}

func printFinding(w io.Writer, output string, found relay.Finding) error {
	ev := found.Event
	when := ev.CloudEvent.Time().UTC()
	if output == "json" {
		return writeJSON(w, struct {
			Time     time.Time `json:"time"`
			Type     string    `json:"type"`
			Resource string    `json:"resource"`
			ID       string    `json:"id"`
			Sequence uint64    `json:"sequence,omitempty"` // where it is stored now
		}{when, ev.Type, ev.Resource, ev.CloudEvent.ID(), found.Sequence})
	}
	state := "missing"
	if found.Sequence > 0 {
		state = fmt.Sprintf("stored, seq %d", found.Sequence)
	}
	_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", when.Format(time.RFC3339), ev.Type, printable(ev.Resource), ev.CloudEvent.ID(), state)
	return err
}
