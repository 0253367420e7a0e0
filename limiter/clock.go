package limiter

import (
	"sync"
	"time"
)

// Clock tells the time to everything that judges expiry, idleness and rates.
// One clock is injected into the Limiter, so that tests decide what time it is.
type Clock interface {
	Now() time.Time
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now returns the current time, with its monotonic reading.
func (SystemClock) Now() time.Time { return time.Now() }

// maxLead is how far the wall clock may run ahead of the monotonic one before it
// is not believed: nobody's clock gains minutes, but it may be set.
const maxLead = 5 * time.Minute

// markEvery is how often the store is told the time, with other changes.
const markEvery = 10 * time.Second

// watch is the time that limits are judged by. It follows the wall clock and
// never goes back: not while the server runs, and not below what the store has
// seen before. When the wall clock is set while the server runs, time goes on
// as if it had not been.
type watch struct {
	wall Clock

	mu    sync.Mutex
	start time.Time // the wall clock's, with its monotonic reading, when base was taken
	base  time.Time // the time at start
	last  time.Time // the latest that was told
}

// newWatch returns a watch that does not go below mark.
func newWatch(wall Clock, mark time.Time) *watch {
	now := wall.Now()
	w := &watch{wall: wall, start: now, base: now.Round(0)}
	if mark.After(w.base) {
		w.base = mark
	}
	w.last = w.base
	return w
}

// Now implements Clock.
func (w *watch) Now() time.Time {
	now := w.wall.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tell(now.Round(0), now.Sub(w.start)) // by the monotonic clock, where there is one
}

// tell is the time when the wall clock says told, so long after the start.
func (w *watch) tell(told time.Time, elapsed time.Duration) time.Time {
	steady := w.base.Add(elapsed)
	if ahead := told.Sub(steady); ahead < 0 || ahead > maxLead {
		told = steady
	}
	if told.Before(w.last) {
		told = w.last
	}
	w.last = told
	return told
}

// doubt is how far the wall clock is from the time that limits are judged by,
// when that is more than clocks differ by themselves; else 0.
func (w *watch) doubt() time.Duration {
	now := w.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if off := w.wall.Now().Round(0).Sub(now); off.Abs() > maxLead {
		return off
	}
	return 0
}

// set believes the wall clock again.
func (w *watch) set() time.Time {
	now := w.wall.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.start, w.base, w.last = now, now.Round(0), now.Round(0)
	return w.base
}
