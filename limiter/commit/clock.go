package commit

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// Clock supplies the time to everything that judges expiry, idleness and rates. One
// clock is injected into the Limiter, so that tests decide what time it is.
type Clock interface {
	// Now returns the time that the machine's clock shows, and the time elapsed
	// since some moment by a clock that cannot be set.
	Now() (shown time.Time, steady time.Duration)
}

// SystemClock is the machine's clock.
type SystemClock struct{}

var started = time.Now()

// Now implements Clock.
func (SystemClock) Now() (time.Time, time.Duration) {
	now := time.Now()
	return now.Round(0), now.Sub(started)
}

// maxLead is how far the wall clock may run ahead of the monotonic one before it is
// no longer believed: no clock gains minutes by itself, but it may be set.
const maxLead = 5 * time.Minute

// markEvery is how often the time is written to the store, together with other
// changes.
const markEvery = 10 * time.Second

// Watch is the time by which limits are judged. It follows the wall clock and never
// goes back: not while the server runs, and not below what the store has seen before.
// When the wall clock is set while the server runs, time goes on as if it had not
// been. A clock that was behind from the start is believed again as soon as it has
// caught up, as on machines that keep no time while they are off.
type Watch struct {
	wall Clock
	from atomic.Pointer[watchStart]
	Last atomic.Int64 // Unix nanoseconds of the latest time returned, to a millisecond
}

// watchStart is one moment by both clocks.
type watchStart struct {
	steady time.Duration
	base   time.Time
	behind bool // the machine's clock was behind, so base is not its time
}

// NewWatch returns a watch that does not go below mark.
func NewWatch(wall Clock, mark time.Time) *Watch {
	shown, steady := wall.Now()
	w := &Watch{wall: wall}
	from := &watchStart{steady: steady, base: shown}
	if mark.After(shown) {
		from.base, from.behind = mark, true
	}
	w.from.Store(from)
	w.Last.Store(from.base.UnixNano())
	return w
}

// Now returns the time by which limits are judged.
func (w *Watch) Now() time.Time {
	shown, steady := w.wall.Now()
	from := w.from.Load()
	base := from.base.Add(steady - from.steady)
	if from.behind && shown.After(base) {
		w.from.CompareAndSwap(from, &watchStart{steady: steady, base: shown})
		base = shown
	}
	return w.At(shown, base)
}

// At returns the time by which limits are judged when the machine's clock shows shown and
// the steady one says base.
func (w *Watch) At(shown, base time.Time) time.Time {
	if ahead := shown.Sub(base); ahead < 0 || ahead > maxLead {
		shown = base
	}
	n, last := shown.UnixNano(), w.Last.Load()
	if n < last {
		return time.Unix(0, last).UTC()
	}
	if n-last > int64(time.Millisecond) {
		w.Last.CompareAndSwap(last, n) // or another caller has stored about the same
	}
	return shown
}

// Doubt is how far the wall clock is from the time by which limits are judged, if
// that is more than clocks drift by themselves; otherwise 0.
func (w *Watch) Doubt() time.Duration {
	shown, _ := w.wall.Now()
	if off := shown.Sub(w.Now()); off.Abs() > maxLead {
		return off
	}
	return 0
}

// Set believes the wall clock again.
func (w *Watch) Set() time.Time {
	shown, steady := w.wall.Now()
	w.from.Store(&watchStart{steady: steady, base: shown})
	w.Last.Store(shown.UnixNano())
	return shown
}

// TimeSource has the time by which limits are judged.
type TimeSource interface{ Now() time.Time }

// ClockMark writes the time to the store every now and then, so that it does not go
// back across a restart. A store that several nodes share has a clock of its own, which
// all of them follow.
type ClockMark struct {
	Clock TimeSource
	last  time.Time // the mark that is durable
	next  time.Time // the mark that this batch writes; zero: none
}

func (m *ClockMark) Begin(t *Transaction) error {
	m.next = time.Time{}
	if t.shared {
		return nil
	}
	if now := m.Clock.Now(); now.Sub(m.last).Abs() >= markEvery {
		m.next = now
	}
	return nil
}

// Set writes the time with this batch.
func (m *ClockMark) Set(now time.Time) { m.next = now }

func (m *ClockMark) Finish(t *Transaction) error {
	if m.next.IsZero() || t.shared {
		return nil
	}
	return t.Set(record.MetaClock, binary.BigEndian.AppendUint64(nil, uint64(m.next.UnixNano())))
}

func (m *ClockMark) Committed() {
	if !m.next.IsZero() {
		m.last = m.next
	}
}
