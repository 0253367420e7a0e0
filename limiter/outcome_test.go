package limiter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
)

// TestAnActThatMayBeDoneIsNotSaidToHaveFailed lets each commit of an act fail, once so that
// it reaches the disk all the same. Whoever hears of a failure repeats the act, and does
// it twice if it was done.
func TestAnActThatMayBeDoneIsNotSaidToHaveFailed(t *testing.T) {
	t.Parallel()
	// changes is an act that makes another version of the key.
	changes := func(act func(k *key) error) func(k *key) (done func() bool, err error) {
		return func(k *key) (func() bool, error) {
			before := k.view().Version
			err := act(k)
			return func() bool { return k.view().Version != before }, err
		}
	}
	for name, act := range map[string]func(k *key) (done func() bool, err error){
		"mint": func(k *key) (func() bool, error) {
			spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()}
			other, err := k.w.tryMint(limiter.Operator, spec)
			return func() bool {
				_, refusal := k.w.Find(ctx, other.lookup)
				return refusal == nil
			}, err
		},
		"child": func(k *key) (func() bool, error) {
			_, err := k.child(activations(3))
			return func() bool {
				v := k.view()
				if v.Children == 1 && v.Used[record.Activations] != 1 {
					t.Errorf("a mint that was done has taken %d activations", v.Used[record.Activations])
				}
				return v.Children == 1
			}, err
		},
		"grant": changes(func(k *key) error {
			_, err := k.w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 7})
			return err
		}),
		"change": changes(func(k *key) error {
			_, err := k.w.Change(ctx, limiter.Operator, k.id, 0, func(k *record.Key) error { k.Name = "other"; return nil })
			return err
		}),
		"rotation": changes(func(k *key) error {
			_, err := k.tryRotate(time.Hour)
			return err
		}),
		"suspension": changes(func(k *key) error {
			_, err := k.w.Suspend(limiter.Operator, k.id)
			return err
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, reached := range []bool{true, false} {
				unknown := 0
				for n := 1; ; n++ {
					w := newWorld(t)
					k := w.mint(delegating(activations(10)))
					w.disk.FailAt(n, reached)
					done, err := act(k)
					w.disk.Heal()
					if err == nil { // it takes fewer commits
						break
					}
					w.kill(false)
					was := done()
					if was && !reached || was && !errors.Is(err, commit.ErrOutcome) {
						t.Errorf("commit %d failed, reached the disk: %t; done: %t; it was answered %v", n, reached, was, err)
					}
					if errors.Is(err, commit.ErrOutcome) {
						unknown++
					}
				}
				if unknown == 0 {
					t.Errorf("reached the disk: %t: no failure was of an unknown outcome", reached)
				}
			}
		})
	}
}
