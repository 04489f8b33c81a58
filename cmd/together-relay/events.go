package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/together"
	"together-relay/schemas"
)

type eventsFlags struct {
	query     jetstream.Query
	since     string
	forwardTo string
	output    string
}

func newEvents() *cobra.Command {
	var f eventsFlags
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List what is stored, follow it, or forward it",
		Long: `Lists the stored events, oldest first. On a terminal the data is shown below each event;
otherwise an event is a line: time, sequence, type, resource, id and data, separated by tabs.
With -o json an event is a line of CloudEvents JSON, with the stream sequence and the NATS
subject as the members sequence and natssubject.

--forward-to posts each event as the sender posted it: the same body, byte for byte, freshly
signed with the first secret of its source. Each answer is printed.`,
		Example: `  together-relay events --since 2h
  together-relay events --type 'fine_tune.*' --follow
  together-relay events --resource ft-1 -o json | jq .data
  together-relay events --follow --forward-to http://localhost:3000/hook`,
		Args: cobra.NoArgs,
	}
	s := newSettings(cmd.Flags(), forAll|forNATS)
	fl := cmd.Flags()
	fl.StringVar(&f.query.Type, "type", "", "`pattern` of types: batch.done, 'fine_tune.*' or 'fine_tune.>'")
	fl.StringVar(&f.query.Resource, "resource", "", "the `resource` that events are about, such as ft-1")
	sinceFlag(cmd, &f.since, "", "stored")
	fl.BoolVarP(&f.query.Follow, "follow", "f", false, "go on with what is stored later; with --since 0s only that")
	fl.StringVar(&f.forwardTo, "forward-to", "", "`URL` to post the events to")
	outputFlag(cmd, &f.output)
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(schemas.Types(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		return events(cmd.Context(), s, f, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

func events(ctx context.Context, s *settings, f eventsFlags, stdout, stderr io.Writer) (err error) {
	if f.query.Since, err = parseSince(f.since, time.Now()); err != nil {
		return usagef("--since: %w", err)
	}
	show := eventPrinter(stdout, f.output)
	if f.forwardTo != "" {
		sources, err := s.openSources()
		if err != nil {
			return err
		}
		show = func(m jetstream.Message) error { return forward(ctx, f, sources, m, stdout) }
	}
	reader, err := s.reader()
	if err != nil {
		return err
	}
	defer reader.Close()
	if f.query.Prefixes, err = s.prefixList(); err != nil {
		return err
	}
	failed := 0
	err = reader.Events(ctx, f.query, func(m jetstream.Message) error {
		if m.Broken != nil {
			fmt.Fprintf(stderr, "together-relay: sequence %d is passed over: %v\n", m.Sequence, m.Broken)
			return nil
		}
		if err := show(m); errors.Is(err, errNotTaken) {
			failed++
		} else if err != nil {
			return err
		}
		return nil
	})
	if f.query.Follow && errors.Is(err, context.Canceled) {
		err = nil // that is how following ends
	}
	if err == nil && failed > 0 {
		return fmt.Errorf("%d events were not taken by %s", failed, f.forwardTo)
	}
	return err
}

var errNotTaken = errors.New("not taken")

// forward posts the event as its sender did, freshly signed.
func forward(ctx context.Context, f eventsFlags, sources map[string]*together.Source, m jetstream.Message, w io.Writer) error {
	source := sources[m.Source]
	if source == nil {
		_, err := fmt.Fprintf(w, "---  there is no secret of source %q to sign with  %s  seq %d\n", m.Source, printable(m.CloudEvent.ID()), m.Sequence)
		return cmp.Or(err, errNotTaken)
	}
	body, err := together.Body(m.Event)
	if err != nil {
		return fmt.Errorf("event %s: %w", m.CloudEvent.ID(), err)
	}
	status, _, err := post(ctx, f.forwardTo, source, body)
	if err != nil && ctx.Err() == nil && !errors.Is(err, errUsage) {
		_, printed := fmt.Fprintf(w, "---  %v  %s  seq %d\n", err, printable(m.CloudEvent.ID()), m.Sequence)
		return cmp.Or(printed, errNotTaken)
	}
	if err != nil {
		return err
	}
	if f.output == "json" {
		if err := writeJSON(w, map[string]any{"sequence": m.Sequence, "id": m.CloudEvent.ID(), "status": status}); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintf(w, "%d  %s  %s  seq %d\n", status, http.StatusText(status), m.CloudEvent.ID(), m.Sequence); err != nil {
		return err
	}
	if status < 200 || status > 299 {
		return errNotTaken
	}
	return nil
}

func eventPrinter(w io.Writer, output string) func(jetstream.Message) error {
	switch {
	case output == "json":
		return func(m jetstream.Message) error { return printEventJSON(w, m) }
	case colorful(w):
		return func(m jetstream.Message) error { return printEventPretty(w, m) }
	default:
		return func(m jetstream.Message) error {
			_, err := fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", m.Stored.UTC().Format(time.RFC3339Nano), m.Sequence,
				printable(bareType(m)), printable(orDash(m.Resource)), printable(m.CloudEvent.ID()), oneLine(m.CloudEvent.Data()))
			return err
		}
	}
}

func bareType(m jetstream.Message) string {
	return strings.TrimPrefix(m.CloudEvent.Type(), together.TypePrefix)
}

func oneLine(data []byte) string {
	var b bytes.Buffer
	if json.Compact(&b, data) != nil {
		return fmt.Sprintf("%q", data)
	}
	return b.String()
}

func printEventPretty(w io.Writer, m jetstream.Message) error {
	const bold, dim, plain = "\x1b[1m", "\x1b[2m", "\x1b[0m"
	var data bytes.Buffer
	if json.Indent(&data, m.CloudEvent.Data(), "    ", "  ") != nil {
		data.WriteString(oneLine(m.CloudEvent.Data()))
	}
	_, err := fmt.Fprintf(w, "%s%s%s  %s%s%s  %s  %s%s  seq %d%s\n    %s\n", dim, m.Stored.Local().Format(time.DateTime), plain,
		bold, printable(bareType(m)), plain, printable(orDash(m.Resource)), dim, printable(m.CloudEvent.ID()), m.Sequence, plain, data.String())
	return err
}

// printEventJSON writes the event in CloudEvents JSON on a line, its data as it was sent but
// for white space.
func printEventJSON(w io.Writer, m jetstream.Message) error {
	ctx := m.CloudEvent.Context.AsV1()
	members := map[string]any{"source": ctx.Source.String(), "type": ctx.Type}
	if ctx.Subject != nil {
		members["subject"] = *ctx.Subject
	}
	if ctx.Time != nil {
		members["time"] = ctx.Time.String()
	}
	if ctx.DataContentType != nil {
		members["datacontenttype"] = *ctx.DataContentType
	}
	if ctx.DataSchema != nil {
		members["dataschema"] = ctx.DataSchema.String()
	}
	for name, value := range ctx.Extensions {
		text, err := types.Format(value)
		if err != nil {
			return err
		}
		members[name] = text
	}
	delete(members, "data") // no attribute may be named so
	delete(members, "data_base64")
	members["sequence"], members["natssubject"] = m.Sequence, m.Subject
	id, err := marshal(ctx.ID)
	if err != nil {
		return err
	}
	line := fmt.Appendf(nil, `{"specversion":"1.0","id":%s`, id)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		value, err := marshal(members[name])
		if err != nil {
			return err
		}
		line = fmt.Appendf(line, `,%q:%s`, name, value)
	}
	if data := m.CloudEvent.Data(); json.Valid(data) {
		_, err = fmt.Fprintf(w, "%s,\"data\":%s}\n", line, oneLine(data))
	} else {
		_, err = fmt.Fprintf(w, "%s,\"data_base64\":%q}\n", line, base64.StdEncoding.EncodeToString(data))
	}
	return err
}
