package limiter

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// Clock tells the time to everything that judges expiry, idleness and rates.
// One clock is injected into the Limiter, so that tests decide what time it is.
type Clock interface {
	// Now returns the time that the machine's clock tells, and how long it is
	// since some moment by a clock that nobody sets.
	Now() (told time.Time, steady time.Duration)
}

// SystemClock is the machine's clock.
type SystemClock struct{}

var started = time.Now()

// Now implements Clock.
func (SystemClock) Now() (time.Time, time.Duration) {
	now := time.Now()
	return now.Round(0), now.Sub(started)
}

// maxLead is how far the wall clock may run ahead of the monotonic one before it
// is not believed: nobody's clock gains minutes, but it may be set.
const maxLead = 5 * time.Minute

// markEvery is how often the store is told the time, with other changes.
const markEvery = 10 * time.Second

// watch is the time that limits are judged by. It follows the wall clock and
// never goes back: not while the server runs, and not below what the store has
// seen before. When the wall clock is set while the server runs, time goes on
// as if it had not been; but one that was behind from the start is believed
// again as soon as it is not any more, as on machines that keep no time while
// they are off.
type watch struct {
	wall Clock
	from atomic.Pointer[watchStart]
	last atomic.Int64 // Unix nanoseconds of the latest that was told, to a millisecond
}

// watchStart is one moment by both clocks.
type watchStart struct {
	steady time.Duration
	base   time.Time
	behind bool // the machine's clock was, so base is not what it told
}

// newWatch returns a watch that does not go below mark.
func newWatch(wall Clock, mark time.Time) *watch {
	told, steady := wall.Now()
	w := &watch{wall: wall}
	from := &watchStart{steady: steady, base: told}
	if mark.After(told) {
		from.base, from.behind = mark, true
	}
	w.from.Store(from)
	w.last.Store(from.base.UnixNano())
	return w
}

// Now returns the time that limits are judged by.
func (w *watch) Now() time.Time {
	told, steady := w.wall.Now()
	from := w.from.Load()
	base := from.base.Add(steady - from.steady)
	if from.behind && told.After(base) {
		w.from.CompareAndSwap(from, &watchStart{steady: steady, base: told})
		base = told
	}
	return w.tell(told, base)
}

// tell is the time when the machine's clock tells told, and the steady one says base.
func (w *watch) tell(told, base time.Time) time.Time {
	if ahead := told.Sub(base); ahead < 0 || ahead > maxLead {
		told = base
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
	told, _ := w.wall.Now()
	if off := told.Sub(w.Now()); off.Abs() > maxLead {
		return off
	}
	return 0
}

// set believes the wall clock again.
func (w *watch) set() time.Time {
	told, steady := w.wall.Now()
	w.from.Store(&watchStart{steady: steady, base: told})
	w.last.Store(told.UnixNano())
	return told
}

// teller tells the time that limits are judged by.
type teller interface{ Now() time.Time }

// clockMark lets the store know the time every now and then, so that it does not go
// back over a restart.
type clockMark struct {
	clock teller
	last  time.Time // that is durable
	next  time.Time // that this batch writes; zero: none
}

func (m *clockMark) Begin() {
	m.next = time.Time{}
	if now := m.clock.Now(); now.Sub(m.last).Abs() >= markEvery {
		m.next = now
	}
}

// set has the time written with this batch.
func (m *clockMark) set(now time.Time) { m.next = now }

func (m *clockMark) Finish(t *transaction) error {
	if m.next.IsZero() {
		return nil
	}
	return t.Set(record.MetaClock, binary.BigEndian.AppendUint64(nil, uint64(m.next.UnixNano())))
}

func (m *clockMark) Committed() {
	if !m.next.IsZero() {
		m.last = m.next
	}
}
