package natsd

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever waits is answered by a flush that began after it came, and all who come while a
// flush runs share the next one.
func TestFlushIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var begun atomic.Int64
		f := newFlusher(func() error {
			begun.Add(1)
			<-time.After(time.Second)
			return nil
		})
		var wg sync.WaitGroup
		wg.Go(func() { _ = f.Flush() })
		synctest.Wait() // the first flush runs
		for range 100 {
			wg.Go(func() {
				before := begun.Load()
				if err := f.Flush(); err != nil {
					t.Error(err)
				}
				if begun.Load() == before {
					t.Error("answered by a flush that had begun before")
				}
			})
		}
		wg.Wait()
		if n := begun.Load(); n != 2 {
			t.Errorf("%d flushes for one and then a hundred, want 2", n)
		}
	})
}

func TestFlushAloneIsAtOnce(t *testing.T) {
	t.Parallel()
	flushes := 0
	f := newFlusher(func() error { flushes++; return nil })
	for range 3 {
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if flushes != 3 {
		t.Errorf("%d flushes, want 3", flushes)
	}
}

func TestFailedFlushIsForGood(t *testing.T) {
	t.Parallel()
	broken := errors.New("input/output error")
	result := broken
	f := newFlusher(func() error { return result })
	if err := f.Flush(); !errors.Is(err, broken) {
		t.Errorf("Flush = %v, want the cause", err)
	}
	result = nil
	if err := f.Flush(); !errors.Is(err, broken) || !errors.Is(f.Failed(), broken) {
		t.Errorf("Flush = %v after a failure; it must not succeed again", err)
	}
}

func TestFlushManyAtOnce(t *testing.T) {
	t.Parallel()
	sync_, closeDir, err := flushDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer closeDir()
	if !canFlush {
		t.Skip("no flush of a whole file system on this machine")
	}
	f := newFlusher(sync_)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if err := f.Flush(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
