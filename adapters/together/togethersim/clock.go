package togethersim

import (
	"sync"
	"time"
)

// A Clock is turned by hand. It is safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands at the given moment.
func NewClock(at time.Time) *Clock { return &Clock{now: at} }

// Now is where the clock stands; it fits [Config].
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Turn moves the clock on and returns where it stands then.
func (c *Clock) Turn(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return c.now
}

// Fast returns a clock that stands at start now, and from now on runs so many times as
// fast as the real one.
func Fast(start time.Time, times float64) func() time.Time {
	began := time.Now()
	return func() time.Time {
		return start.Add(time.Duration(float64(time.Since(began)) * times))
	}
}
