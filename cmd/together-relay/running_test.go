package main

import (
	"errors"
	"strings"
	"testing"
)

// Of all that NATS refuses a verb the first is said; anything else each time.
func TestSayOnce(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	say := sayOnce(&said)
	say(errors.New("first"), true)
	say(errors.New("second"), true)
	say(errors.New("other"), false)
	want := "together-relay: NATS lets this user do less than is needed here: first; people log in as together-operator\n" +
		"together-relay: NATS reports an error: other\n"
	if said.String() != want {
		t.Errorf("said %q, want %q", said.String(), want)
	}
}
