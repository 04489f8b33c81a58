package natsd

import (
	"errors"
	"fmt"
	"os"
	"sync"
)

// A flusher makes what has been written durable, by one flush for all who wait at the same
// moment. Whoever comes alone is not kept waiting: there is no timer and no least number.
// Those who come while a flush runs are the next group, since that flush may have begun
// before their bytes were written.
type flusher struct {
	sync func() error

	mu     sync.Mutex
	busy   bool   // a flush runs
	next   *flush // for those who wait for a flush that has not begun; nil if nobody does
	failed error  // the first failure; nothing is known of the disk after it, so it stays
}

// A flush is one group's.
type flush struct {
	done chan struct{}
	err  error
}

func newFlusher(sync func() error) *flusher { return &flusher{sync: sync} }

// Flush blocks until all that was written before the call is on disk. After an error it
// fails for good: what the failed flush left behind cannot be known.
func (f *flusher) Flush() error {
	f.mu.Lock()
	if f.next == nil {
		f.next = &flush{done: make(chan struct{})}
	}
	mine, lead := f.next, !f.busy
	f.busy = true
	f.mu.Unlock()
	if lead {
		f.lead()
	}
	<-mine.done
	return mine.err
}

// lead flushes for the group that waits, and leaves the next one to a goroutine: whoever
// leads shall not serve others for ever.
func (f *flusher) lead() {
	f.mu.Lock()
	now := f.next
	f.next = nil
	now.err = f.failed
	f.mu.Unlock()
	if now.err == nil {
		now.err = f.sync()
	}

	f.mu.Lock()
	if now.err != nil && f.failed == nil {
		f.failed = fmt.Errorf("flush to disk failed, and what is on it is not known; restart the relay on a sound disk: %w", now.err)
	}
	now.err = f.failed
	f.busy = f.next != nil
	again := f.busy
	f.mu.Unlock()
	close(now.done)
	if again {
		go f.lead()
	}
}

// Failed is the failure that ended all flushing, or nil.
func (f *flusher) Failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// FlushDir makes all that was written to the directory's file system durable, for a process
// that does not run the server. Where a server cannot be flushed so, it needs no flush.
func FlushDir(dir string) error {
	if !canFlush {
		return nil
	}
	sync, closeDir, err := flushDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(sync(), closeDir())
}

// flushDir returns a function that makes all that was written to the directory's file
// system durable, and one that closes what it needs for that.
func flushDir(dir string) (sync func() error, closeDir func() error, err error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open data directory: %w", err)
	}
	return func() error { return syncfs(file) }, file.Close, nil
}
