package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/together"
	"together-relay/relay"
)

// The resources whose jobs are registered, as their marks and the log name them.
const (
	videosWatch = "videos"
	queueWatch  = "queue_jobs"
)

func newWatch() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Register videos and queue jobs to be watched",
		Long: `The Together API lists neither videos nor the jobs of a queue, so the relay watches those that
somebody has registered. A registration lies in NATS: any relay with TOGETHER_API_KEY takes it up, and
none need run yet if NATS runs by itself.`,
		Example: `  together-relay watch add video-4f0c2b9e7a15d863
  together-relay watch add --queue acme/pipeline req-7b1e50d2c9f8
  together-relay watch ls
  together-relay watch rm video-4f0c2b9e7a15d863`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newWatchAdd(), newWatchList(), newWatchRemove())
	return cmd
}

func newWatchAdd() *cobra.Command {
	var model, output string
	cmd := &cobra.Command{
		Use:   "add ID…",
		Short: "Register videos, or with --queue the requests of a queue",
		Long: `What has happened already is published too, once. What is over may be registered again: Together
is asked anew then, and a fact that is stored stays one event.`,
		Example: `  together-relay watch add video-4f0c2b9e7a15d863 video-91d7e3a5c08b462f
  together-relay watch add --queue acme/pipeline req-7b1e50d2c9f8`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.Flags().StringVar(&model, "queue", "", "the ids are requests in the queue of that `model`")
	withMarks(cmd, &output, func(ctx context.Context, marks *jetstream.Ledger, args []string, w io.Writer) error {
		resource := videosWatch
		if cmd.Flags().Changed("queue") {
			resource = queueWatch
			if err := together.CheckID(model); err != nil {
				return usagef("--queue %q: %w", model, err)
			}
		}
		for _, id := range args {
			if err := together.CheckID(id); err != nil {
				return usagef("id %q: %w", id, err)
			}
		}
		for _, id := range args {
			r := registration{Resource: resource, ID: id, State: "added", mark: id}
			if resource == queueWatch {
				r.Model, r.mark = model, together.QueueJobID(model, id)
			}
			added, err := marks.Register(ctx, resource, r.mark)
			if err != nil {
				return err
			}
			if !added {
				r.State = "watched already"
			}
			if err := r.print(w, output); err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}

func newWatchList() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List what is registered, oldest first",
		Long: `One line for each: resource, id, model, state, and since when it is registered, separated by tabs. The
state is watched, the type of the event that was its end, or not found. What is over stays until it
is removed.`,
		Example: "  together-relay watch ls -o json",
		Args:    cobra.NoArgs,
	}
	withMarks(cmd, &output, func(ctx context.Context, marks *jetstream.Ledger, _ []string, w io.Writer) error {
		all, err := registrations(ctx, marks)
		for _, r := range all {
			if err := r.print(w, output); err != nil {
				return err
			}
		}
		return err
	})
	return cmd
}

func newWatchRemove() *cobra.Command {
	var over bool
	var output string
	cmd := &cobra.Command{
		Use:   "rm ID…",
		Short: "End registrations, or with --over remove all that are over",
		Long:  "What is stored stays. The id of a queue job is its request, in whichever queue.",
		Example: `  together-relay watch rm video-4f0c2b9e7a15d863
  together-relay watch rm --over`,
	}
	cmd.Flags().BoolVar(&over, "over", false, "remove all registrations that are over")
	withMarks(cmd, &output, func(ctx context.Context, marks *jetstream.Ledger, args []string, w io.Writer) error {
		if len(args) == 0 && !over {
			return usagef("name what to remove, or say --over")
		}
		all, err := registrations(ctx, marks)
		if err != nil {
			return err
		}
		for _, r := range all {
			if !slices.Contains(args, r.ID) && (!over || !r.Over) {
				continue
			}
			if err := marks.Forget(ctx, r.Resource, r.mark); err != nil {
				return err
			}
			r.State = "removed"
			if err := r.print(w, output); err != nil {
				return err
			}
		}
		for _, id := range args {
			if !slices.ContainsFunc(all, func(r registration) bool { return r.ID == id }) {
				return fmt.Errorf("%s is not registered", printable(id))
			}
		}
		return nil
	})
	return cmd
}

// withMarks runs a verb that reads or writes the marks.
func withMarks(cmd *cobra.Command, output *string, do func(context.Context, *jetstream.Ledger, []string, io.Writer) error) {
	s := newSettings(cmd.Flags(), forAll|forNATS)
	outputFlag(cmd, output)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.asClient(); err != nil {
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
		return do(cmd.Context(), log.Ledger(), args, cmd.OutOrStdout())
	}
}

// A registration is a job that is to be watched.
type registration struct {
	Resource string    `json:"resource"` // videos or queue_jobs
	ID       string    `json:"id"`
	Model    string    `json:"model,omitempty"` // of a queue job
	State    string    `json:"state"`
	Over     bool      `json:"over"`
	Since    time.Time `json:"since,omitzero"`

	mark string // the id of its mark
}

// registrations are all there are, oldest first.
func registrations(ctx context.Context, marks *jetstream.Ledger) ([]registration, error) {
	var all []registration
	for _, resource := range []string{videosWatch, queueWatch} {
		found, err := marks.Peek(ctx, resource)
		if err != nil {
			return nil, err
		}
		for mark, e := range found {
			r := registration{Resource: resource, ID: mark, State: stateOf(e.Mark), Over: e.Over, Since: e.First.UTC(), mark: mark}
			if resource == queueWatch {
				r.Model, r.ID = together.SplitQueueJobID(mark)
			}
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b registration) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.mark, b.mark)) })
	return all, nil
}

// isRegistered says whether the id is that of a registered job that has been or may still be
// found, as far as that can be learnt.
func isRegistered(ctx context.Context, s *settings, reader *jetstream.Reader, id string) bool {
	log, err := reader.Log(s.stream)
	if err != nil {
		return false
	}
	all, err := registrations(ctx, log.Ledger())
	return err == nil && slices.ContainsFunc(all, func(r registration) bool { return r.ID == id && r.State != notFound })
}

// notFound is the state of a job that Together does not know.
const notFound = "not found"

func stateOf(m relay.Mark) string {
	switch {
	case !m.Over:
		return "watched"
	case len(m.Told) > 0:
		return m.Told[len(m.Told)-1]
	}
	return notFound
}

func (r registration) print(w io.Writer, output string) error {
	if output == "json" {
		return writeJSON(w, r)
	}
	since := "-"
	if !r.Since.IsZero() {
		since = r.Since.Format(time.RFC3339)
	}
	_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Resource, printable(r.ID), printable(orDash(r.Model)), r.State, since)
	return err
}
