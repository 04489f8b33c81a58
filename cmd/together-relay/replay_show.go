package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
)

// A replayLine is a replay for programs.
type replayLine struct {
	ID       string     `json:"id,omitempty"`
	Team     string     `json:"team"`
	State    string     `json:"state"` // planned, running, interrupted, done or stopped
	Total    uint64     `json:"total"`
	Copied   uint64     `json:"copied"`
	Skipped  uint64     `json:"skipped"`
	From     uint64     `json:"from"`
	To       uint64     `json:"to"`
	Last     uint64     `json:"last"`
	Rate     float64    `json:"rate"`
	Types    []string   `json:"types,omitempty"`
	Resource string     `json:"resource,omitempty"`
	Any      bool       `json:"any,omitempty"`
	Since    *time.Time `json:"since,omitempty"`
	Until    *time.Time `json:"until,omitempty"`
	Started  time.Time  `json:"started"`
	Marked   *time.Time `json:"marked,omitempty"`
	// How far the team has got with the copies: none, some, all; empty if nothing is known.
	Delivered    string `json:"delivered,omitempty"`
	Acknowledged string `json:"acknowledged,omitempty"`
}

func replayLineOf(r jetstream.Replay, now time.Time) replayLine {
	return replayLine{
		ID: r.ID, Team: r.Team, State: replayState(r, now), Total: r.Total, Copied: r.Copied, Skipped: r.Skipped, From: r.From, To: r.To, Last: r.Last,
		Rate: r.Rate, Types: r.Types, Resource: r.Resource, Any: r.Any, Since: timeOrNil(r.Since), Until: timeOrNil(r.Until), Started: r.Started, Marked: timeOrNil(r.Marked),
	}
}

// replayState says in a word what becomes of the replay.
func replayState(r jetstream.Replay, now time.Time) string {
	switch {
	case r.State != jetstream.ReplayOpen:
		return r.State
	case r.ID == "":
		return "planned"
	case r.Runs(now):
		return "running"
	}
	return "interrupted"
}

// printReplay writes one replay, as the result of a verb.
func printReplay(w io.Writer, output string, r jetstream.Replay, did string, now time.Time) error {
	line := replayLineOf(r, now)
	if line.State == "running" { // it was, by this process
		line.State = "interrupted"
	}
	if output == "json" {
		return writeJSON(w, line)
	}
	n := r.Copied
	if r.ID == "" {
		n = r.Total
	}
	_, err := fmt.Fprintf(w, "%s\t%s\t%d of %d events %s to %s\tsequences %d to %d\n", orDash(r.ID), line.State, n, r.Total, did, r.Team, r.From, r.To)
	return err
}

// replayProgress tells how far a replay has got, a line every few seconds.
type replayProgress struct {
	w     io.Writer
	said  time.Time // when
	from  uint64    // copied by then
	wait  string    // why it waits; empty if it does not
	over  uint64    // passed over by then
	every time.Duration
}

func newReplayProgress(w io.Writer, r jetstream.Replay) *replayProgress {
	how := fmt.Sprintf("at %g a second", r.Rate)
	if r.Rate == 0 {
		how = "as fast as it goes"
	}
	if r.State == jetstream.ReplayOpen {
		fmt.Fprintf(w, "together-relay: replay %s: %d of %d events to team %s, sequences %d to %d, %s; replay --resume %s goes on if it is interrupted\n",
			r.ID, r.Total-min(r.Copied, r.Total), r.Total, r.Team, max(r.From, r.Last+1), r.To, how, r.ID)
	}
	return &replayProgress{w: w, said: time.Now(), from: r.Copied, over: r.Skipped, every: 3 * time.Second}
}

func (p *replayProgress) told(r jetstream.Replay, trouble error) {
	now := time.Now()
	if r.Skipped > p.over {
		p.over = r.Skipped
		fmt.Fprintf(p.w, "together-relay: %v\n", trouble)
		return
	}
	if trouble != nil {
		if why := trouble.Error(); why != p.wait {
			p.wait = why
			fmt.Fprintf(p.w, "together-relay: %d of %d copied, and waiting: %s; trying again\n", r.Copied, r.Total, why)
		}
		return
	}
	if p.wait != "" {
		fmt.Fprintln(p.w, "together-relay: it goes on")
		p.wait, p.said, p.from = "", now, r.Copied
	}
	took := now.Sub(p.said)
	if took < p.every {
		return
	}
	speed := float64(r.Copied-min(p.from, r.Copied)) / took.Seconds()
	left := "?"
	if speed > 0 {
		left = time.Duration(float64(r.Total-min(r.Copied, r.Total)) / speed * float64(time.Second)).Round(time.Second).String()
	}
	fmt.Fprintf(p.w, "together-relay: %d of %d copied, %.0f a second, last sequence %d, %s left\n", r.Copied, r.Total, speed, r.Last, left)
	p.said, p.from = now, r.Copied
}

func newReplayLs() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the replays, and how far each has got",
		Long: `Lists the replays whose events can still be there, oldest first. Delivered and acknowledged say how
much of what was copied has been delivered to the team, and acknowledged by it or given up: none, some or all.
One that is not done is running or interrupted. After its process was killed it counts as running for half a minute.`,
		Example: `  together-relay replay ls
  together-relay replay ls -o json`,
		Args: cobra.NoArgs,
	}
	outputFlag(cmd, &output)
	s := newSettings(cmd.Flags(), forAll|forNATS)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		return s.withReplayer(func(p *jetstream.Replayer) error {
			all, err := p.Replays(cmd.Context())
			if err != nil {
				return err
			}
			now := time.Now()
			var lines []replayLine
			for _, r := range all {
				line := replayLineOf(r, now)
				line.Delivered, line.Acknowledged = p.Taken(cmd.Context(), r)
				lines = append(lines, line)
			}
			return printReplays(cmd.OutOrStdout(), output, lines, now)
		})
	}
	return cmd
}

func printReplays(w io.Writer, output string, lines []replayLine, now time.Time) error {
	if output == "json" {
		return writeJSONLines(w, lines)
	}
	if len(lines) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tTEAM\tSTATE\tCOPIED\tSEQUENCES\tCHOICE\tDELIVERED\tACKNOWLEDGED\tSTARTED")
	for _, l := range lines {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d of %d\t%d to %d\t%s\t%s\t%s\t%s ago\n", l.ID, l.Team, l.State, l.Copied, l.Total, l.From, l.To, printable(l.choice()),
			orDash(l.Delivered), orDash(l.Acknowledged), since(l.Started, now))
	}
	return table.Flush()
}

// choice is what was asked for beside the sequences.
func (l replayLine) choice() string {
	choice := strings.Join(l.Types, " ")
	if l.Resource != "" {
		choice = strings.TrimSpace(choice + " of " + l.Resource)
	}
	if l.Any {
		choice = strings.TrimSpace(choice + " --any")
	}
	return orDash(choice)
}

func newReplayStop() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "stop ID",
		Short: "End a replay for good",
		Long: `Ends a replay that is running or was interrupted. What it has copied stays with the team. A process
that copies learns of it within a second or two, and ends with exit code 1. Its last count is waited for, for
five seconds at most.`,
		Example: `  together-relay replay stop 3h0vn5a2kc`,
		Args:    cobra.ExactArgs(1),
	}
	outputFlag(cmd, &output)
	s := newSettings(cmd.Flags(), forAll|forNATS)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		return s.withReplayer(func(p *jetstream.Replayer) error {
			r, err := p.Stop(cmd.Context(), args[0])
			if err != nil {
				return explainReplay(err)
			}
			if r.State == jetstream.ReplayStopped && r.Owner != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "together-relay: the process that copied has not answered yet; what it has copied since %s is not counted, and replay ls tells it if it answers\n", r.Marked.Format(time.RFC3339))
			}
			return printReplay(cmd.OutOrStdout(), output, r, "copied", time.Now())
		})
	}
	return cmd
}
