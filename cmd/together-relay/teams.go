package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
)

func newTeams() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "teams",
		Short: "Look at the teams and how far each has got",
		Long: `Teams stand in relay.yaml. serve makes a durable pull consumer of the team's name on the event
stream, changes it when the file changes, and pauses it when the team is taken out. With the embedded
server each team logs in with a password of its own, and may take its events and nothing else.`,
		Example: `  together-relay teams ls
  (umask 077; together-relay teams creds billing > billing.env)
  together-relay teams snippet billing --lang python > subscriber.py
  together-relay teams rm billing --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTeamsLs(), newTeamsSnippet(), newTeamsCreds(), newTeamsNATSConfig(), newTeamsRm())
	return cmd
}

func newTeamsLs() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the teams: what waits for each, and how far it has got",
		Long: `Lists the teams of the file and the consumers that a relay has made. Pending is stored and not
delivered yet, in flight is delivered and not acknowledged yet, waiting are pull requests that wait for
an event, oldest is how long the first event that is not acknowledged has been stored. Replay are copies
that are for this team alone, pending and in flight; dead are its dead letters; taken is how long ago it
was given something last.`,
		Example: `  together-relay teams ls
  together-relay teams ls -o json`,
		Args: cobra.NoArgs,
	}
	outputFlag(cmd, &output)
	s := newSettings(cmd.Flags(), forAll|forNATS)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		reader, err := s.reader()
		if err != nil {
			return err
		}
		defer reader.Close()
		lines, err := s.teamLines(cmd.Context(), reader)
		if err != nil {
			return err
		}
		if output == "json" {
			return writeJSONLines(cmd.OutOrStdout(), lines)
		}
		return printTeams(cmd.OutOrStdout(), lines, time.Now())
	}
	return cmd
}

// A teamLine is what there is to say of a team.
type teamLine struct {
	Team         string      `json:"team"`
	Events       []string    `json:"events"`
	State        string      `json:"state"` // a word; empty is all is well
	Pending      uint64      `json:"pending"`
	InFlight     int         `json:"in_flight"`
	Redelivered  int         `json:"redelivered"`
	Waiting      int         `json:"waiting"`
	Delivered    teamPlace   `json:"delivered"`
	Acknowledged teamPlace   `json:"acknowledged"`
	Oldest       *time.Time  `json:"oldest,omitempty"`
	LastTaken    *time.Time  `json:"last_taken,omitempty"` // when something was delivered to it last, an event or a copy
	Replay       teamReplay  `json:"replay"`
	DeadLetters  uint64      `json:"dead_letters"`
	Paused       bool        `json:"paused"`
	Drift        []teamDrift `json:"drift,omitempty"`
}

// A teamReplay is how far a team has got with the copies that are for it alone.
type teamReplay struct {
	Pending     uint64 `json:"pending"`
	InFlight    int    `json:"in_flight"`
	Redelivered int    `json:"redelivered"`
}

type teamPlace struct {
	Sequence uint64     `json:"sequence"`
	Time     *time.Time `json:"time,omitempty"`
}

type teamDrift struct {
	Setting string `json:"setting"`
	Want    string `json:"want"`
	Have    string `json:"have"`
}

// What state a team is in.
const (
	teamMissing = "no consumer" // no relay has made one yet
	teamHalf    = "no consumer of copies"
	teamForeign = "not the relay's" // a consumer of another hand has the name
	teamRemoved = "not in the file" // and paused for that
	teamPaused  = "paused"          // by another hand
)

// teamLines joins what the file says with what is there.
func (s *settings) teamLines(ctx context.Context, reader *jetstream.Reader) ([]teamLine, error) {
	wanted := s.teamList()
	seen, err := reader.Teams(ctx, wanted)
	if err != nil {
		return nil, err
	}
	letters, err := reader.LetterCounts(ctx)
	if err != nil {
		return nil, err
	}
	var lines []teamLine
	for _, team := range seen {
		line := teamLine{
			Team: team.Name, Events: team.Events, Pending: team.Pending, InFlight: team.InFlight, Redelivered: team.Redelivered,
			Waiting: team.Waiting, Delivered: placeOf(team.Delivered), Acknowledged: placeOf(team.Acknowledged),
			Oldest: timeOrNil(team.Oldest), Paused: team.Paused, LastTaken: timeOrNil(later(team.Delivered.Time, team.Copies.Delivered)),
			Replay: teamReplay{team.Copies.Pending, team.Copies.InFlight, team.Copies.Redelivered},
		}
		for _, n := range letters.Teams[team.Name] {
			line.DeadLetters += n
		}
		for _, d := range team.Drifts {
			line.Drift = append(line.Drift, teamDrift(d))
		}
		switch {
		case team.Foreign:
			line.State = teamForeign
		case team.Removed:
			line.State = teamRemoved
		case team.Paused:
			line.State = teamPaused
		case team.Copies.Missing:
			line.State = teamHalf
		}
		lines = append(lines, line)
	}
	for _, team := range wanted {
		i := slices.IndexFunc(lines, func(l teamLine) bool { return l.Team == team.Name })
		if i < 0 {
			lines = append(lines, teamLine{Team: team.Name, Events: team.Events, State: teamMissing})
		} else if lines[i].Events == nil {
			lines[i].Events = team.Events
		}
	}
	slices.SortFunc(lines, func(a, b teamLine) int { return strings.Compare(a.Team, b.Team) })
	return lines, nil
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func placeOf(place jetstream.TeamPlace) teamPlace {
	return teamPlace{place.Sequence, timeOrNil(place.Time)}
}

func printTeams(w io.Writer, lines []teamLine, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TEAM\tEVENTS\tPENDING\tIN FLIGHT\tREDELIVERED\tWAITING\tDELIVERED\tACKNOWLEDGED\tOLDEST\tREPLAY\tDEAD\tTAKEN\tSTATE")
	for _, line := range lines {
		var states []string
		if line.State != "" {
			states = append(states, line.State)
		}
		for _, d := range line.Drift {
			states = append(states, fmt.Sprintf("%s is %s, configured is %s", d.Setting, d.Have, d.Want))
		}
		oldest, taken := "-", "-"
		if line.Oldest != nil {
			oldest = since(*line.Oldest, now)
		}
		if line.LastTaken != nil {
			taken = since(*line.LastTaken, now) + " ago"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%d+%d\t%d\t%s\t%s\n", line.Team, printable(strings.Join(line.Events, " ")), line.Pending,
			line.InFlight, line.Redelivered, line.Waiting, line.Delivered.text(now), line.Acknowledged.text(now), oldest,
			line.Replay.Pending, line.Replay.InFlight, line.DeadLetters, taken,
			printable(cmp.Or(strings.Join(states, "; "), "ok")))
	}
	return table.Flush()
}

func (p teamPlace) text(now time.Time) string {
	switch {
	case p.Sequence == 0:
		return "-"
	case p.Time == nil:
		return fmt.Sprint(p.Sequence)
	}
	return fmt.Sprintf("%d (%s ago)", p.Sequence, since(*p.Time, now))
}
