package main

import (
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"together-relay/relay"
)

func newLogger(cfg logSettings, w io.Writer) zerolog.Logger {
	level, _ := zerolog.ParseLevel(cfg.level) // it was checked
	if cfg.format == "console" {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !colorful(w)}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

// colorful says whether w is a terminal whose user has nothing against colour.
func colorful(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && term.IsTerminal(int(f.Fd()))
}

// logOutcome writes the one wide line of a delivery.
func logOutcome(log zerolog.Logger, o relay.Outcome) {
	level := zerolog.InfoLevel
	switch {
	case o.Result == relay.ResultNotStored:
		level = zerolog.ErrorLevel
	case o.Result == relay.ResultDeadLettered || o.Rejected == relay.RejectedSignature:
		level = zerolog.WarnLevel
	}
	if level < log.GetLevel() {
		return
	}
	line := log.WithLevel(level) //nolint:zerologlint // it is sent below, after the fields that there are
	text := func(name, value string) {
		if value != "" {
			line.Str(name, value)
		}
	}
	text("source", o.Source)
	text("type", o.Type)
	text("event_id", o.ID)
	text("subject", o.Subject)
	if o.Sequence > 0 {
		line.Uint64("seq", o.Sequence)
	}
	line.Str("outcome", o.Result).Int("status", o.Status)
	text("rejected", o.Rejected)
	text("reason", o.Reason)
	text("detail", o.Detail)
	text("key", o.Proof)
	line.Int("bytes", o.Body).Str("remote", o.Remote).Dur("dur", o.Took)
	if o.Err != nil {
		line.Err(o.Err)
	}
	line.Msg("delivery")
}
