package limiter_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// slow is a store of which transactions that have begun can get no further for a while.
type slow struct {
	store.Store
	until time.Time
}

// Update implements store.Store.
func (s *slow) Update(fn func(store.Tx) error) error {
	return s.Store.Update(func(tx store.Tx) error { return fn(slowTx{tx, s.until}) })
}

type slowTx struct {
	store.Tx
	until time.Time
}

// Get implements store.Reader.
func (tx slowTx) Get(key []byte) ([]byte, error) {
	time.Sleep(time.Until(tx.until))
	return tx.Tx.Get(key)
}

// Set implements store.Tx.
func (tx slowTx) Set(key, value []byte) error {
	time.Sleep(time.Until(tx.until))
	return tx.Tx.Set(key, value)
}

// TestAChangeWhoseCallerHasGoneSharesNothingWithIt lets each act be in the middle of its
// transaction when its caller gives up, and goes on with what it has. The race detector
// finds what both use.
func TestAChangeWhoseCallerHasGoneSharesNothingWithIt(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(k *key) (any, error){
		"mint": func(k *key) (any, error) {
			spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()}
			_, err := k.w.tryMint(limiter.Operator, spec)
			spec.Name = "another one, in the same memory"
			return spec, err
		},
		"grant": func(k *key) (any, error) {
			return k.w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 7})
		},
		"change": func(k *key) (any, error) {
			return k.w.Change(ctx, limiter.Operator, k.id, 0, func(k *record.Key) error { k.Name = "other"; return nil })
		},
		"rotation": func(k *key) (any, error) {
			view, cut, err := k.w.Rotate(limiter.Operator, k.id, record.Issue{Lookup: lookup()}, time.Hour)
			return fmt.Sprint(view, cut), err
		},
		"suspension": func(k *key) (any, error) { return k.w.Suspend(limiter.Operator, k.id) },
		"revocation": func(k *key) (any, error) {
			view, cut, err := k.w.Revoke(ctx, limiter.Operator, k.id, "no longer used")
			return fmt.Sprint(view, cut), err
		},
		"a token": func(k *key) (any, error) {
			return k.w.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup(), Name: "ci", Role: record.OperatorRole})
		},
		"the clock": func(k *key) (any, error) { return k.w.RepairClock(limiter.Operator) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.Abandon()
				disk := &slow{Store: w.disk.Open()}
				w.open(disk)
				k := w.mint(activations(100))
				disk.until = time.Now().Add(time.Hour)
				got, err := act(k)
				if !errors.Is(err, commit.ErrOutcome) {
					t.Errorf("%v, want ErrOutcome", err)
				}
				_ = fmt.Sprintf("%+v %v", got, err)
				time.Sleep(2 * time.Hour)
				if err := w.Ping(ctx); err != nil {
					t.Error(err)
				}
				w.Abandon()
			})
		})
	}
}
