package limiter_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/store"
)

// TestUseBeyondReasonEndsAKeyAndGivesNothingBack: what an upstream says may be
// any number, and a sum of such must not wrap around to less than nothing.
func TestUseBeyondReasonEndsAKeyAndGivesNothingBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *limiter.Key) { k.Limit[limiter.Tokens] = 1000 })
	bound := func(a *limiter.Ask) { a.Bound[limiter.Tokens] = 10 }
	var grants []*limiter.Grant
	for range 20 {
		g, refusal := k.ask(bound)
		if refusal != nil {
			t.Fatal(refusal)
		}
		grants = append(grants, g)
	}
	for i, g := range grants {
		g.Measured(limiter.TokenKinds{Output: math.MaxInt64})
		g.Settle(limiter.Amounts{limiter.Activations: 1, limiter.Tokens: math.MaxInt64, limiter.Nanodollars: math.MaxInt64})
		if code := k.use(bound); code != limiter.CodeTokensExhausted && code != limiter.CodeBudgetHeld {
			t.Fatalf("after %d answers of more than there is: %q", i+1, code)
		}
	}
	// What is more than was reserved is on its way to the disk when the crash comes.
	w.kill(false)
	if code := k.use(bound); code != limiter.CodeTokensExhausted {
		t.Errorf("after a crash: %q", code)
	}
}

// TestAnOverdraftThatTheFullDiskDidNotTakeIsNotForgotten: an answer used more
// than its bound while nothing could be written. It is debited all the same,
// also once the key is not in memory any more.
func TestAnOverdraftThatTheFullDiskDidNotTakeIsNotForgotten(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(w *world){
		"stopped": func(w *world) { w.restart() },
		"killed":  func(w *world) { w.kill(false) },
		"stopped on the full disk": func(w *world) {
			w.disk.Fill()
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			w.disk.Heal()
			w.open(w.disk.Open())
		},
		"idle": func(w *world) {
			for range 3 {
				w.clock.advance(20 * time.Minute)
				w.SweepActive()
				if err := w.Ping(ctx); err != nil {
					t.Fatal(err)
				}
			}
			w.SweepIdle()
		},
		"idle, then killed": func(w *world) {
			w.clock.advance(time.Minute)
			w.SweepActive()
			if err := w.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			w.kill(false)
		},
	} {
		w := newWorld(t)
		w.roles = map[string]limiter.Role{"ci": {Budget: limiter.RoleBudget{Limit: limiter.Amounts{-1, 1000, -1, -1}}}}
		if err := w.SetRoles(w.roles); err != nil {
			t.Fatal(err)
		}
		k := w.mint(func(k *limiter.Key) { k.Limit[limiter.Tokens], k.Role = 1000, "ci" })
		g, refusal := k.ask(bound(limiter.Tokens, 10))
		if refusal != nil {
			t.Fatal(refusal)
		}
		w.disk.Fill()
		g.Settle(limiter.Amounts{limiter.Activations: 1, limiter.Tokens: 700})
		if err := w.Ping(ctx); !errors.Is(err, store.ErrNoSpace) {
			t.Fatal(err)
		}
		w.disk.Heal()
		then(w)
		if used := k.view().Used[limiter.Tokens]; used != 700 {
			t.Errorf("%s: %d tokens used of the key, want 700", name, used)
		}
		roles, err := w.Limiter.Roles()
		if err != nil {
			t.Fatal(err)
		}
		if used := roles[0].Used[limiter.Tokens]; used != 700 {
			t.Errorf("%s: %d tokens used of the role, want 700", name, used)
		}
		w.agree(t)
	}
}
