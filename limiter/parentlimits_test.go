package limiter_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestNoLimitIsSetThatWouldNotBindTheChildrenOfAKey, whether the key is a child itself or not.
func TestNoLimitIsSetThatWouldNotBindTheChildrenOfAKey(t *testing.T) {
	t.Parallel()
	for _, depth := range []int{0, 1} {
		w := newWorld(t)
		k := w.mint(delegating(activations(200)))
		for range depth {
			k = k.mustChild(delegating(activations(150)))
		}
		children := []*key{k.mustChild(activations(60)), k.mustChild(activations(20))}
		to := func(kind record.Kind, limit int64) error {
			_, err := w.Change(ctx, limiter.Operator, k.id, 0, func(k *record.Key) error { k.Limit[kind] = limit; return nil })
			return err
		}
		refused := func(kind record.Kind, limit int64, want string) {
			t.Helper()
			var invalid *record.InvalidError
			if err := to(kind, limit); !errors.As(err, &invalid) || invalid.Field != kind.LimitField() || !strings.Contains(invalid.Msg, want) {
				t.Errorf("%d generations above it, %s to %d: %v, want %q", depth, kind.LimitField(), limit, err, want)
			}
		}
		refused(record.Tokens, 1000, "2 of them")
		k.use() // as the two mints are
		refused(record.Activations, 82, "83 activations")
		if err := to(record.Activations, 83); err != nil {
			t.Errorf("%d generations above it: lowered to what it and its children have: %v", depth, err)
		}
		for _, c := range children {
			if _, _, err := w.Revoke(ctx, limiter.Operator, c.id, ""); err != nil {
				t.Fatal(err)
			}
		}
		w.settle()
		if err := to(record.Activations, 50); err != nil {
			t.Errorf("%d generations above it: lowered when its children had ended: %v", depth, err)
		}
		w.balance(t)
	}
}

// TestALimitIsLoweredOnceTheWindowIsOverOfWhichTheChildrenHaveTheirs: theirs is none of the
// present one's, unless a change of when the budget renews lets the window go on.
func TestALimitIsLoweredOnceTheWindowIsOverOfWhichTheChildrenHaveTheirs(t *testing.T) {
	t.Parallel()
	for renews, refused := range map[record.Renewal]bool{record.Daily: false, "": true, record.Monthly: true} {
		w := newWorld(t)
		p := w.mint(delegating(renewing(100, record.Daily)))
		p.mustChild(activations(60))
		w.clock.advance(day)
		_, err := w.Change(ctx, limiter.Operator, p.id, 0, func(k *record.Key) error {
			k.Limit[record.Activations], k.Renews = 50, renews
			return nil
		})
		var invalid *record.InvalidError
		if errors.As(err, &invalid) != refused || err != nil && !refused {
			t.Errorf("renewing %q from then on: %v", renews, err)
		}
	}
}
