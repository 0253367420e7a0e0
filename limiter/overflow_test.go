package limiter_test

import (
	"math"
	"testing"

	"github.com/till-proxy/till/limiter"
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
