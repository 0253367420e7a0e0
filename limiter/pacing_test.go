package limiter_test

import (
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// rateTo changes how often a key may be used.
func (k *key) rateTo(r record.Rate) {
	k.w.t.Helper()
	_, err := k.w.Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error {
		key.Rate = r
		return nil
	})
	if err != nil {
		k.w.t.Fatal(err)
	}
}

// TestAChangedRateHoldsFromTheChangeOn: what was taken at the former rate never costs more
// than one full bucket at the new one.
func TestAChangedRateHoldsFromTheChangeOn(t *testing.T) {
	t.Parallel()
	per := func(n int64, per time.Duration) record.Rate { return record.Rate{N: n, Per: per} }
	for _, test := range []struct {
		name          string
		before, after record.Rate
		most          int64         // at once, after the change
		wait          time.Duration // until one more fits
	}{
		{"raised", per(10, time.Hour), per(100, time.Minute), 0, 600 * time.Millisecond},
		{"raised by far", per(10, 24*time.Hour), per(60, time.Minute), 0, time.Second},
		{"raised in the same time", per(10, time.Hour), per(20, time.Hour), 0, 3 * time.Minute},
		{"lowered", per(100, time.Minute), per(10, time.Hour), 9, time.Minute},
		{"lowered in the same time", per(20, time.Hour), per(10, time.Hour), 0, 6 * time.Minute},
	} {
		w := newWorld(t)
		k := w.mint(func(k *record.Key) { k.Rate = test.before })
		if n := k.drain(record.CodeRateLimited); n != test.before.N {
			t.Fatalf("%s: %d at once before the change", test.name, n)
		}
		k.rateTo(test.after)
		if n := k.drain(record.CodeRateLimited); n != test.most {
			t.Errorf("%s: %d at once after the change, want %d", test.name, n, test.most)
		}
		w.clock.advance(test.wait - 1)
		if code := k.use(); code != record.CodeRateLimited {
			t.Errorf("%s: before %s are over: %q", test.name, test.wait, code)
		}
		w.clock.advance(1)
		if code := k.use(); code != "" {
			t.Errorf("%s: after %s: %q", test.name, test.wait, code)
		}
	}
}

func TestARaisedRateHoldsForChildrenAndForAKeyThatHasLeftMemory(t *testing.T) {
	t.Parallel()
	hourly := func(k *record.Key) { k.Rate = record.Rate{N: 10, Per: time.Hour} }
	const spacing = 600 * time.Millisecond
	w := newWorld(t)
	p := w.mint(delegating(hourly))
	a, b := p.mustChild(hourly), p.mustChild(hourly)
	w.clock.advance(time.Hour) // the mints were uses
	for range 5 {
		if a.use() != "" || b.use() != "" {
			t.Fatal("refused")
		}
	}
	if code := a.use(); code != record.CodeRateLimited {
		t.Fatalf("the eleventh of both: %q", code)
	}
	p.rateTo(record.Rate{N: 100, Per: time.Minute})
	w.clock.advance(spacing)
	if code := a.use(); code != "" {
		t.Errorf("a child, once its parent's rate is raised: %q", code)
	}

	k := w.mint(hourly)
	if n := k.drain(record.CodeRateLimited); n != 10 {
		t.Fatalf("%d at once", n)
	}
	for w.InMemory(k.id) {
		w.clock.advance(time.Minute)
		w.SweepActive()
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		w.SweepIdle()
	}
	if w.Paced() == 0 {
		t.Fatal("its rate is full again")
	}
	k.rateTo(record.Rate{N: 100, Per: time.Minute})
	w.clock.advance(spacing)
	if code := k.use(); code != "" {
		t.Errorf("a key that had left memory: %q", code)
	}
}
