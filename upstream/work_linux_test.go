package upstream

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// work is the processor time that fn takes on its own thread, which other
// processes, and other tests, do not lengthen as they do the time on a clock.
func work(t *testing.T, fn func()) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime(t)
	fn()
	return threadTime(t) - before
}

func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at); err != nil {
		t.Fatal(err)
	}
	return time.Duration(at.Nano())
}
