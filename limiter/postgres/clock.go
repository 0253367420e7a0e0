package postgres

import (
	"sync"
	"sync/atomic"
	"time"
)

// Clock is the time of the database, as all nodes see it: its last answer, plus the time
// that has passed since. The machine's own clock may be set to anything.
type Clock struct {
	mu   sync.Mutex
	last time.Duration // boottime of the measurement in use

	ahead atomic.Int64 // the database's Unix nanoseconds less boottime
	shown atomic.Int64 // the latest time that was returned
}

// Now returns the database's time, and the time elapsed since this machine was started.
// Neither ever goes back.
func (c *Clock) Now() (shown time.Time, steady time.Duration) {
	steady = boottime()
	now := c.ahead.Load() + int64(steady)
	for {
		last := c.shown.Load()
		if now <= last {
			return time.Unix(0, last).UTC(), steady
		}
		if c.shown.CompareAndSwap(last, now) {
			return time.Unix(0, now).UTC(), steady
		}
	}
}

// An answer that took longer than slowAnswer says little about when it was true. It is
// used when nothing better has come for lastsFor.
const (
	slowAnswer = 100 * time.Millisecond
	lastsFor   = 30 * time.Second
)

// measure takes in the time that the database reported between two moments.
func (c *Clock) measure(micros int64, sent, answered time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	middle := sent + (answered-sent)/2
	if slow := answered-sent > slowAnswer; slow && c.last != 0 && middle-c.last < lastsFor {
		return // the earlier measurement is closer
	}
	if middle >= c.last {
		c.last = middle
		c.ahead.Store(micros*int64(time.Microsecond) - int64(middle))
	}
}
