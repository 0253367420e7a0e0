package limiter_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
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
		k := w.mint(func(k *record.Key) { k.ExpiresAt = w.clock.time().Add(time.Hour) })
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		w.clock.advance(time.Hour)
		if code := k.use(); code != record.CodeKeyExpired {
			t.Fatal(code)
		}
		w.mint(activations(1)) // a commit, which tells the store the time
		w.clock.set(-back)
		if code := k.use(); code != record.CodeKeyExpired {
			t.Errorf("set back by %s while it runs: %q", back, code)
		}
		w.restart()
		if code := k.use(); code != record.CodeKeyExpired {
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
	w.clock.set(10 * 365 * 24 * time.Hour) // a start with the wrong year
	w.restart()
	w.mint(activations(1))
	w.clock.set(-10 * 365 * 24 * time.Hour)
	w.restart()
	spec := func(k *record.Key) { k.ExpiresAt = w.Now().Add(time.Hour) }
	if off := w.Stats().ClockOff; off == 0 {
		t.Fatal("nobody says that the clock is off")
	}
	if _, err := w.RepairClock(limiter.Operator); err != nil {
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
	if code := k.use(); code != record.CodeKeyExpired {
		t.Errorf("an hour later: %q", code)
	}
}

func TestAClockThatWasBehindAtTheStartIsBelievedOnceItHasCaughtUp(t *testing.T) {
	t.Parallel()
	const off = 30 * 24 * time.Hour // without power, and without a battery for the clock
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.ExpiresAt = w.clock.time().Add(off) })
	k.use()
	was := w.clock.time()
	w.clock.set(-10 * 365 * 24 * time.Hour)
	w.restart()
	if now := w.Now(); now.Before(was.Add(-10*time.Second)) || w.Stats().ClockOff == 0 {
		t.Errorf("before the clock is set it is %s, and %s off", now, w.Stats().ClockOff)
	}
	if code := k.use(); code != "" {
		t.Error(code)
	}
	w.clock.set(10*365*24*time.Hour + off + time.Minute) // the network told the time
	if code := k.use(); code != record.CodeKeyExpired {
		t.Errorf("a key that expired while the power was off: %q", code)
	}
	if off := w.Stats().ClockOff; off != 0 {
		t.Errorf("still %s off", off)
	}
}

// TestABudgetThatRenewedInAWrongYearRenewsAgainOnceTheClockIsRepaired starts a
// server ten years ahead.
func TestABudgetThatRenewedInAWrongYearRenewsAgainOnceTheClockIsRepaired(t *testing.T) {
	t.Parallel()
	for _, restarted := range []bool{false, true} {
		w := newWorld(t)
		w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{5, -1, -1, -1}, Renews: record.Daily}}}
		if err := w.SetRoles(w.roles); err != nil {
			t.Fatal(err)
		}
		own := w.mint(renewing(5, record.Daily))
		shared := w.mint(func(k *record.Key) { k.Role = "ci" })
		keys := []*key{own, shared}
		for _, k := range keys {
			k.use()
		}
		const wrong = 10 * 365 * 24 * time.Hour
		w.clock.set(wrong)
		w.restart()
		for _, k := range keys {
			k.drain(record.CodeActivationsExhausted)
		}
		w.clock.set(-wrong)
		if restarted {
			w.restart()
		}
		if _, err := w.RepairClock(limiter.Operator); err != nil {
			t.Fatal(err)
		}
		if restarted {
			w.restart()
			for _, k := range keys { // reading them finds it out
				k.use()
			}
			if err := w.Ping(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for day := range 3 {
			for _, k := range keys {
				want := int64(5)
				if day == 0 {
					want = 0
				}
				if n := k.drain(record.CodeActivationsExhausted); n != want {
					t.Errorf("restarted %v: %d on day %d after the repair, want %d", restarted, n, day, want)
				}
			}
			w.clock.advance(24 * time.Hour)
		}
		w.agree(t)
	}
}

// TestARepairOfTheClockTakesBudgetsBackWhoseBlockIsOnItsWay: a block, or a window, that was
// asked for by the wrong clock is written after the repair.
func TestARepairOfTheClockTakesBudgetsBackWhoseBlockIsOnItsWay(t *testing.T) {
	t.Parallel()
	for _, waits := range []string{"a block", "a window"} {
		for _, of := range []string{"a key", "a role"} {
			w := newWorld(t)
			w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{5, -1, -1, -1}, Renews: record.Daily}}}
			spec := renewing(5, record.Daily)
			if of == "a role" {
				spec = func(k *record.Key) { k.Role = "ci" }
			}
			w.restart()
			k := w.mint(spec)
			k.use()
			const wrong = 365 * 24 * time.Hour
			w.clock.set(wrong)
			w.restart()
			used := int64(1) // in the window that has not begun yet: what is on its way is for one request
			if waits == "a block" {
				k.use()
				used++
			}
			release := w.hang()
			asked := make(chan record.Code, 1)
			go func() { asked <- k.use() }()
			for w.Backlog() < 2 {
				time.Sleep(time.Millisecond)
			}
			w.clock.set(-wrong)
			repaired := make(chan error, 1)
			go func() {
				_, err := w.RepairClock(limiter.Operator)
				repaired <- err
			}()
			for w.Backlog() < 3 {
				time.Sleep(time.Millisecond)
			}
			release()
			if err := <-repaired; err != nil {
				t.Fatal(err)
			}
			if code := <-asked; code != "" {
				t.Errorf("%s of %s is on its way: %q", waits, of, code)
			}
			if err := w.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			for day := range 3 {
				want := int64(5)
				if day == 0 {
					want -= used
				}
				if n := k.drain(record.CodeActivationsExhausted); n != want {
					t.Errorf("%s of %s is on its way: %d on day %d after the repair, want %d", waits, of, n, day, want)
				}
				w.clock.advance(24 * time.Hour)
			}
			w.agree(t)
		}
	}
}

// TestARepairOfTheClockLeavesNothingInTheFuture: what memory has noted by the wrong clock
// holds nothing up for as long as that was ahead.
func TestARepairOfTheClockLeavesNothingInTheFuture(t *testing.T) {
	t.Parallel()
	w, heard := newHeardWorld(t)
	const wrong = 365 * 24 * time.Hour
	w.clock.set(wrong)
	w.restart()
	spec := func(k *record.Key) { k.Rate = record.Rate{N: 10, Per: time.Hour} }
	k, busy := w.mint(spec), w.mint(func(k *record.Key) { k.ExpiresAt = w.clock.time().Add(wrong) })
	k.drain(record.CodeRateLimited)
	live, refusal := w.Find(ctx, k.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	here := netip.MustParseAddr("192.0.2.1")
	for refusal == nil {
		refusal = live.Touch(ctx, here)
	}
	left := w.mint(activations(5))
	left.use()
	running, refusal := busy.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	dead := w.mint(activations(0))
	dead.use()
	if n := len(heard.take(event.KeyAfterDeath)); n != 1 {
		t.Fatalf("%d reports of a dead key", n)
	}

	w.clock.set(-wrong)
	if _, err := w.RepairClock(limiter.Operator); err != nil {
		t.Fatal(err)
	}
	if v := left.view(); v.LastUsedAt.After(w.Now()) {
		t.Errorf("a key was used last at %s, and it is %s", v.LastUsedAt, w.Now())
	}
	dead.use()
	if n := len(heard.take(event.KeyAfterDeath)); n != 1 {
		t.Errorf("%d reports of a dead key after the repair, want 1", n)
	}
	w.clock.advance(time.Second)
	if refusal := live.Touch(ctx, here); refusal != nil {
		t.Errorf("a question about a key: %s", refusal.Message)
	}
	w.clock.advance(6 * time.Minute)
	if code := k.use(); code != "" {
		t.Errorf("a key with a rate: %q", code)
	}
	w.SweepActive()
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	running.Settle(record.Amounts{record.Activations: 1})
	again, refusal := busy.ask() // so that it is in use
	if refusal != nil {
		t.Fatal(refusal)
	}
	defer again.Cancel()
	w.clock.advance(11 * time.Second)
	w.SweepActive()
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	w.kill(true)
	var n int64
	used, err := w.Usage(limiter.Operator, busy.id)
	if err != nil {
		t.Fatal(err)
	}
	for i := range used.Hours {
		n += used.Hours[i].Activations
	}
	if n != 1 {
		t.Errorf("%d requests are saved, want 1", n)
	}
}

// TestAKillAndAClockSetBackRenewNothingTwice cuts the power right after a
// renewal.
func TestAKillAndAClockSetBackRenewNothingTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(renewing(5, record.Daily))
	k.drain(record.CodeActivationsExhausted)
	w.clock.advance(15*time.Hour - time.Second) // the last second of the day
	w.mint(activations(1))                      // tells the store the time
	w.clock.advance(time.Second)
	k.drain(record.CodeActivationsExhausted)
	w.clock.set(-time.Minute)
	w.kill(true)
	for range 100 {
		w.clock.advance(time.Second)
		if code := k.use(); code == "" {
			t.Fatal("renewed twice on one day")
		}
	}
}

func TestARoleThatIsGivenARenewalUnderLoadStrandsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	roles := func(r record.Renewal) map[string]record.Role {
		return map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{5, -1, -1, -1}, Renews: r}}}
	}
	if err := w.SetRoles(roles("")); err != nil {
		t.Fatal(err)
	}
	k := w.mint(func(k *record.Key) { k.Role = "ci" })
	running, refusal := k.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	if err := w.SetRoles(roles(record.Daily)); err != nil {
		t.Fatal(err)
	}
	running.Settle(record.Amounts{record.Activations: 1})
	if n := k.drain(record.CodeActivationsExhausted); n != 4 { // and not: held for ever
		t.Errorf("%d more after one of 5", n)
	}
}
