package limiter

import (
	"sync/atomic"
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
	from atomic.Pointer[watchStart]
	last atomic.Int64 // Unix nanoseconds of the latest that was told, to a millisecond
}

// watchStart is a moment by both clocks: start has the wall clock's monotonic
// reading, base is the time.
type watchStart struct{ start, base time.Time }

// newWatch returns a watch that does not go below mark.
func newWatch(wall Clock, mark time.Time) *watch {
	now := wall.Now()
	base := now.Round(0)
	if mark.After(base) {
		base = mark
	}
	w := &watch{wall: wall}
	w.from.Store(&watchStart{now, base})
	w.last.Store(base.UnixNano())
	return w
}

// Now implements Clock.
func (w *watch) Now() time.Time {
	now, from := w.wall.Now(), w.from.Load()
	return w.tell(now.Round(0), from.base.Add(now.Sub(from.start)))
}

// tell is the time when the wall clock says told, and the monotonic one steady.
func (w *watch) tell(told, steady time.Time) time.Time {
	if ahead := told.Sub(steady); ahead < 0 || ahead > maxLead {
		told = steady
	}
	n, last := told.UnixNano(), w.last.Load()
	if n < last {
		return time.Unix(0, last).UTC()
	}
	if n-last > int64(time.Millisecond) {
		w.last.CompareAndSwap(last, n) // or another has told about the same
	}
	return told
}

// doubt is how far the wall clock is from the time that limits are judged by,
// when that is more than clocks differ by themselves; else 0.
func (w *watch) doubt() time.Duration {
	if off := w.wall.Now().Round(0).Sub(w.Now()); off.Abs() > maxLead {
		return off
	}
	return 0
}

// set believes the wall clock again.
func (w *watch) set() time.Time {
	now := w.wall.Now()
	w.from.Store(&watchStart{now, now.Round(0)})
	w.last.Store(now.UnixNano())
	return now.Round(0)
}
