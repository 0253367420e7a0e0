package limiter_test

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestARequestIsNotReservedUnderTermsThatItWasNotReadUnder: what it would need to be
// judged by is not known, so nothing is judged, and nothing taken.
func TestARequestIsNotReservedUnderTermsThatItWasNotReadUnder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change, first func(*record.Key)
		role          func(*record.Role)
		free          bool
		does          bool // the reading does for both
	}{
		"models":             {change: func(k *record.Key) { k.Scope.Models = []string{"a"} }},
		"models, of a list":  {change: func(k *record.Key) { k.Scope.Models = []string{"a"} }, free: true},
		"models no more":     {first: func(k *record.Key) { k.Scope.Models = []string{"a"} }, change: func(k *record.Key) { k.Scope.Models = nil }, does: true},
		"other models":       {first: func(k *record.Key) { k.Scope.Models = []string{"b"} }, change: func(k *record.Key) { k.Scope.Models = []string{"a"} }, does: true},
		"tokens":             {change: func(k *record.Key) { k.Limit[record.Tokens] = 10 }},
		"more tokens":        {first: func(k *record.Key) { k.Limit[record.Tokens] = 5 }, change: func(k *record.Key) { k.Limit[record.Tokens] = 10 }, does: true},
		"dollars":            {change: func(k *record.Key) { k.Limit[record.Nanodollars] = 10 }},
		"a role's tokens":    {role: func(r *record.Role) { r.Budget.Limit[record.Tokens] = 10 }},
		"a role's dollars":   {role: func(r *record.Role) { r.Budget.Limit[record.Nanodollars] = 10 }},
		"a role's requests":  {role: func(r *record.Role) { r.Budget.Limit[record.Activations] = 10 }, does: true},
		"no fit":             {first: func(k *record.Key) { k.Limit[record.Tokens] = 5 }, change: func(k *record.Key) { k.KeepBound = true }},
		"no fit of what":     {change: func(k *record.Key) { k.KeepBound = true }, does: true},
		"unknown prices":     {first: func(k *record.Key) { k.Limit[record.Nanodollars] = 5 }, change: func(k *record.Key) { k.CountOnly = true }, does: true},
		"known prices":       {first: func(k *record.Key) { k.Limit[record.Nanodollars], k.CountOnly = 5, true }, change: func(k *record.Key) { k.CountOnly = false }},
		"a cheaper request":  {first: func(k *record.Key) { k.Limit[record.Nanodollars], k.MaxRequestSpend = 5, 5 }, change: func(k *record.Key) { k.MaxRequestSpend = 4 }},
		"a dearer request":   {first: func(k *record.Key) { k.Limit[record.Nanodollars], k.MaxRequestSpend = 5, 5 }, change: func(k *record.Key) { k.MaxRequestSpend = 6 }, does: true},
		"the first bound":    {first: func(k *record.Key) { k.Limit[record.Nanodollars] = 5 }, change: func(k *record.Key) { k.MaxRequestSpend = 6 }},
		"what is not read":   {change: func(k *record.Key) { k.MaxConcurrency, k.Name = 5, "x" }, does: true},
		"charge, at its end": {change: func(k *record.Key) { k.Charge = record.ChargeSuccess }, does: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			role := record.NewRole()
			if err := w.SetRoles(map[string]record.Role{"crew": role}); err != nil {
				t.Fatal(err)
			}
			k := w.mint(delegating(activations(10), func(k *record.Key) {
				k.Role = "crew"
				if test.first != nil {
					test.first(k)
				}
			}))
			live, refusal := w.Find(ctx, k.lookup)
			if refusal != nil {
				t.Fatal(refusal)
			}
			read := live.Terms()
			if test.change != nil {
				if _, err := w.Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error { test.change(key); return nil }); err != nil {
					t.Fatal(err)
				}
			}
			if test.role != nil {
				test.role(&role)
				if err := w.SetRoles(map[string]record.Role{"crew": role}); err != nil {
					t.Fatal(err)
				}
			}
			ask := func(a *limiter.Ask) { a.Terms, a.Models, a.Named, a.Free = read, []string{"a"}, true, test.free }
			_, refusal = k.ask(ask)
			switch {
			case test.does && refusal != nil:
				t.Errorf("refused: %v", refusal)
			case !test.does && (refusal == nil || !refusal.Moved || refusal.Code != record.CodeStoreUnavailable || refusal.RetryAfter == 0):
				t.Errorf("answered %v", refusal)
			case !test.does:
				if v := k.view(); v.Held != (record.Amounts{}) || v.Used != (record.Amounts{}) || v.InFlight != 0 {
					t.Errorf("used %v, held %v", v.Used, v.Held)
				}
				read = live.Terms()
				if _, refusal := k.ask(ask); refusal != nil {
					t.Errorf("read anew: %v", refusal)
				}
			}
		})
	}
}

// TestARequestThatWaitsIsNotReservedUnderNewTerms: a wait is time, too.
func TestARequestThatWaitsIsNotReservedUnderNewTerms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // time passes only while all wait
		w := newWorld(t)
		k := w.mint(func(k *record.Key) { k.Limit[record.Tokens] = 100 })
		live, refusal := w.Find(ctx, k.lookup)
		if refusal != nil {
			t.Fatal(refusal)
		}
		holds, refusal := k.ask(bound(record.Tokens, 100))
		if refusal != nil {
			t.Fatal(refusal)
		}
		answer := make(chan *record.Refusal, 1)
		read := live.Terms()
		go func() {
			answer <- live.Reserve(context.Background(), &limiter.Ask{
				Bound: record.Amounts{record.Activations: 1, record.Tokens: 50}, Waits: true, Terms: read,
				Method: "POST", Path: "/v1/x", Addr: netip.MustParseAddr("192.0.2.1"),
			}, new(limiter.Grant))
		}()
		synctest.Wait()
		if n := w.Turns(); n != 1 {
			t.Fatalf("%d wait", n)
		}
		if _, err := w.Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error { key.Scope.Models = []string{"a"}; return nil }); err != nil {
			t.Fatal(err)
		}
		if r := <-answer; r == nil || !r.Moved {
			t.Errorf("answered %v", r)
		}
		holds.Cancel()
	})
}

// TestTermsAreThoseOfAKeyThatWasReadAgain: who holds a key that has left memory since
// asks about the one that took its place.
func TestTermsAreThoseOfAKeyThatWasReadAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	live, refusal := w.Find(ctx, k.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	w.clock.advance(48 * time.Hour)
	w.SweepIdle()
	if again, _ := w.Find(ctx, k.lookup); again == live {
		t.Fatal("the key did not leave memory")
	}
	if _, err := w.Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error { key.Scope.Models = []string{"a"}; return nil }); err != nil {
		t.Fatal(err)
	}
	ask := limiter.Ask{
		Bound: record.Amounts{record.Activations: 1}, Terms: live.Terms(), Models: []string{"a"}, Named: true,
		Method: "POST", Path: "/v1/x", Addr: netip.MustParseAddr("192.0.2.1"),
	}
	if refusal := live.Reserve(ctx, &ask, new(limiter.Grant)); refusal != nil || !ask.Terms.Models {
		t.Errorf("answered %v under %+v", refusal, ask.Terms)
	}
}

// TestAKeyThatLeftMemoryWhileARequestIsReadIsJudgedAsItIsNow: one that nobody uses has
// to go when there are many, though the body of a request for it still comes.
func TestAKeyThatLeftMemoryWhileARequestIsReadIsJudgedAsItIsNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.Scope.Models = []string{"a"} })
	live, refusal := w.Find(ctx, k.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	ask := limiter.Ask{Method: "POST", Path: "/v1/chat/completions", Addr: from192, Models: []string{"b"}, Named: true}
	if refusal := live.AdmitsModels(&ask); refusal == nil {
		t.Fatal("b is admitted")
	}
	passes(w, time.Minute)
	w.ShrinkTo(0)
	if w.InMemory(k.id) {
		t.Fatal("the key is still in memory")
	}
	_, err := w.Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error {
		key.Scope.Models = []string{"a", "b"}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if refusal := live.AdmitsModels(&ask); refusal != nil {
		t.Errorf("b is refused: %s", refusal.Message)
	}
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
		t.Fatal(err)
	}
	if refusal := live.Refuse(ctx, &ask, &record.Refusal{Code: record.CodeBadRequest}); refusal.Code != record.CodeKeyRevoked {
		t.Errorf("a key that is revoked says %s", refusal.Code)
	}
}
