package limiter_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
)

// reasons are what the report says of each key.
func (w *world) reasons(reason limiter.StaleReason) map[string][]limiter.StaleReason {
	w.t.Helper()
	all := map[string][]limiter.StaleReason{}
	cursor := ""
	for {
		page, err := w.Stale(ctx, limiter.Operator, reason, 2, cursor)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, k := range page.Keys {
			if all[k.ID] != nil {
				w.t.Errorf("%s stands twice", k.ID)
			}
			all[k.ID] = k.Reasons
		}
		if cursor = page.Next; cursor == "" {
			return all
		}
	}
}

func TestKeysAreStaleForAReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	never := w.mint(func(*record.Key) {})
	unused := w.mint(func(*record.Key) {})
	busy := w.mint(func(*record.Key) {})
	suspended := w.mint(func(*record.Key) {})
	if _, err := w.Suspend(limiter.Operator, suspended.id); err != nil {
		t.Fatal(err)
	}
	over := w.mint(activations(500))
	wellUsed := w.mint(activations(50))
	expiring := w.mint(expiresIn(w, 40*day))
	long := w.mint(expiresIn(w, 400*day))
	for range 12 {
		over.use()
		wellUsed.use()
	}
	unused.use()
	w.clock.advance(30*day - time.Hour)
	if got := w.reasons(""); len(got) != 0 {
		t.Errorf("an hour before: %v", got)
	}
	for _, k := range []*key{busy, over, wellUsed, expiring, long} {
		k.use()
	}
	w.clock.advance(time.Hour)
	expect := func(what string, got map[string][]limiter.StaleReason, want map[*key][]limiter.StaleReason) {
		t.Helper()
		for k, reasons := range want {
			if !slices.Equal(got[k.id], reasons) {
				t.Errorf("%s: %v, want %v", what, got[k.id], reasons)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d keys, want %d", what, len(got), len(want))
		}
	}
	expect("after 30 days", w.reasons(""), map[*key][]limiter.StaleReason{
		never: {limiter.StaleNeverUsed}, unused: {limiter.StaleUnused}, over: {limiter.StaleOverGranted},
	})
	w.restart() // what the store knows is enough
	expect("after a restart", w.reasons(""), map[*key][]limiter.StaleReason{
		never: {limiter.StaleNeverUsed}, unused: {limiter.StaleUnused}, over: {limiter.StaleOverGranted},
	})
	expect("of one reason", w.reasons(limiter.StaleUnused), map[*key][]limiter.StaleReason{unused: {limiter.StaleUnused}})
	w.clock.advance(6*day + time.Minute)
	if got := w.reasons(limiter.StaleExpiring); len(got) != 1 || got[expiring.id] == nil {
		t.Errorf("expiring: %v", got)
	}
	if _, err := w.Stale(ctx, limiter.Operator, "tired", 0, ""); err == nil {
		t.Error("an unknown reason is taken")
	}
	if _, err := w.Stale(ctx, limiter.Caller{Name: "nobody"}, "", 0, ""); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("asked by nobody: %v", err)
	}
}

func TestOverGrantedIsATenthOfALimitAfterHalfTheLife(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		key    func(w *world) func(*record.Key)
		use    int
		after  time.Duration
		expect []limiter.OverGrant
	}{
		{"a tenth after half of its life", func(w *world) func(*record.Key) {
			return func(k *record.Key) { activations(100)(k); expiresIn(w, 10*time.Hour)(k) }
		}, 10, 5 * time.Hour, []limiter.OverGrant{{Kind: record.Activations, Granted: 100, Used: 10}}},
		{"before half of its life", func(w *world) func(*record.Key) {
			return func(k *record.Key) { activations(100)(k); expiresIn(w, 10*time.Hour)(k) }
		}, 10, 5*time.Hour - time.Second, nil},
		{"more than a tenth", func(w *world) func(*record.Key) {
			return func(k *record.Key) { activations(100)(k); expiresIn(w, 10*time.Hour)(k) }
		}, 11, 9 * time.Hour, nil},
		{"30 days of a longer life", func(w *world) func(*record.Key) {
			return func(k *record.Key) { activations(100)(k); expiresIn(w, 300*day)(k) }
		}, 1, 30 * day, []limiter.OverGrant{{Kind: record.Activations, Granted: 100, Used: 1}}},
		{"a canary", func(*world) func(*record.Key) { return activations(0) }, 0, 40 * day, nil},
		{"renewing, of all windows", func(*world) func(*record.Key) {
			return func(k *record.Key) { activations(100)(k); k.Renews = record.Daily }
		}, 50, 31 * day, []limiter.OverGrant{{Kind: record.Activations, Granted: 3100, Used: 50}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			k := w.mint(test.key(w))
			for range test.use {
				k.use()
			}
			w.clock.advance(test.after)
			page, err := w.Stale(ctx, limiter.Operator, limiter.StaleOverGranted, 0, "")
			if err != nil {
				t.Fatal(err)
			}
			var got []limiter.OverGrant
			for _, s := range page.Keys {
				got = append(got, s.Over...)
			}
			if !slices.Equal(got, test.expect) {
				t.Errorf("%+v, want %+v", got, test.expect)
			}
		})
	}
}

func TestModelsAndAddressesThatAKeyUsesAreRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { activations(1000)(k); k.Scope.Models = []string{"*"} })
	model := func(name string) func(*limiter.Ask) {
		return func(a *limiter.Ask) { a.Models, a.Named = []string{name}, true }
	}
	seen := func() *limiter.Seen {
		t.Helper()
		page, err := w.Stale(ctx, limiter.Operator, limiter.StaleOverGranted, 0, "")
		if err != nil || len(page.Keys) != 1 {
			t.Fatalf("%d keys, %v", len(page.Keys), err)
		}
		return page.Keys[0].Seen
	}
	for range 3 {
		k.use(model("gpt-5-mini"), from("192.0.2.1"))
		k.use(model("gpt-5-nano"), from("2001:db8::1"))
		k.use(model("gpt-5-mini"), from("2001:db8::2")) // the same /64
	}
	k.use(free, from("192.0.2.77"))
	w.clock.advance(40 * day)
	want := limiter.Seen{Models: []string{"gpt-5-mini", "gpt-5-nano"}, Addrs: []string{"192.0.2.1", "2001:db8::/64"}}
	check := func(what string) {
		t.Helper()
		got := seen()
		if !slices.Equal(got.Models, want.Models) || !slices.Equal(got.Addrs, want.Addrs) || got.MoreModels || got.MoreAddrs {
			t.Errorf("%s: %+v", what, got)
		}
	}
	check("in memory")
	w.SweepActive()
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	check("saved")
	w.restart()
	check("after a restart")
	k.use(model("gpt-5-mini"), from("192.0.2.1"))
	w.clock.advance(31 * day)
	check("used again")
	w.SweepActive()
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	w.restart()
	check("saved on another day")
	for i := range 30 {
		k.use(model(fmt.Sprintf("m%d", i)), from(fmt.Sprintf("198.51.100.%d", i)))
	}
	w.clock.advance(31 * day)
	if got := seen(); len(got.Models) != 16 || len(got.Addrs) != 16 || !got.MoreModels || !got.MoreAddrs {
		t.Errorf("of many: %+v", got)
	}
}

func TestStaleKeysAreToldOfAndRevokedADayLater(t *testing.T) {
	t.Parallel()
	w, heard := newHeardWorld(t)
	w.SetStale(30*day, true)
	k, used, running := w.mint(func(*record.Key) {}), w.mint(func(*record.Key) {}), w.mint(func(*record.Key) {})
	g, refusal := running.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	sweep := func() (told []string) {
		t.Helper()
		w.SweepStale()
		for _, e := range heard.take(event.KeyStale) {
			told = append(told, e.Key.ID)
			if want := w.Now().Add(day).UTC(); !e.EndsAt.Equal(want) {
				t.Errorf("revoked at %s, want %s", e.EndsAt, want)
			}
		}
		return told
	}
	w.clock.advance(29*day - time.Second)
	if told := sweep(); len(told) != 0 {
		t.Errorf("too early: %v", told)
	}
	w.clock.advance(time.Second)
	if told := sweep(); len(told) != 2 || !slices.Contains(told, k.id) || !slices.Contains(told, used.id) {
		t.Errorf("a day before: %v", told)
	}
	g.Settle(record.Amounts{record.Activations: 1})
	w.restart()
	w.SetStale(30*day, true)
	if told := sweep(); len(told) != 0 {
		t.Errorf("told twice, or of what ran until now: %v", told)
	}
	used.use()
	w.clock.advance(day - time.Second)
	sweep()
	if s := k.view().Status; s != record.Active {
		t.Errorf("too early: %s", s)
	}
	w.clock.advance(time.Second)
	sweep()
	if v := k.view(); v.Status != record.Revoked || v.EndedReason != "unused since 2026-11-24T09:00:00Z, longer than stale_after allows" {
		t.Errorf("%s, %s", v.Status, v.EndedReason)
	}
	if s := used.view().Status; s != record.Active {
		t.Errorf("used in time: %s", s)
	}
	w.clock.advance(29*day + time.Minute)
	if told := sweep(); len(told) != 2 || !slices.Contains(told, used.id) || !slices.Contains(told, running.id) {
		t.Errorf("used once and never again: %v", told)
	}
	w.clock.advance(day)
	sweep()
	if s := used.view().Status; s != record.Revoked {
		t.Errorf("%s", s)
	}
}

// TestAStaleKeyIsToldOfAgainOnceTheClockIsRepaired: that it was told of in a year that has not
// come yet puts off neither that nor its end until then.
func TestAStaleKeyIsToldOfAgainOnceTheClockIsRepaired(t *testing.T) {
	t.Parallel()
	w, heard := newHeardWorld(t)
	w.SetStale(30*day, true)
	k := w.mint(func(*record.Key) {})
	const wrong = 365 * day
	w.clock.set(wrong)
	w.restart()
	w.SetStale(30*day, true)
	told := func(when string, want int) {
		t.Helper()
		w.SweepStale()
		if n := len(heard.take(event.KeyStale)); n != want {
			t.Errorf("%s: told of %d times, want %d", when, n, want)
		}
	}
	told("a year ahead", 1)
	w.clock.set(-wrong)
	if _, err := w.RepairClock(limiter.Operator); err != nil {
		t.Fatal(err)
	}
	told("after the repair", 0)
	w.clock.advance(29*day + time.Minute)
	told("a day before its end", 1)
	told("again", 0)
	w.clock.advance(day)
	told("at its end", 0)
	if s := k.view().Status; s != record.Revoked {
		t.Errorf("it is %s", s)
	}
}

func TestStaleKeysAreOnlyToldOfUnlessTheyAreToBeRevoked(t *testing.T) {
	t.Parallel()
	w, heard := newHeardWorld(t)
	k := w.mint(func(*record.Key) {})
	w.clock.advance(300 * day)
	for range 3 {
		w.SweepStale()
		w.clock.advance(2 * day)
	}
	if told := heard.take(event.KeyStale); len(told) != 1 || !told[0].EndsAt.IsZero() {
		t.Errorf("%+v", told)
	}
	if s := k.view().Status; s != record.Active {
		t.Errorf("%s", s)
	}
	// Turned on later, the day's warning is given all the same.
	w.SetStale(30*day, true)
	w.SweepStale()
	if s := k.view().Status; s != record.Revoked {
		t.Errorf("told of days ago, and %s", s)
	}
	other := w.mint(func(*record.Key) {})
	w.SetStale(time.Hour, true)
	w.clock.advance(2 * time.Hour)
	w.SweepStale()
	if s := other.view().Status; s != record.Active {
		t.Errorf("not told of yet, and %s", s)
	}
	w.clock.advance(30 * time.Minute)
	w.SweepStale()
	if s := other.view().Status; s != record.Revoked {
		t.Errorf("told of half of the time ago, and %s", s)
	}
}

func TestResumedKeysAreSweptAgain(t *testing.T) {
	t.Parallel()
	w, heard := newHeardWorld(t)
	k := w.mint(func(*record.Key) {})
	if _, err := w.Suspend(limiter.Operator, k.id); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(31 * day)
	w.SweepStale()
	if _, err := w.Resume(limiter.Operator, k.id); err != nil {
		t.Fatal(err)
	}
	if told := heard.take(event.KeyStale); len(told) != 0 {
		t.Errorf("suspended: %+v", told)
	}
	w.clock.advance(time.Hour)
	w.SweepStale()
	if told := heard.take(event.KeyStale); len(told) != 1 {
		t.Errorf("resumed: %+v", told)
	}
}
