package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// sinceFlag adds --since, which parseSince reads, to a verb: what is chosen since then.
func sinceFlag(cmd *cobra.Command, into *string, usual, what string) {
	cmd.Flags().StringVar(into, "since", usual, what+" since then: a `time` such as 2026-07-01T09:00:00Z, or how long ago, such as 2h or 7d")
}

// parseSince reads a time, or how long ago it was; empty is the beginning.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	if d, err := parseDays(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%q is no time and no length of time; write 2h, 7d or 2026-07-01T09:00:00Z", text)
}
