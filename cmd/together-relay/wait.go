package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/together"
	"together-relay/relay"
)

// The exit codes of wait, beside those of every verb.
const (
	exitJobFailed    = 3
	exitJobCancelled = 4 // or expired
	exitTimedOut     = 5
)

type waitFlags struct {
	timeout, every time.Duration
	output         string
}

func newWait() *cobra.Command {
	var f waitFlags
	cmd := &cobra.Command{
		Use:   "wait ID",
		Short: "Wait for a fine-tune, a batch, an evaluation or a file to end",
		Long: `Waits until the job has ended. What is stored already counts, so nothing is missed that
happened before. With TOGETHER_API_KEY the API is asked too: then no relay need watch the job, and
the progress shows state, step, loss and time left. A video or a queue job ends a wait by its event:
register it with together-relay watch add.

The exit code says how it ended: 0 done, 3 failed, 4 cancelled or expired, 5 timed out.`,
		Example: `  together-relay wait ft-9a8b7c6d-5e4f-3a2b-1c0d-9e8f7a6b5c4d --timeout 2h && ./deploy.sh
  together-relay wait 6d1f0a52-93c4-4b7e-8e21-5f0b7c9ad318 -o json | jq -r .data.output_url`,
		Args: cobra.ExactArgs(1),
	}
	s := newSettings(cmd.Flags(), forAll|forNATS|forAPI)
	fl := cmd.Flags()
	fl.DurationVar(&f.timeout, "timeout", 0, "give up after that `duration`; 0 is never")
	fl.DurationVar(&f.every, "every", 15*time.Second, "`duration` between two questions to the API")
	outputFlag(cmd, &f.output)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		switch {
		case args[0] == "":
			return usagef("the id is empty")
		case f.timeout < 0:
			return usagef("--timeout is %s, it must not be negative", f.timeout)
		case f.every <= 0:
			return usagef("--every is %s, it must be positive", f.every)
		}
		return wait(cmd.Context(), s, args[0], f, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// An ending is how a job has ended.
type ending struct {
	ID      string          `json:"id"`
	Outcome string          `json:"outcome"` // done, failed, cancelled or expired
	Type    string          `json:"type"`
	Time    time.Time       `json:"time"`
	Data    json.RawMessage `json:"data"`
}

// outcomeOf says what a type means that is the last one of a job, and the exit code of that. The
// outcome is empty for any other type.
func outcomeOf(typ string) (outcome string, code int) {
	switch typ {
	case "fine_tune.completed", "batch.done", "evaluation.completed", "file.processed", "video.completed", "queue_job.done":
		return "done", exitDone
	case "fine_tune.failed", "batch.failed", "evaluation.failed", "file.failed", "file.invalid", "video.failed", "queue_job.failed":
		return "failed", exitJobFailed
	case "fine_tune.cancelled", "batch.cancelled", "video.cancelled", "queue_job.canceled":
		return "cancelled", exitJobCancelled
	case "batch.expired":
		return "expired", exitJobCancelled
	}
	return "", 0
}

var errEnded = errors.New("the job has ended")

// wait listens to the stream and asks the API, whichever there is, until one of them says
// that the job has ended.
func wait(ctx context.Context, s *settings, id string, f waitFlags, stdout, stderr io.Writer) error {
	api, err := s.openAPI(nil)
	if err != nil {
		return err
	}
	if api != nil {
		defer api.Close()
	}
	reader, err := s.reader()
	if err != nil && api == nil {
		return fmt.Errorf("%w; or set TOGETHER_API_KEY", err)
	}
	if err == nil {
		defer reader.Close()
	}
	listed := reader == nil || !isRegistered(ctx, s, reader, id)
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	show := newProgress(stderr, id)
	defer show.clear()
	found := make(chan ending, 2)
	loops, ctx := errgroup.WithContext(ctx)
	if api == nil {
		show.say("waiting; without TOGETHER_API_KEY only a relay that watches can tell")
	}
	if reader != nil {
		loops.Go(func() error { return waitStream(ctx, reader, id, found, show) })
	}
	if api != nil && listed { // else the relay asks
		loops.Go(func() error { return waitAPI(ctx, api, id, f, found, show, reader != nil) })
	}
	err = loops.Wait()
	show.clear()
	switch {
	case errors.Is(err, errEnded):
		return printEnding(stdout, f.output, <-found)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("stopped waiting for %s", id)
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintf(stderr, "together-relay: %s has not ended after %s\n", id, f.timeout)
		return silent(exitTimedOut)
	}
	return err
}

func waitStream(ctx context.Context, reader *jetstream.Reader, id string, found chan<- ending, show *progress) error {
	return reader.Events(ctx, jetstream.Query{Resource: id, Follow: true}, func(m jetstream.Message) error {
		if m.Broken != nil {
			return nil
		}
		typ := bareType(m)
		outcome, _ := outcomeOf(typ)
		if outcome == "" {
			show.stored(typ, m.CloudEvent.Data())
			return nil
		}
		found <- ending{id, outcome, typ, m.CloudEvent.Time().UTC(), m.CloudEvent.Data()}
		return errEnded
	})
}

// unknownTries is how often the API may say that it knows no such job, before it is believed.
const unknownTries = 3

// waitAPI asks the API again and again. A key that it refuses ends the wait, and so does an id that
// it does not know, unless the stream may still tell of it within the time that is set, or it is
// a file's, which only the stream tells of.
func waitAPI(ctx context.Context, api *together.API, id string, f waitFlags, found chan<- ending, show *progress, stream bool) error {
	for unknown := 0; ; {
		p, err := api.Progress(ctx, id)
		pause := f.every
		if unknown++; !errors.Is(err, relay.ErrGone) {
			unknown = 0
		}
		later, told := errors.AsType[*relay.Later](err)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && p.Over && p.Fact != nil:
			ev := p.Fact.Event
			outcome, _ := outcomeOf(ev.Type)
			found <- ending{id, outcome, ev.Type, ev.CloudEvent.Time().UTC(), ev.CloudEvent.Data()}
			return errEnded
		case err == nil:
			show.asked(p)
		case errors.Is(err, relay.ErrKeyRefused):
			return usagef("the Together API refuses the key; look at TOGETHER_API_KEY: %w", err)
		case unknown > 0 && !stream, unknown >= unknownTries && f.timeout == 0 && !strings.HasPrefix(id, "file-"):
			return fmt.Errorf("the Together API knows no job %s", id)
		default:
			show.trouble(err)
			if told {
				pause = max(pause, later.After)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func printEnding(w io.Writer, output string, e ending) error {
	_, code := outcomeOf(e.Type)
	var err error
	if output == "json" {
		err = writeJSON(w, e)
	} else {
		_, err = fmt.Fprintf(w, "%s  %s  %s\n", printable(e.ID), e.Type, oneLine(e.Data))
	}
	if err == nil && code != exitDone {
		return silent(code)
	}
	return err
}

// progress shows how far a job is: on a terminal by a line that changes, elsewhere by a line
// for each change.
type progress struct {
	w    io.Writer
	id   string
	live bool

	mu   sync.Mutex
	said string
}

func newProgress(w io.Writer, id string) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, id: printable(id), live: ok && term.IsTerminal(int(f.Fd()))}
}

func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if text == p.said {
		return
	}
	p.said = text
	if p.live {
		fmt.Fprintf(p.w, "\r\x1b[K%s  %s", p.id, text)
	} else {
		fmt.Fprintf(p.w, "%s  %s\n", p.id, text)
	}
}

// clear makes room for the result.
func (p *progress) clear() {
	if p.live && p.said != "" {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.said = ""
	}
}

func (p *progress) trouble(err error) { p.say(fmt.Sprintf("not known now: %v", err)) }

// stored shows what an event says of the job.
func (p *progress) stored(typ string, data []byte) {
	var known struct {
		Step *int64   `json:"step"`
		Loss *float64 `json:"loss"`
	}
	_ = json.Unmarshal(data, &known) // what is not there is not shown
	_, state, _ := strings.Cut(typ, ".")
	p.say(describe(state, cmp.Or(known.Step, new(int64)), 0, known.Loss, nil, 0))
}

// asked shows what the API says of the job.
func (p *progress) asked(now together.Progress) {
	p.say(describe(strings.ToLower(now.State), &now.Step, now.Total, now.Loss, now.Percent, now.Left))
}

func describe(state string, step *int64, total int64, loss, percent *float64, left time.Duration) string {
	parts := []string{state}
	switch {
	case total > 0:
		parts = append(parts, fmt.Sprintf("step %d of %d", *step, total))
	case *step > 0:
		parts = append(parts, fmt.Sprintf("step %d", *step))
	}
	if percent != nil {
		parts = append(parts, fmt.Sprintf("%.0f %%", *percent))
	}
	if loss != nil {
		parts = append(parts, fmt.Sprintf("loss %.4g", *loss))
	}
	if left > 0 {
		parts = append(parts, "next state in about "+left.Round(time.Second).String())
	}
	return strings.Join(parts, ", ")
}
