package limiter_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// A holder mints as many children as a budget allows, so what each key may take of what all
// keys share, or of the vendor's patience, is taken by a key and those below it together.

// TestAFamilyMakesAsManyFreeRequestsAsAKey: each reaches the upstream with the real key.
func TestAFamilyMakesAsManyFreeRequestsAsAKey(t *testing.T) {
	t.Parallel()
	free := func(a *limiter.Ask) { a.Free = true }
	probes := func(k *key) record.Code {
		live, refusal := k.w.Find(ctx, k.lookup)
		if refusal != nil {
			return refusal.Code
		}
		switch may, later := live.MayProbe(&limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/messages"}); {
		case may:
			return ""
		case later:
			return record.CodeRateLimited
		}
		return "never"
	}
	for name, takes := range map[string]func(*key) record.Code{
		"free requests": func(k *key) record.Code { return k.use(free) },
		"counts":        probes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			root := w.mint(delegating(activations(1000)))
			child := root.mustChild(delegating(activations(100)))
			family := []*key{child, child.mustChild(activations(10)), root.mustChild(activations(10))}
			made := 0
			for made < 100 && takes(family[made%len(family)]) == "" {
				made++
			}
			if made != 60 {
				t.Errorf("%d, want 60", made)
			}
			// A child's own share is its key's, too.
			if code := takes(root); code != record.CodeRateLimited {
				t.Errorf("the topmost key: %q", code)
			}
			if code := takes(w.mint(activations(10))); code != "" {
				t.Errorf("another key: %q", code)
			}
			if code := root.use(); code != "" {
				t.Errorf("a request that costs an activation: %q", code)
			}
		})
	}
}

// TestAFamilyWaitsInAsManyPlacesAsAKey, so that it cannot take all of those that there are.
func TestAFamilyWaitsInAsManyPlacesAsAKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(ctx)
		root := w.mint(delegating(tokens(10_000)))
		child := root.mustChild(delegating(tokens(3000)))
		family := []*key{root, child, child.mustChild(tokens(1000)), root.mustChild(tokens(1000))}
		for _, k := range family {
			k.hold(left(t, k) - 100)
		}
		waiting := 0
		for waiting < 100 && family[waiting%len(family)].wait(ctx, 200).code() == "waits" {
			waiting++
		}
		if waiting != limiter.MaxKeyTurns {
			t.Errorf("%d wait, want %d", waiting, limiter.MaxKeyTurns)
		}
		other := w.mint(tokens(1000))
		other.hold(900)
		if code := other.wait(ctx, 200).code(); code != "waits" {
			t.Errorf("another key: %q", code)
		}
		cancel()
		synctest.Wait()
		w.Abandon()
	})
}

// left is how many tokens the key has left.
func left(t *testing.T, k *key) int64 {
	t.Helper()
	v, err := k.w.Get(limiter.Operator, k.id)
	if err != nil {
		t.Fatal(err)
	}
	return v.Remaining[record.Tokens]
}
