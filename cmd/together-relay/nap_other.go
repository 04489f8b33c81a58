//go:build !linux

package main

import "time"

// A napper waits for short times, as exactly as the runtime can.
type napper struct{}

func newNapper() *napper { return &napper{} }

func (*napper) nap(d time.Duration) { <-time.After(d) }

func (*napper) close() {}
