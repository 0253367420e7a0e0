package limiter_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

var from192 = netip.MustParseAddr("192.0.2.1")

// counted are keys of every sort there is, as far as counting is concerned, by what
// limits them.
func counted(w *world) map[string]func() *key {
	mint := func(fns ...func(*record.Key)) func() *key {
		return func() *key {
			return w.mint(func(k *record.Key) {
				for _, fn := range fns {
					fn(k)
				}
			})
		}
	}
	limit := func(kind record.Kind, n int64) func(*record.Key) {
		return func(k *record.Key) { k.Limit[kind] = n }
	}
	child := func(parent, own func(*record.Key)) func() *key {
		return func() *key { return w.mint(delegating(parent)).mustChild(own) }
	}
	none := func(*record.Key) {}
	return map[string]func() *key{
		"nothing":               mint(none),
		"expiry":                mint(func(k *record.Key) { k.ExpiresAt = w.clock.time().Add(time.Hour) }),
		"idleness":              mint(idleFor(time.Hour)),
		"its first use":         mint(func(k *record.Key) { k.FirstUseWithin = time.Hour }),
		"rate":                  mint(func(k *record.Key) { k.Rate = record.Rate{N: 1000, Per: time.Second} }),
		"concurrency":           mint(func(k *record.Key) { k.MaxConcurrency = 1000 }),
		"an address":            mint(func(k *record.Key) { k.Scope.PinIP = true }),
		"activations":           mint(limit(record.Activations, 1000)),
		"tokens":                mint(limit(record.Tokens, 1_000_000)),
		"dollars":               mint(limit(record.Nanodollars, 1_000_000)),
		"successes":             mint(limit(record.Activations, 1000), func(k *record.Key) { k.Charge = record.ChargeSuccess }),
		"the day":               mint(limit(record.Activations, 1000), func(k *record.Key) { k.Renews = record.Daily }),
		"a role's budget":       mint(func(k *record.Key) { k.Role = "budget" }),
		"a role without budget": mint(func(k *record.Key) { k.Role = "free" }),
		"nothing, a child":      child(none, none),
		"activations, a child":  child(limit(record.Activations, 1000), limit(record.Activations, 500)),
	}
}

var countedRoles = map[string]record.Role{
	"budget": {Budget: record.RoleBudget{Limit: record.Amounts{1000, -1, -1, -1}}},
	"free":   record.NewRole(),
}

// countedWorld is a world in which keys of every sort can be minted.
func countedWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.roles = countedRoles
	if err := w.SetRoles(w.roles); err != nil {
		t.Fatal(err)
	}
	return w
}

// each is what a test asked for: each request uses a number of each kind that no other
// does, and holds as much more.
func each(n int64) record.Amounts { return record.Amounts{1, 11 + n, 101 + n, 0} }

// counts is all that anybody is shown of what a key did.
type counts struct {
	key, hours record.Amounts
	kinds      int64 // tokens, all kinds together
	never      bool  // it is said not to have been used
	last       time.Time
}

func (w *world) counts(k *key) counts {
	w.t.Helper()
	v := k.view()
	u, err := w.Usage(limiter.Operator, k.id)
	if err != nil {
		w.t.Fatal(err)
	}
	c := counts{kinds: v.Kinds.Sum(), never: v.FirstUsedAt.IsZero(), last: v.LastUsedAt}
	for i := range c.key {
		c.key[i] = v.Used[i] + v.Past[i]
	}
	c.key[record.Attempts] = 0 // shown nowhere
	for _, hour := range u.Hours {
		c.hours[record.Activations] += hour.Activations
		c.hours[record.Tokens] += hour.Tokens
		c.hours[record.Nanodollars] += hour.Nanodollars
		if hour.Kinds.Sum() != hour.Tokens {
			w.t.Errorf("an hour has %d tokens, and by kind %+v", hour.Tokens, hour.Kinds)
		}
	}
	return c
}

// TestEveryCountSurvives uses a key of every sort and holds all that is shown of it
// against what was used, before and after each thing that may become of a server. What
// is in flight at that moment counts at its bound, or not at all where nothing of it
// reached a backup.
func TestEveryCountSurvives(t *testing.T) {
	t.Parallel()
	events := map[string]struct {
		of   func(w *world) *world
		lost int // requests in flight that count as if they had ended; -1: that depends
	}{
		"goes on":            {func(w *world) *world { return w }, 0},
		"stopped":            {func(w *world) *world { w.restart(); return w }, 2},
		"killed":             {func(w *world) *world { w.kill(false); return w }, 2},
		"killed twice":       {func(w *world) *world { w.kill(false); w.kill(false); return w }, 2},
		"killed when idle":   {idleThenKilled, 2},
		"power cut later":    {func(w *world) *world { passes(w, time.Minute); w.kill(true); return w }, -1},
		"the store reopened": {func(w *world) *world { w.fail(true); w.heal(func() {}); return w }, 0},
		"the store failed at a save that reached it": {func(w *world) *world { return failedAtASave(w, true) }, 0},
		"the store failed at a save that did not":    {func(w *world) *world { return failedAtASave(w, false) }, 0},
	}
	for sort := range counted(nil) {
		for name, event := range events {
			for _, inFlight := range []int{0, 2} {
				if inFlight > 0 && event.lost < 0 {
					continue
				}
				t.Run(fmt.Sprintf("limited by %s, %s, %d in flight", sort, name, inFlight), func(t *testing.T) {
					t.Parallel()
					w := countedWorld(t)
					k := counted(w)[sort]()
					before := w.Stats().Used // of parents
					want := k.usedSome(7)
					for range inFlight {
						if _, refusal := k.ask(func(a *limiter.Ask) { a.Bound = each(100) }); refusal != nil {
							t.Fatal(refusal)
						}
					}
					last := w.clock.time()
					if inFlight > 0 {
						for range event.lost {
							want = plus(want, each(100))
						}
					}
					w = event.of(w)
					k.w = w
					k.shows(want, last)
					s := w.Stats().Used
					for i := range want[:record.Attempts] {
						if got := s[i] - before[i]; got != want[i] {
							t.Errorf("the sum over all keys says %d %s, want %d", got, record.Kind(i), want[i])
						}
					}
					views, err := w.Roles()
					if err != nil {
						t.Fatal(err)
					}
					for _, role := range views {
						if got := role.Used; role.Name == k.view().Role && (got[0] != want[0] || got[1] != want[1] || got[2] != want[2]) {
							t.Errorf("role %s says %v, want %v", role.Name, got, want)
						}
					}
					w.agree(t)
				})
			}
		}
	}
}

func idleThenKilled(w *world) *world {
	passes(w, time.Minute)
	w.kill(false)
	return w
}

func failedAtASave(w *world, reached bool) *world {
	w.t.Helper()
	w.clock.advance(time.Minute)
	w.disk.FailAt(1, reached)
	w.SweepActive()
	if err := w.Ping(ctx); err == nil {
		w.t.Fatal("the store has not failed")
	}
	w.heal(nil)
	return w
}

func plus(a, b record.Amounts) record.Amounts {
	for i := range a {
		a[i] += b[i]
	}
	return a
}

// usedSome makes n requests and returns what they used.
func (k *key) usedSome(n int64) (all record.Amounts) {
	k.w.t.Helper()
	for i := range n {
		k.w.clock.advance(time.Millisecond)
		g, refusal := k.ask(func(a *limiter.Ask) { a.Bound = each(100) })
		if refusal != nil {
			k.w.t.Fatal(refusal)
		}
		used := each(i)
		g.Measured(record.TokenKinds{Input: used[record.Tokens] - 1, Output: 1})
		g.Settle(used)
		all = plus(all, used)
	}
	return all
}

// shows holds all that is shown of the key against what it used.
func (k *key) shows(want record.Amounts, last time.Time) {
	k.w.t.Helper()
	c := k.w.counts(k)
	if c.key != want {
		k.w.t.Errorf("the key says %v, want %v", c.key, want)
	}
	if c.hours != want {
		k.w.t.Errorf("its history says %v, want %v", c.hours, want)
	}
	if c.kinds != want[record.Tokens] {
		k.w.t.Errorf("its tokens by kind are %d, want %d", c.kinds, want[record.Tokens])
	}
	if c.never || c.last.Before(last) {
		k.w.t.Errorf("it was never used: %t; last at %s, want %s", c.never, c.last, last)
	}
}

// TestWhatEndedAfterASaveCountsAsItEnded: a save tells of what runs at its bound.
func TestWhatEndedAfterASaveCountsAsItEnded(t *testing.T) {
	t.Parallel()
	saves := map[string]func(w *world){
		"the sweeper's": func(w *world) { passes(w, time.Minute) },
		"a backup's":    func(w *world) { w.backup(false) },
	}
	for sort := range counted(nil) {
		for name, save := range saves {
			t.Run("limited by "+sort+", "+name, func(t *testing.T) {
				t.Parallel()
				w := countedWorld(t)
				k := counted(w)[sort]()
				want := k.usedSome(3)
				g, refusal := k.ask(func(a *limiter.Ask) { a.Bound = each(100) })
				if refusal != nil {
					t.Fatal(refusal)
				}
				save(w)
				used := each(5)
				g.Measured(record.TokenKinds{Output: used[record.Tokens]}) // the sweeper may save once more, at any time
				g.Settle(used)
				w.kill(false)
				k.shows(plus(want, used), w.clock.time())
				w.agree(t)
			})
		}
	}
}

// TestCountsSurviveAClockThatWasSetBack: what was used then, was used at a time to
// come.
func TestCountsSurviveAClockThatWasSetBack(t *testing.T) {
	t.Parallel()
	for sort := range counted(nil) {
		t.Run("limited by "+sort, func(t *testing.T) {
			t.Parallel()
			w := countedWorld(t)
			k := counted(w)[sort]()
			w.clock.advance(3 * time.Second)
			want := k.usedSome(7)
			w.clock.set(-time.Hour)
			w.kill(false)
			k.shows(want, w.Now())
			w.agree(t)
		})
	}
}

// TestTheHistoryOfAWindowThatIsOverSurvivesAKill: in the new one nothing was used yet,
// or it had just begun on the disk, and not in memory.
func TestTheHistoryOfAWindowThatIsOverSurvivesAKill(t *testing.T) {
	t.Parallel()
	for _, just := range []bool{false, true} {
		w := newWorld(t)
		k := counted(w)["the day"]()
		want, last := k.usedSome(7), w.clock.time()
		page := w.file(w.shadow)
		w.clock.advance(24 * time.Hour)
		if _, refusal := k.ask(func(a *limiter.Ask) { a.Bound = record.Amounts{5000} }); refusal == nil {
			t.Fatal("5000 of 1000 were admitted")
		}
		if just {
			f, err := os.OpenFile(w.shadow, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.Write(page) // in place, for it is mapped
			}
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		w.kill(false)
		k.shows(want, last)
		w.agree(t)
		passes(w, time.Minute)
		w.SweepIdle()
		w.clock.advance(time.Hour)
		w.SweepIdle()
		if w.InMemory(k.id) {
			t.Error("a key that nobody uses stays in memory")
		}
	}
}

// TestABackupHoldsEveryCount: of a key of each sort, up to its start. Nothing is saved
// before by itself.
func TestABackupHoldsEveryCount(t *testing.T) {
	t.Parallel()
	for sort := range counted(nil) {
		for _, inFlight := range []int{0, 2} {
			t.Run(fmt.Sprintf("limited by %s, %d in flight", sort, inFlight), func(t *testing.T) {
				t.Parallel()
				w := countedWorld(t)
				k := counted(w)[sort]()
				want := k.usedSome(7)
				last := w.clock.time()
				for range inFlight {
					if _, refusal := k.ask(func(a *limiter.Ask) { a.Bound = each(100) }); refusal != nil {
						t.Fatal(refusal)
					}
				}
				next, _ := w.restored(w.backup(false), true)
				next.roles = countedRoles
				if err := next.SetRoles(next.roles); err != nil {
					t.Fatal(err)
				}
				k = &key{next, k.id, k.lookup}
				if inFlight == 0 {
					k.shows(want, last)
					next.agree(t)
					return
				}
				v := k.view()
				for i, n := range want[:record.Attempts] {
					if v.Limit[i] == record.NoLimit && v.Used[i] != n+each(100)[i]*int64(inFlight) || v.Used[i] < n {
						t.Errorf("%d %s used, want %d and %d in flight", v.Used[i], record.Kind(i), n, inFlight)
					}
				}
				next.agree(t)
			})
		}
	}
}
