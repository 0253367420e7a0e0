package limiter_test

import (
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
)

func TestTimeNeverGoesBackAndFollowsNoClockThatWasSet(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name    string
		elapsed time.Duration // by the monotonic clock
		set     time.Duration // how far the wall clock was set beyond that
		want    time.Duration // since the start
	}{
		{"as it goes", time.Hour, 0, time.Hour},
		{"slewed", time.Hour, time.Minute, time.Hour + time.Minute},
		{"a second ahead", time.Hour, time.Second, time.Hour + time.Second},
		{"set ahead by an hour", time.Minute, time.Hour, time.Minute},
		{"set ahead by ten years", time.Minute, 10 * 365 * 24 * time.Hour, time.Minute},
		{"a second back", time.Hour, -time.Second, time.Hour},
		{"set back by an hour", time.Minute, -time.Hour, time.Minute},
		{"set back by ten years", time.Minute, -10 * 365 * 24 * time.Hour, time.Minute},
	} {
		if got := limiter.TimeAfter(start, test.elapsed, test.set).Sub(start); got != test.want {
			t.Errorf("%s: %s after the start, want %s", test.name, got, test.want)
		}
	}
}

func TestAClockThatWasSetBackRevivesNoExpiredKey(t *testing.T) {
	t.Parallel()
	for _, back := range []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour, 10 * 365 * 24 * time.Hour} {
		w := newWorld(t)
		k := w.mint(func(k *limiter.Key) { k.ExpiresAt = w.clock.Now().Add(time.Hour) })
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		w.clock.advance(time.Hour)
		if code := k.use(); code != limiter.CodeKeyExpired {
			t.Fatal(code)
		}
		w.mint(activations(1)) // a commit, which tells the store the time
		w.clock.advance(-back)
		if code := k.use(); code != limiter.CodeKeyExpired {
			t.Errorf("set back by %s while it runs: %q", back, code)
		}
		w.restart()
		if code := k.use(); code != limiter.CodeKeyExpired {
			t.Errorf("set back by %s and started again: %q", back, code)
		}
		if off := w.Stats().ClockOff; back > 5*time.Minute != (off != 0) {
			t.Errorf("set back by %s: the stats say it is off by %s", back, off)
		}
	}
}

func TestRepairingTheClockBelievesItAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.clock.advance(10 * 365 * 24 * time.Hour) // a start with the wrong year
	w.restart()
	w.mint(activations(1))
	w.clock.advance(-10 * 365 * 24 * time.Hour)
	w.restart()
	spec := func(k *limiter.Key) { k.ExpiresAt = w.Now().Add(time.Hour) }
	if off := w.Stats().ClockOff; off == 0 {
		t.Fatal("nobody says that the clock is off")
	}
	if _, err := w.RepairClock(ctx, limiter.Operator); err != nil {
		t.Fatal(err)
	}
	if off := w.Stats().ClockOff; off != 0 {
		t.Errorf("still off by %s", off)
	}
	k := w.mint(spec)
	w.restart()
	if off := w.Stats().ClockOff; off != 0 {
		t.Errorf("after a restart: off by %s", off)
	}
	if code := k.use(); code != "" {
		t.Error(code)
	}
	w.clock.advance(time.Hour)
	if code := k.use(); code != limiter.CodeKeyExpired {
		t.Errorf("an hour later: %q", code)
	}
}
