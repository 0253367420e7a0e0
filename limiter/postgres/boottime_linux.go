package postgres

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// boottime is the time since the machine was started. It goes on while the machine
// sleeps, so a session cannot outlive its time that way. Each request asks for it, and
// the system call costs several times what time.Now does. But while the machine does
// not sleep, the difference between the two stays the same; and when it has slept, its
// wall clock is ahead of the monotonic one by as much. So the system call is made once a
// second, and whenever these two clocks have drifted apart.
func boottime() time.Duration {
	now := time.Now()
	steady := now.Sub(started)
	lead := now.UnixNano() - startedNanos - int64(steady)
	m := measured.Load()
	if m != nil && steady-m.at < measureEvery && time.Duration(lead-m.lead).Abs() < sleepLeast {
		return steady + m.ahead
	}
	return measureBoottime(m, readBoottime)
}

const (
	measureEvery = time.Second
	// sleepLeast is how far the clocks must have drifted apart for a sleep to be
	// looked for, and by how much boottime then has to be ahead.
	sleepLeast = 5 * time.Millisecond
)

var (
	started      = time.Now()
	startedNanos = started.UnixNano()
	measured     atomic.Pointer[bootMark]
)

// bootMark is what the last system call has found out.
type bootMark struct {
	at    time.Duration // by the monotonic clock, since started
	lead  int64         // of the wall clock over the monotonic one, since started
	ahead time.Duration // of boottime over the monotonic clock
}

// measureTries is how often measureBoottime begins again. What it falls back to may be
// ahead of what the next call returns.
const measureTries = 5

func measureBoottime(last *bootMark, read func() time.Duration) (boot time.Duration) {
	for range measureTries {
		before := time.Now()
		boot = read()
		steady := time.Since(started)
		if steady-before.Sub(started) > sleepLeast/2 {
			continue // something came between
		}
		m := &bootMark{
			at: steady, lead: before.UnixNano() - startedNanos - int64(before.Sub(started)), ahead: boot - steady,
		}
		// Without a sleep it is the same difference as before, and the time never goes back.
		if last != nil && (m.ahead-last.ahead).Abs() < sleepLeast {
			m.ahead = last.ahead
		}
		if !measured.CompareAndSwap(last, m) {
			return boottime() // all use the mark that was stored first
		}
		return steady + m.ahead
	}
	return boot // the next call measures
}

func readBoottime() time.Duration {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &at); err != nil {
		panic("reading CLOCK_BOOTTIME: " + err.Error()) // only a wrong pointer or number makes it fail
	}
	return time.Duration(at.Nano())
}
