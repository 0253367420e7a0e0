package limiter_test

import (
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// agree holds the sum over all keys against the store's, and the indexes against
// the records.
func (w *world) agree(t interface{ Fatalf(string, ...any) }) {
	if err := w.Ping(ctx); err != nil { // what is on its way has arrived
		t.Fatalf("%v", err)
	}
	page, err := w.List(ctx, limiter.Operator, limiter.Filter{Limit: 500})
	if err != nil || page.Next != "" {
		t.Fatalf("listing: next %q, %v", page.Next, err)
	}
	if err := w.CheckIndexes(); err != nil {
		t.Fatalf("%v", err)
	}
	s := w.Stats()
	sum := s.Forgotten
	for _, v := range page.Keys {
		for i := range sum {
			sum[i] += v.Used[i] + v.Past[i]
		}
	}
	if sum != s.Used {
		t.Fatalf("all keys used %v, the store says %v", sum, s.Used)
	}
}

func TestTheSumOverKeysIsTheStoresTotalAlsoWhenKeysAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 6 {
		k := w.mint(func(k *record.Key) {
			k.Limit[record.Activations], k.Limit[record.Tokens] = 5, 1000
			if i%2 == 0 {
				k.Limit = record.NoLimits()
			}
			if i == 3 {
				k.Renews = record.Daily
			}
		})
		for range 5 {
			g, refusal := k.ask(bound(record.Tokens, 100))
			if refusal != nil {
				t.Fatal(refusal)
			}
			g.Measured(record.TokenKinds{Input: 40, Output: int64(i)})
			g.Settle(record.Amounts{record.Activations: 1, record.Tokens: 40 + int64(i)})
			w.agree(t)
		}
		if v := k.view(); v.Kinds != (record.TokenKinds{Input: 200, Output: int64(5 * i)}) {
			t.Errorf("tokens by kind: %+v", v.Kinds)
		}
		if i > 3 {
			if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
				t.Fatal(err)
			}
			if err := w.Forget(ctx, limiter.Operator, k.id); err != nil {
				t.Fatal(err)
			}
		}
		w.agree(t)
	}
	before := w.Stats().Used
	if before[record.Activations] != 30 {
		t.Errorf("%d activations in all, want 30", before[record.Activations])
	}
	w.clock.advance(25 * time.Hour)
	w.SweepActive()
	w.agree(t)
	w.restart()
	w.agree(t)
	if after := w.Stats().Used; after != before {
		t.Errorf("%v before the restart, %v after", before, after)
	}
}
