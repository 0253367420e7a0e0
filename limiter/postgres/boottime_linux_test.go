package postgres

import (
	"testing"
	"time"
)

func TestBoottimeIsTheKernelsAndNeverGoesBack(t *testing.T) {
	t.Parallel()
	last := boottime()
	for range 20_000 {
		before := readBoottime()
		now := boottime()
		if after := readBoottime(); now < before-sleepLeast || now > after+sleepLeast {
			t.Fatalf("it is %s, and the kernel's was %s before and %s after", now, before, after)
		}
		if now < last {
			t.Fatalf("it went back by %s", last-now)
		}
		last = now
	}
}

func TestBoottimeHasTheTimeForWhichTheMachineSlept(t *testing.T) {
	t.Parallel()
	boottime()
	awake := *measured.Load()
	// An hour of sleep puts the wall clock and boottime ahead of the monotonic clock.
	awake.at = time.Since(started)
	awake.lead -= int64(time.Hour)
	awake.ahead -= time.Hour
	measured.Store(&awake)
	before := readBoottime()
	if now := boottime(); now < before-sleepLeast {
		t.Errorf("after a sleep it is behind by %s", before-now)
	}
}
