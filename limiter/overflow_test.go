package limiter_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// TestUseBeyondReasonEndsAKeyAndGivesNothingBack: what an upstream says may be
// any number, and a sum of such must not wrap around to less than nothing.
func TestUseBeyondReasonEndsAKeyAndGivesNothingBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.Limit[record.Tokens] = 1000 })
	bound := func(a *limiter.Ask) { a.Bound[record.Tokens] = 10 }
	var grants []*limiter.Grant
	for range 20 {
		g, refusal := k.ask(bound)
		if refusal != nil {
			t.Fatal(refusal)
		}
		grants = append(grants, g)
	}
	for i, g := range grants {
		g.Measured(record.TokenKinds{Output: math.MaxInt64})
		g.Settle(record.Amounts{record.Activations: 1, record.Tokens: math.MaxInt64, record.Nanodollars: math.MaxInt64})
		if code := k.use(bound); code != record.CodeTokensExhausted && code != record.CodeBudgetHeld {
			t.Fatalf("after %d answers of more than there is: %q", i+1, code)
		}
	}
	// What is more than was reserved is on its way to the disk when the crash comes.
	w.kill(false)
	if code := k.use(bound); code != record.CodeTokensExhausted {
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
		w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{-1, 1000, -1, -1}}}}
		if err := w.SetRoles(w.roles); err != nil {
			t.Fatal(err)
		}
		k := w.mint(func(k *record.Key) { k.Limit[record.Tokens], k.Role = 1000, "ci" })
		g, refusal := k.ask(bound(record.Tokens, 10))
		if refusal != nil {
			t.Fatal(refusal)
		}
		w.disk.Fill()
		g.Settle(record.Amounts{record.Activations: 1, record.Tokens: 700})
		if err := w.Ping(ctx); !errors.Is(err, store.ErrNoSpace) {
			t.Fatal(err)
		}
		w.disk.Heal()
		then(w)
		if used := k.view().Used[record.Tokens]; used != 700 {
			t.Errorf("%s: %d tokens used of the key, want 700", name, used)
		}
		roles, err := w.Limiter.Roles()
		if err != nil {
			t.Fatal(err)
		}
		if used := roles[0].Used[record.Tokens]; used != 700 {
			t.Errorf("%s: %d tokens used of the role, want 700", name, used)
		}
		w.agree(t)
	}
}
