package limiter_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// What nodes do whose clocks differ: each has the database's time as exactly as it was
// told, so one may be a little behind another.

// withClocks runs a test of two nodes of which the second is a second behind.
func withClocks(t *testing.T, test func(t *testing.T, c *nodes)) {
	t.Helper()
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		c.pass(time.Minute)
		c.Skew(c.w[0].node, time.Second)
		test(t, c)
	})
}

func TestAStringThatWasReplacedIsRefusedByANodeWhoseClockIsBehind(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, w *world, k *key){
		"at once": func(t *testing.T, w *world, k *key) { replace(t, w, k, 0) },
		"after a grace": func(t *testing.T, w *world, k *key) {
			replace(t, w, k, time.Hour)
			if done, err := w.Leak(ctx, limiter.Operator, k.lookup, false, false); err != nil || done.State != limiter.LeakGraceEnded {
				t.Fatal(done, err)
			}
		},
		"by another rotation": func(t *testing.T, w *world, k *key) {
			replace(t, w, k, time.Hour)
			replace(t, w, k, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			withClocks(t, func(t *testing.T, c *nodes) {
				k := c.w[0].mint(activations(10))
				b := k.on(c.w[1])
				if code := b.use(); code != "" {
					t.Fatal(code)
				}
				end(t, c.w[0], k)
				synctest.Wait()
				live, refusal := b.w.Find(ctx, k.lookup)
				if refusal == nil {
					_, refusal = live.Number(live.Key(), k.lookup, netip.Addr{})
				}
				if refusal == nil || refusal.Code != record.CodeKeyRevoked {
					t.Errorf("another node, whose clock is a second behind: %v", refusal)
				}
			})
		})
	}
}

// replace gives a key another string.
func replace(t *testing.T, w *world, k *key, grace time.Duration) {
	t.Helper()
	_, next, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Rotate(limiter.Operator, k.id, record.Issue{Lookup: next}, grace); err != nil {
		t.Fatal(err)
	}
}

// TestNodesForgetNothingAtFirstWhenTheClockIsFarAhead of when any node was there last:
// nobody can tell whether all were off for so long.
func TestNodesForgetNothingAtFirstWhenTheClockIsFarAhead(t *testing.T) {
	for name, test := range map[string]struct {
		nodes   int
		forgets bool
	}{"all were off": {1, false}, "another was there": {2, true}} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, test.nodes, func(t *testing.T, c *nodes) {
				w := c.w[0]
				k := w.mint(activations(1))
				if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				c.pass(365 * day)
				w.open(c.Node(w.node))
				forgotten := func() bool {
					for _, w := range c.w {
						w.SweepEnded()
					}
					synctest.Wait()
					_, err := w.Get(limiter.Operator, k.id)
					return errors.Is(err, store.ErrNotFound)
				}
				if forgotten() != test.forgets {
					t.Errorf("right after the start: forgotten %v", !test.forgets)
				}
				c.pass(day + time.Second)
				if !forgotten() {
					t.Error("a day later it is not forgotten")
				}
			})
		})
	}
}

func TestHistoriesAreClearedOnceAClockThatHadRunAheadIsRepaired(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		w := c.w[0]
		k := w.mint(activations(10))
		old := record.HourKey(k.id, w.Now().Add(-200*day).Truncate(time.Hour).Unix())
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		c.Skew(w.node, 365*day)
		w.open(c.Node(w.node))
		k.use()
		w.SweepIdle()
		synctest.Wait()
		c.Skew(w.node, 0)
		if _, err := w.RepairClock(limiter.Operator); err != nil {
			t.Fatal(err)
		}
		if code := k.use(); code != "" {
			t.Error(code)
		}
		c.Write(t, func(tx store.Tx) error { return tx.Set(old, []byte("{}")) })
		w.SweepIdle()
		synctest.Wait()
		left, err := w.Left(k.id)
		if err != nil || slices.Contains(left, string(old)) {
			t.Errorf("an hour of long ago is kept, %v", err)
		}
	})
}
