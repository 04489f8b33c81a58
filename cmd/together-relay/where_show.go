package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/together"
)

// A whereLine is an event and what became of it, for programs. So is a delivery that never
// became one: it has no sequence, and a dead letter.
type whereLine struct {
	ID       string          `json:"id,omitempty"`
	Type     string          `json:"type,omitempty"`
	Resource string          `json:"resource,omitempty"`
	Source   string          `json:"source,omitempty"`
	Ingress  string          `json:"ingress,omitempty"`
	Received *time.Time      `json:"received,omitempty"`
	Stored   *time.Time      `json:"stored,omitempty"`
	Sequence uint64          `json:"sequence,omitempty"`
	Subject  string          `json:"subject,omitempty"`
	Broken   string          `json:"broken,omitempty"`
	Letter   *whereLetter    `json:"dead_letter,omitempty"`
	Teams    []whereTeamLine `json:"teams,omitempty"`
}

type whereLetter struct {
	Number uint64 `json:"number"` // 0 if it is not made yet
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// A whereStanding is where an event, or a copy of it, stands with a team.
type whereStanding struct {
	State  string       `json:"state"` // one of jetstream's Where constants, or no_consumer
	Unsure string       `json:"unsure,omitempty"`
	Letter *whereLetter `json:"dead_letter,omitempty"`
}

type whereTeamLine struct {
	Team string `json:"team"`
	whereStanding
	Paused bool            `json:"paused,omitempty"`
	Copies []whereCopyLine `json:"copies,omitempty"`
}

type whereCopyLine struct {
	Replay   string `json:"replay"`
	Sequence uint64 `json:"sequence"`
	whereStanding
}

// whereNoConsumer is the state of a team in the file of which a relay has made no consumer.
const whereNoConsumer = "no_consumer"

// show prints what was found, in stream order.
func (q *whereSearch) show(ctx context.Context, w io.Writer) error {
	about, err := q.reader.Whereabouts(ctx)
	if err != nil {
		return err
	}
	for _, m := range q.events {
		line := lineOf(m)
		teams, err := about.Of(ctx, m.Place)
		if err != nil {
			return err
		}
		for _, team := range teams {
			line.Teams = append(line.Teams, teamLineOf(team))
		}
		for _, team := range q.teamList() {
			known := slices.ContainsFunc(teams, func(t jetstream.TeamWhere) bool { return t.Team == team.Name })
			if !known && team.Wants(bareType(m)) {
				line.Teams = append(line.Teams, whereTeamLine{Team: team.Name, whereStanding: whereStanding{State: whereNoConsumer}})
			}
		}
		if err := line.print(w, q.f.output); err != nil {
			return err
		}
	}
	for _, l := range q.letters {
		ev, _ := together.Read(l.Body) // as far as it can be read
		line := whereLine{ID: ev.CloudEvent.ID(), Source: l.Source, Ingress: "webhook", Received: timeOrNil(l.Arrived), Letter: &whereLetter{l.Sequence, l.Reason, l.Detail}}
		if err := line.print(w, q.f.output); err != nil {
			return err
		}
	}
	return nil
}

func lineOf(m jetstream.Message) whereLine {
	line := whereLine{Source: m.Source, Stored: timeOrNil(m.Stored), Received: timeOrNil(m.Stored), Sequence: m.Sequence, Subject: m.Subject}
	if m.Broken != nil {
		line.Broken = m.Broken.Error()
		return line
	}
	line.ID, line.Type, line.Resource = m.CloudEvent.ID(), bareType(m), m.Resource
	line.Ingress, _ = m.CloudEvent.Extensions()["ingress"].(string)
	line.Received = timeOrNil(m.Received())
	return line
}

func teamLineOf(team jetstream.TeamWhere) whereTeamLine {
	line := whereTeamLine{Team: team.Team, whereStanding: standingOf(team.Standing), Paused: team.Paused}
	for _, c := range team.Copies {
		line.Copies = append(line.Copies, whereCopyLine{c.Replay, c.Sequence, standingOf(c.Standing)})
	}
	return line
}

func standingOf(s jetstream.Standing) whereStanding {
	standing := whereStanding{State: s.State, Unsure: s.Unsure}
	if s.State == jetstream.WhereDead {
		standing.Letter = &whereLetter{s.Letter, s.Reason, s.Why}
	}
	return standing
}

func (line whereLine) print(w io.Writer, output string) error {
	if output == "json" {
		return writeJSON(w, line)
	}
	var b strings.Builder
	width := 10
	for _, team := range line.Teams {
		if team.State != jetstream.WhereNot || len(team.Copies) > 0 {
			width = max(width, len(team.Team))
		}
	}
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-*s  %s\n", width, name, fmt.Sprintf(format, args...))
	}
	received := "-"
	if line.Received != nil {
		received = line.Received.UTC().Format(time.RFC3339Nano)
	}
	if line.Sequence == 0 {
		fmt.Fprintf(&b, "%s  a delivery that is no event\n", printable(orDash(line.ID)))
		row("received", "%s, by %s, source %s", received, line.Ingress, printable(line.Source))
		row("stored", "never; it is %s", line.Letter.text())
		_, err := io.WriteString(w, b.String())
		return err
	}
	fmt.Fprintf(&b, "%s  %s  %s\n", printable(orDash(line.ID)), printable(orDash(line.Type)), printable(orDash(line.Resource)))
	if line.Broken != "" {
		row("broken", "%s", printable(line.Broken))
	}
	row("received", "%s, by %s, source %s", received, cmp.Or(line.Ingress, "another hand"), printable(orDash(line.Source)))
	row("stored", "sequence %d, %s", line.Sequence, line.Subject)
	var others []string
	for _, team := range line.Teams {
		if team.State == jetstream.WhereNot && len(team.Copies) == 0 {
			others = append(others, team.Team)
			continue
		}
		paused := ""
		if team.Paused {
			paused = "; the team is paused"
		}
		row(team.Team, "%s%s", team.text(), paused)
		for _, c := range team.Copies {
			row("", "copy %d, of replay %s: %s", c.Sequence, printable(c.Replay), c.text())
		}
	}
	switch {
	case len(line.Teams) == 0:
		row("teams", "there are none")
	case len(others) > 0:
		row("not for", "%s", strings.Join(others, ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// text is the standing in words.
func (s whereStanding) text() string {
	switch s.State {
	case jetstream.WhereWaiting:
		return "delivered, waiting for acknowledgement"
	case jetstream.WhereRetrying:
		return "delivered more than once, waiting for acknowledgement"
	case jetstream.WhereDelivered:
		return "delivered; " + s.Unsure
	case jetstream.WhereNot:
		return "not subscribed"
	case jetstream.WhereDead:
		return s.Letter.text()
	case jetstream.WhereRetried:
		return "was a dead letter, and was sent once more"
	case whereNoConsumer:
		return "no relay has made its consumer yet"
	}
	return s.State
}

func (l *whereLetter) text() string {
	if l.Number == 0 {
		return "dead; its dead letter is not made yet"
	}
	return fmt.Sprintf("dead letter %d, %s: %s", l.Number, printable(l.Reason), printable(l.Detail))
}
