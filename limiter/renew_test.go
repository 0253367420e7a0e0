package limiter_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func renewing(n int64, r record.Renewal) func(*record.Key) {
	return func(k *record.Key) { k.Limit[record.Activations], k.Renews = n, r }
}

func TestWindowsFollowTheCalendar(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		renews    record.Renewal
		now, next string
	}{
		{record.Daily, "2026-11-24T10:00:00Z", "2026-11-25T00:00:00Z"},
		{record.Daily, "2026-11-24T23:59:59+05:00", "2026-11-25T00:00:00Z"},
		{record.Daily, "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z"},
		{record.Weekly, "2026-11-24T10:00:00Z", "2026-11-30T00:00:00Z"},
		{record.Weekly, "2026-11-29T23:00:00Z", "2026-11-30T00:00:00Z"},
		{record.Weekly, "2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z"},
		{record.Monthly, "2026-11-24T10:00:00Z", "2026-12-01T00:00:00Z"},
		{record.Monthly, "2028-01-31T10:00:00Z", "2028-02-01T00:00:00Z"},
	} {
		now, err := time.Parse(time.RFC3339, test.now)
		if err != nil {
			t.Fatal(err)
		}
		if got := test.renews.Next(now).Format(time.RFC3339); got != test.next {
			t.Errorf("%s at %s renews at %s, want %s", test.renews, test.now, got, test.next)
		}
	}
	if got := record.Renewal("").Next(time.Now()); !got.IsZero() {
		t.Errorf("what does not renew renews at %s", got)
	}
}

func TestARenewingKeyHasItsLimitInEveryWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(renewing(5, record.Daily))
	for day := range 4 {
		for range 5 {
			if code := k.use(); code != "" {
				t.Fatalf("day %d: %s", day, code)
			}
		}
		if code := k.use(); code != record.CodeActivationsExhausted {
			t.Errorf("day %d: the sixth: %q", day, code)
		}
		v := k.view()
		if v.Status != record.Exhausted || v.Used[0] != 5 || v.Past[0] != int64(5*day) || v.RenewsAt.Hour() != 0 {
			t.Errorf("day %d: %s, used %d and %d before, renews at %s", day, v.Status, v.Used[0], v.Past[0], v.RenewsAt)
		}
		w.clock.advance(24 * time.Hour)
		if v := k.view(); v.Status != record.Active || v.Remaining[0] != 5 || v.Used[0] != 0 || v.Past[0] != int64(5*day+5) {
			t.Errorf("after day %d: %s, %d left, used %d and %d before", day, v.Status, v.Remaining[0], v.Used[0], v.Past[0])
		}
		if day == 1 {
			w.restart()
		}
	}
}

func TestALateSettleIsOfItsOwnWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(renewing(5, record.Daily))
	var late []*limiter.Grant
	for range 5 {
		g, refusal := k.ask()
		if refusal != nil {
			t.Fatal(refusal)
		}
		late = append(late, g)
	}
	w.clock.advance(24 * time.Hour)
	for range 3 {
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
	}
	late[0].Cancel()
	for _, g := range late[1:] {
		g.Settle(record.Amounts{record.Activations: 1})
	}
	if v := k.view(); v.Used[0] != 3 || v.Held[0] != 0 || v.Remaining[0] != 2 || v.Past[0] != 4 {
		t.Errorf("used %d, held %d, %d left, %d before; want 3, 0, 2, 4", v.Used[0], v.Held[0], v.Remaining[0], v.Past[0])
	}
	if n := k.drain(record.CodeActivationsExhausted); n != 2 {
		t.Errorf("%d more, want 2", n)
	}
}

func TestAClockThatGoesBackRenewsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(renewing(5, record.Daily))
	w.clock.advance(24 * time.Hour)
	k.drain(record.CodeActivationsExhausted)
	for range 3 {
		w.clock.set(-24 * time.Hour)
		if code := k.use(); code != record.CodeActivationsExhausted {
			t.Errorf("the day before, again: %q", code)
		}
		w.clock.set(24 * time.Hour)
		if code := k.use(); code != record.CodeActivationsExhausted {
			t.Errorf("the same day, again: %q", code)
		}
	}
}

func TestRenewalIsSetAndTakenWithoutAGift(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(5))
	for range 4 {
		k.use()
	}
	change := func(r record.Renewal) {
		t.Helper()
		if _, err := w.Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error { key.Renews = r; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	change(record.Monthly)
	if n := k.drain(record.CodeActivationsExhausted); n != 1 {
		t.Errorf("%d more in the month that it was set in, want 1", n)
	}
	change(record.Daily)
	if code := k.use(); code == "" {
		t.Error("another renewal refills at once")
	}
	w.clock.advance(24 * time.Hour)
	if n := k.drain(record.CodeActivationsExhausted); n != 5 {
		t.Errorf("%d on the next day, want 5", n)
	}
}

func TestARolesBudgetRenews(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	roles := map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{4, -1, -1, -1}, Renews: record.Weekly}}}
	w.roles = roles
	if err := w.SetRoles(roles); err != nil {
		t.Fatal(err)
	}
	a := w.mint(func(k *record.Key) { k.Role = "ci"; k.Limit[record.Activations] = 1000 })
	b := w.mint(func(k *record.Key) { k.Role = "ci"; k.Limit[record.Activations] = 1000 })
	for week := range 3 {
		for i := range 4 {
			k := a
			if i%2 == 0 {
				k = b
			}
			if code := k.use(); code != "" {
				t.Fatalf("week %d: %s", week, code)
			}
		}
		if code := a.use(); code != record.CodeActivationsExhausted {
			t.Errorf("week %d: the fifth: %q", week, code)
		}
		if week == 1 {
			w.restart()
			if code := a.use(); code != record.CodeActivationsExhausted {
				t.Errorf("week %d, after a restart: %q", week, code)
			}
		}
		w.clock.advance(7 * 24 * time.Hour)
	}
}

// TestNoWindowForwardsMoreThanTheLimit drives renewing keys through requests,
// settlements, time in both directions, sweeps, stops, kills and power cuts.
func TestNoWindowForwardsMoreThanTheLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newMachine(t)
		defer w.Abandon()
		limit := rapid.Int64Range(1, 60).Draw(rt, "limit")
		k := w.mint(renewing(limit, record.Daily))
		latest := w.clock.time() // a window begins when it is first asked for, and none before it
		forwarded := make(map[string]int64)
		window := func() string {
			if now := w.Now(); now.After(latest) {
				latest = now
			}
			return latest.UTC().Format(time.DateOnly)
		}
		type running struct {
			*limiter.Grant
			window string
		}
		var grants []running
		rt.Repeat(map[string]func(*rapid.T){
			"request": func(rt *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(rt, "times") {
					at := window()
					g, refusal := k.ask()
					if refusal != nil {
						continue
					}
					grants = append(grants, running{g, at})
					if forwarded[at]++; forwarded[at] > limit {
						rt.Fatalf("%d forwarded on %s of %d", forwarded[at], at, limit)
					}
				}
			},
			"end": func(rt *rapid.T) {
				for len(grants) > 0 && rapid.Bool().Draw(rt, "more") {
					g := grants[0]
					grants = grants[1:]
					if rapid.IntRange(0, 3).Draw(rt, "dispatched") == 0 {
						g.Cancel()
						forwarded[g.window]--
					} else {
						g.Settle(record.Amounts{record.Activations: 1})
					}
				}
			},
			"time": func(rt *rapid.T) {
				w.clock.advance(time.Duration(rapid.IntRange(-30, 60).Draw(rt, "hours")) * time.Hour)
				w.SweepActive()
			},
			"restart": func(*rapid.T) { grants = nil; w.restart() },
			"kill": func(rt *rapid.T) {
				grants = nil
				w.kill(rapid.Bool().Draw(rt, "power"))
			},
			"": func(rt *rapid.T) {
				w.agree(rt)
				v := k.view()
				if v.Used[0] < 0 || v.Held[0] < 0 || v.Remaining[0] < 0 || v.Remaining[0] > limit {
					rt.Fatalf("used %d, held %d, %d left of %d", v.Used[0], v.Held[0], v.Remaining[0], limit)
				}
			},
		})
	})
}

func TestARequestOfAWindowThatIsOverGivesNothingBackWhenTheRenewalChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(renewing(5, record.Weekly))
	late, refusal := k.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	w.clock.advance(8 * 24 * time.Hour)
	if code := k.use(); code != "" {
		t.Fatal(code)
	}
	renewsDaily(t, k)
	late.Cancel()
	if n := 1 + k.drain(record.CodeActivationsExhausted); n != 5 {
		t.Errorf("%d forwarded of 5", n)
	}
}

func renewsDaily(t *testing.T, k *key) {
	t.Helper()
	if _, err := k.w.Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error {
		key.Renews = record.Daily
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsGivenBackWhileTheRenewalChangesIsNotLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(1000))
	var n int64
	for memory := (record.Amounts{}); memory[record.Activations] <= n; n++ { // until something is reserved ahead
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		w.clock.advance(time.Millisecond)
		var err error
		if memory, _, err = w.Reserved(k.id); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Ping(ctx); err != nil { // no block is on its way
		t.Fatal(err)
	}
	w.clock.advance(3 * time.Second)
	began, goOn := make(chan struct{}), make(chan struct{})
	w.disk.BeforeCommit(func(int) {
		close(began)
		<-goOn
	})
	other := make(chan struct{})
	go func() {
		defer close(other)
		w.mint(activations(1))
	}()
	<-began
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		renewsDaily(t, k)
	}()
	for w.Backlog() < 2 {
		time.Sleep(time.Millisecond)
	}
	w.SweepActive() // gives back in the window that is about to end
	w.disk.BeforeCommit(nil)
	close(goOn)
	<-changed
	<-other
	if n += k.drain(record.CodeActivationsExhausted); n != 1000 {
		t.Errorf("%d forwarded, want 1000", n)
	}
}
