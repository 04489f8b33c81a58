package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
	"together-relay/relay"
	"together-relay/schemas"
)

func newDLQRetry() *cobra.Command {
	var choice letterChoice
	cmd := &cobra.Command{
		Use:   "retry [N…]",
		Short: "Try dead letters again: deliveries are opened, events go to their team",
		Long: `Opens each delivery as it was, judged by its time of arrival and the secrets in force now. One that
has become usable, by a new release or schema, is stored as an event. An event that a team could
not handle is sent to that team again, and to no other: as a copy beside its live events, marked by
ce-replay with dlq-N.

What was stored leaves the dead letters; any other stays, and the exit code is 1. Doing it again
makes nothing twice.`,
		Example: `  together-relay dlq retry 3 4 5
  together-relay dlq retry --team billing --reason max_deliver --since 24h
  together-relay dlq retry --all --dry-run`,
	}
	choice.bulkFlags(cmd)
	withLetters(cmd, choice.checkBulk, func(ctx context.Context, l letters, _ []string) error {
		r, err := l.newRetrier()
		if err != nil {
			return err
		}
		return l.each(ctx, choice, "stays", func(letter jetstream.Letter) (string, error) {
			if choice.dryRun {
				return r.wouldRetry(ctx, letter)
			}
			return r.retry(ctx, letter)
		})
	})
	return cmd
}

// A retrier tries dead letters again.
type retrier struct {
	letters
	log *jetstream.Log

	// What was opened or asked before, and what came of it.
	intake    *relay.Intake
	intakeErr error
	teams     map[string]error
}

func (l letters) newRetrier() (*retrier, error) {
	var err error
	if l.stream.Prefixes, err = l.prefixes(); err != nil {
		return nil, err
	}
	log, err := l.logOf(l.reader)
	return &retrier{letters: l, log: log, teams: map[string]error{}}, err
}

// wouldRetry says what would be tried.
func (r *retrier) wouldRetry(ctx context.Context, letter jetstream.Letter) (string, error) {
	if err := r.retryable(ctx, letter); err != nil {
		return "", err
	}
	if letter.Team == nil {
		return "would be opened\t" + whose(letter), nil
	}
	return fmt.Sprintf("would be sent\t%s\t%s", whose(letter), printable(letter.Team.ID)), nil
}

// retryable says what keeps the letter from being tried.
func (r *retrier) retryable(ctx context.Context, letter jetstream.Letter) error {
	if letter.Broken != nil || letter.Team == nil {
		return letter.Broken
	}
	if _, err := letter.Original(); err != nil {
		return err
	}
	err, known := r.teams[letter.Team.Team]
	if !known {
		err = r.reader.Receives(ctx, letter.Team.Team)
		r.teams[letter.Team.Team] = err
	}
	return err
}

// retry stores first and drops then: a crash in between leaves a duplicate, and the stream drops
// that.
func (r *retrier) retry(ctx context.Context, letter jetstream.Letter) (said string, err error) {
	if len(letter.Body) < letter.Size { // it was listed without
		if letter, err = r.reader.Letter(ctx, letter.Sequence); err != nil {
			return "", err
		}
	}
	if err := r.retryable(ctx, letter); err != nil {
		return "", err
	}
	if letter.Team == nil {
		said, err = r.open(ctx, letter)
	} else {
		said, err = r.send(ctx, letter)
	}
	if err != nil {
		return "", err
	}
	return said, r.reader.Drop(ctx, letter.Sequence)
}

// open stores the event that the delivery has become.
func (r *retrier) open(ctx context.Context, letter jetstream.Letter) (string, error) {
	if r.intake == nil && r.intakeErr == nil {
		r.intake, r.intakeErr = r.openIntake()
	}
	if r.intakeErr != nil {
		return "", r.intakeErr
	}
	receipt, err := r.intake.Store(ctx, letter.Delivery)
	return fmt.Sprintf("stored\t%s\tseq %d", receipt.Subject, receipt.Sequence), err
}

func (r *retrier) openIntake() (*relay.Intake, error) {
	set, err := schemas.Load()
	if err != nil {
		return nil, err
	}
	sources, err := r.openSources()
	if err != nil {
		return nil, err
	}
	return openIntake(sources, set, r.log), nil
}

// send sends the event to its team again.
func (r *retrier) send(ctx context.Context, letter jetstream.Letter) (string, error) {
	original, err := letter.Original()
	if err != nil {
		return "", err
	}
	err = r.log.SendTo(ctx, letter.Team.Team, original, fmt.Sprint(jetstream.LetterReplay, letter.Sequence))
	return fmt.Sprintf("sent\t%s\t%s", whose(letter), printable(letter.Team.ID)), err
}
