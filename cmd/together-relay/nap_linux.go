package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A napper waits for short times, exact to some ten microseconds where the system can.
type napper struct {
	fd   int
	file *os.File // nil if there is no such timer
	buf  [8]byte
}

// newNapper opens a timer that the runtime waits for as it waits for a connection.
func newNapper() *napper {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return &napper{}
	}
	return &napper{fd: fd, file: os.NewFile(uintptr(fd), "timer")}
}

func (n *napper) nap(d time.Duration) {
	if n.file != nil {
		spec := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}
		if unix.TimerfdSettime(n.fd, 0, &spec, nil) == nil {
			if _, err := n.file.Read(n.buf[:]); err == nil {
				return
			}
		}
	}
	<-time.After(d)
}

func (n *napper) close() {
	if n.file != nil {
		closeQuietly(n.file)
	}
}
