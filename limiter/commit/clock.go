package commit

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

// Watch is the time that limits are judged by. It follows the wall clock and
// never goes back: not while the server runs, and not below what the store has
// seen before. When the wall clock is set while the server runs, time goes on
// as if it had not been; but one that was behind from the start is believed
// again as soon as it is not any more, as on machines that keep no time while
// they are off.
type Watch struct {
	wall Clock
	from atomic.Pointer[watchStart]
	Last atomic.Int64 // Unix nanoseconds of the latest that was told, to a millisecond
}

// watchStart is one moment by both clocks.
type watchStart struct {
	steady time.Duration
	base   time.Time
	behind bool // the machine's clock was, so base is not what it told
}

// NewWatch returns a watch that does not go below mark.
func NewWatch(wall Clock, mark time.Time) *Watch {
	told, steady := wall.Now()
	w := &Watch{wall: wall}
	from := &watchStart{steady: steady, base: told}
	if mark.After(told) {
		from.base, from.behind = mark, true
	}
	w.from.Store(from)
	w.Last.Store(from.base.UnixNano())
	return w
}

// Now returns the time that limits are judged by.
func (w *Watch) Now() time.Time {
	told, steady := w.wall.Now()
	from := w.from.Load()
	base := from.base.Add(steady - from.steady)
	if from.behind && told.After(base) {
		w.from.CompareAndSwap(from, &watchStart{steady: steady, base: told})
		base = told
	}
	return w.Tell(told, base)
}

// Tell is the time when the machine's clock tells told, and the steady one says base.
func (w *Watch) Tell(told, base time.Time) time.Time {
	if ahead := told.Sub(base); ahead < 0 || ahead > maxLead {
		told = base
	}
	n, last := told.UnixNano(), w.Last.Load()
	if n < last {
		return time.Unix(0, last).UTC()
	}
	if n-last > int64(time.Millisecond) {
		w.Last.CompareAndSwap(last, n) // or another has told about the same
	}
	return told
}

// Doubt is how far the wall clock is from the time that limits are judged by,
// when that is more than clocks differ by themselves; else 0.
func (w *Watch) Doubt() time.Duration {
	told, _ := w.wall.Now()
	if off := told.Sub(w.Now()); off.Abs() > maxLead {
		return off
	}
	return 0
}

// Set believes the wall clock again.
func (w *Watch) Set() time.Time {
	told, steady := w.wall.Now()
	w.from.Store(&watchStart{steady: steady, base: told})
	w.Last.Store(told.UnixNano())
	return told
}

// Teller tells the time that limits are judged by.
type Teller interface{ Now() time.Time }

// ClockMark lets the store know the time every now and then, so that it does not go
// back over a restart.
type ClockMark struct {
	Clock Teller
	last  time.Time // that is durable
	next  time.Time // that this batch writes; zero: none
}

func (m *ClockMark) Begin() {
	m.next = time.Time{}
	if now := m.Clock.Now(); now.Sub(m.last).Abs() >= markEvery {
		m.next = now
	}
}

// Set has the time written with this batch.
func (m *ClockMark) Set(now time.Time) { m.next = now }

func (m *ClockMark) Finish(t *Transaction) error {
	if m.next.IsZero() {
		return nil
	}
	return t.Set(record.MetaClock, binary.BigEndian.AppendUint64(nil, uint64(m.next.UnixNano())))
}

func (m *ClockMark) Committed() {
	if !m.next.IsZero() {
		m.last = m.next
	}
}
