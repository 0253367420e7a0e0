package limiter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// limitTo changes what a key may use.
func (k *key) limitTo(n int64) {
	k.w.t.Helper()
	_, err := k.w.Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error {
		key.Limit[record.Activations] = n
		return nil
	})
	if err != nil {
		k.w.t.Fatal(err)
	}
}

func TestALimitTakenAndSetAgainStrandsNothing(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]func(w *world, k *key){
		"at once": func(*world, *key) {},
		"after a save": func(w *world, k *key) {
			for range 3 {
				w.clock.advance(11 * time.Second)
				w.SweepActive()
				if err := w.Ping(ctx); err != nil {
					w.t.Fatal(err)
				}
			}
		},
		"after a use and a save": func(w *world, k *key) {
			k.use()
			w.clock.advance(11 * time.Second)
			w.SweepActive()
			if err := w.Ping(ctx); err != nil {
				w.t.Fatal(err)
			}
		},
		"after a restart": func(w *world, k *key) { w.restart() },
	} {
		w := newWorld(t)
		k := w.mint(activations(4000))
		for range 2000 { // fast enough for a block
			k.use()
			w.clock.advance(time.Millisecond / 10)
		}
		k.limitTo(record.NoLimit)
		between(w, k)
		used := k.view().Used[record.Activations]
		k.limitTo(4000)
		if n := k.drain(record.CodeActivationsExhausted); used+n != 4000 {
			t.Errorf("%s: %d used before and %d after, want 4000 in all", name, used, n)
		}
		w.agree(t)
		w.restart()
		if got := k.view().Used[record.Activations]; got != 4000 {
			t.Errorf("%s: %d used after a restart", name, got)
		}
	}
}

func TestWhatWasUsedWithoutALimitCountsOnceOneIsSetAlsoAfterAKill(t *testing.T) {
	t.Parallel()
	for _, power := range []bool{false, true} {
		w := newWorld(t)
		k := w.mint(activations(record.NoLimit))
		for range 95 {
			k.use()
		}
		running, refusal := k.ask()
		if refusal != nil {
			t.Fatal(refusal)
		}
		k.limitTo(100)
		w.kill(power)
		running.Settle(record.Amounts{record.Activations: 1})
		if n := k.drain(record.CodeActivationsExhausted); n != 4 {
			t.Errorf("power %v: %d more after 96 of 100", power, n)
		}
	}
}

// TestAKeyWhoseEndWasNotRecordedEndsAtItsNextRefusal kills the server between
// a key's last request and the record of its end.
func TestAKeyWhoseEndWasNotRecordedEndsAtItsNextRefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seen := new(watcher)
	w.observe = seen
	k := w.mint(activations(1))
	g, refusal := k.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	w.kill(false)
	g.Settle(record.Amounts{record.Activations: 1})
	seen.take()
	for range 3 {
		if code := k.use(); code != record.CodeActivationsExhausted {
			t.Fatal(code)
		}
	}
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if n := w.Stats().Keys[record.Exhausted]; n != 1 {
		t.Errorf("%d keys are recorded as exhausted", n)
	}
	// A use of the key counts as one after its death, too.
	if got := strings.Join(seen.take(), " "); strings.Count(got, "key_exhausted") != 1 {
		t.Errorf("events: %q, want one end", got)
	}
}

// TestARolesBudgetComesAndGoesWithReloadsUnderLoad takes a role's budget out of
// the configuration and puts it back while blocks of it are out.
func TestARolesBudgetComesAndGoesWithReloadsUnderLoad(t *testing.T) {
	t.Parallel()
	w := newMachine(t)
	roles := func(limit int64) map[string]record.Role {
		return map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{limit, -1, -1, -1}}}}
	}
	used := int64(0)
	use := func(k *key, times int) {
		for range times {
			if code := k.use(); code != "" {
				t.Fatalf("after %d: %s", used, code)
			}
			used++
			w.clock.advance(50 * time.Microsecond)
		}
	}
	if err := w.SetRoles(roles(20_000)); err != nil {
		t.Fatal(err)
	}
	k := w.mint(func(k *record.Key) { k.Role = "ci" })
	for round := range 8 {
		use(k, 500)
		if err := w.SetRoles(roles(record.NoLimit)); err != nil {
			t.Fatal(err)
		}
		use(k, 20)
		if round%2 == 0 { // given back, and saved
			w.clock.advance(11 * time.Second)
			w.SweepActive()
			if err := w.Ping(ctx); err != nil {
				t.Fatal(err)
			}
		}
		use(k, 20)
		if err := w.SetRoles(roles(20_000)); err != nil {
			t.Fatal(err)
		}
	}
	w.roles = roles(20_000)
	w.restart()
	if err := w.Failed(); err != nil {
		t.Fatal(err)
	}
	if n := k.drain(record.CodeActivationsExhausted); used+n != 20_000 {
		t.Errorf("%d used before and %d after, want 20,000 in all", used, n)
	}
}
