package postgres

import (
	"sync"
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

// TestBoottimeDoesNotGoBackAfterAMeasurementThatWentWrong is not parallel, because others
// measure, too.
func TestBoottimeDoesNotGoBackAfterAMeasurementThatWentWrong(t *testing.T) {
	defer measured.Store(nil)
	mark := func(behind time.Duration) *bootMark {
		now := time.Now()
		steady := now.Sub(started)
		return &bootMark{at: steady, lead: now.UnixNano() - startedNanos - int64(steady), ahead: readBoottime() - steady - behind}
	}
	for name, tc := range map[string]struct {
		behind    time.Duration // what was measured before
		meanwhile func()
	}{
		"something came between": {2 * time.Millisecond, func() {
			for at := time.Now(); time.Since(at) <= sleepLeast/2; {
			}
		}},
		"after a sleep, another one was earlier": {time.Hour, func() { measured.Store(mark(2 * time.Millisecond)) }},
	} {
		last := mark(tc.behind)
		measured.Store(last)
		var once sync.Once
		now := measureBoottime(last, func() time.Duration {
			once.Do(tc.meanwhile)
			return readBoottime()
		})
		if next := boottime(); next < now {
			t.Errorf("%s: it went back by %s", name, now-next)
		}
	}
}
