package limiter_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// revokeLate revokes a key on a node that is cut off, which becomes durable later, and
// lets another node hear of that later still.
func (c *nodes) revokeLate(k *key, later time.Duration, deaf *world) {
	c.t.Helper()
	k.view() // it has the key in memory
	c.Cut(k.w.node)
	if _, _, err := k.w.Revoke(ctx, limiter.Operator, k.id, ""); !errors.Is(err, store.ErrUnavailable) {
		c.t.Fatalf("a node that is cut off revokes a key: %v", err)
	}
	c.pass(later)
	c.Heal(k.w.node)
	synctest.Wait()
	c.Lose(deaf.node, true)
}

func TestNoNodeAdmitsAKeyThatWasForgotten(t *testing.T) {
	for name, written := range map[string]bool{
		"its revocation is durable since a moment": true,
		"its revocation is not durable yet":        false,
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				k := c.w[0].mint(func(*record.Key) {})
				b := k.on(c.w[1])
				if code := b.use(); code != "" {
					t.Fatal(code)
				}
				c.revokeLate(k, 0, b.w)
				if written {
					k.w.SweepDue()
				}
				if code := b.use(); code != "" {
					t.Fatalf("the other node knows already: %q", code)
				}
				if err := k.w.Forget(ctx, limiter.Operator, k.id); err != nil {
					t.Fatal(err)
				}
				if code := b.use(); code != record.CodeKeyInvalid && code != record.CodeKeyRevoked {
					t.Errorf("another node says %q", code)
				}
			})
		})
	}
}

func TestNoNodeAdmitsAKeyThatWasKeptLongEnough(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		k := others[0].mint(func(*record.Key) {})
		b := k.on(others[1])
		if code := b.use(); code != "" {
			t.Fatal(code)
		}
		c.sweep()
		leads.Retain(time.Hour)
		c.revokeLate(k, 2*time.Hour, b.w)
		k.w.SweepDue()
		if code := b.use(); code != "" {
			t.Fatalf("the other node knows already: %q", code)
		}
		sweeps := 0
		for forgotten := false; !forgotten; sweeps++ {
			if sweeps > 10 {
				t.Fatal("it is not forgotten")
			}
			leads.SweepEnded()
			_, err := leads.Get(limiter.Operator, k.id)
			forgotten = errors.Is(err, store.ErrNotFound)
		}
		if sweeps == 1 {
			t.Error("the first sweep did not leave it for the node that had not heard of its end")
		}
		if code := b.use(); code != record.CodeKeyInvalid && code != record.CodeKeyRevoked {
			t.Errorf("another node says %q", code)
		}
	})
}

// TestForgetsThatFailAtOnceLeaveNothingBehind: a key that two calls could not forget is
// what it was, and can be granted more.
func TestForgetsThatFailAtOnceLeaveNothingBehind(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(1))
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		c.sweep()
		release := make(chan struct{})
		c.Inject(func(string) storetest.Outcome {
			<-release
			return storetest.Refused
		})
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				if err := k.w.Forget(ctx, limiter.Operator, k.id); err == nil {
					t.Error("it is forgotten without a commit")
				}
			})
			synctest.Wait()
		}
		close(release)
		calls.Wait()
		c.Inject(nil)
		if _, err := k.w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 1}); err != nil {
			t.Fatal(err)
		}
		if code := k.use(); code != "" {
			t.Errorf("after it was granted one more: %q", code)
		}
	})
}

func TestASweepWaitsForNoNodeThatIsCutOff(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		k := leads.mint(func(*record.Key) {})
		if _, _, err := leads.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
		leads.Retain(time.Hour)
		c.pass(2 * time.Hour)
		c.Cut(others[0].node)
		leads.mint(func(*record.Key) {}) // which that node does not know
		began := time.Now()
		leads.SweepEnded()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it waited for %s, and a stop with it", took)
		}
		c.pass(time.Minute) // that node's session is over
		leads.SweepEnded()
		if _, err := leads.Get(limiter.Operator, k.id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("it was not forgotten: %v", err)
		}
	})
}

// TestAKeyThatAnotherNodeMayHaveUsedIsNotForgotten: when a key was used last is written
// some seconds later.
func TestAKeyThatAnotherNodeMayHaveUsedIsNotForgotten(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.IdleTimeout = time.Hour })
		b := k.on(c.w[1])
		for _, passes := range []time.Duration{time.Hour - time.Second, 2 * time.Second} {
			if code := k.use(); code != "" {
				t.Fatal(code)
			}
			c.pass(passes)
		}
		if v := b.view(); v.Status != record.Expired {
			t.Fatalf("the node that has not used it says %s", v.Status)
		}
		if err := b.w.Forget(ctx, limiter.Operator, k.id); !errors.Is(err, limiter.ErrAlive) {
			t.Errorf("forgetting it: %v", err)
		}
		if code := k.use(); code != "" {
			t.Errorf("afterwards: %q", code)
		}
	})
}

func TestWhatStillRunsOnAnotherNodeCountsWhenAKeyIsForgotten(t *testing.T) {
	for end, used := range map[string]record.Amounts{
		"it settles":      {record.Activations: 1, record.Tokens: 70},
		"it is cancelled": {},
	} {
		t.Run(end, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				k := c.w[0].mint(func(k *record.Key) { k.Limit[record.Activations] = 10 })
				g, refusal := k.on(c.w[1]).ask(bound(record.Tokens, 100))
				if refusal != nil {
					t.Fatal(refusal)
				}
				if _, _, err := k.w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
					t.Fatal(err)
				}
				if err := k.w.Forget(ctx, limiter.Operator, k.id); !errors.Is(err, limiter.ErrInUse) {
					t.Errorf("while a request of it runs on another node: %v", err)
				}
				if used == (record.Amounts{}) {
					g.Cancel()
				} else {
					g.Settle(used)
				}
				if err := k.w.Forget(ctx, limiter.Operator, k.id); err != nil {
					t.Errorf("when it has ended: %v", err)
				}
				if got := k.w.Stats().Used; got != used {
					t.Errorf("of a key that was forgotten counts %v, want %v", got, used)
				}
				c.sums()
			})
		})
	}
}

// TestWhatIsNotWrittenYetCountsWhenAKeyIsForgotten: a request that began in an earlier
// window has just ended, and only memory knows what it used.
func TestWhatIsNotWrittenYetCountsWhenAKeyIsForgotten(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.Limit[record.Activations], k.Renews = 10, record.Daily })
		g, refusal := k.ask(bound(record.Tokens, 100))
		if refusal != nil {
			t.Fatal(refusal)
		}
		c.pass(24 * time.Hour)
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		if _, _, err := k.w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
		g.Settle(record.Amounts{record.Activations: 1, record.Tokens: 70})
		if err := k.w.Forget(ctx, limiter.Operator, k.id); err != nil {
			t.Fatal(err)
		}
		if got, want := k.w.Stats().Used, (record.Amounts{record.Activations: 2, record.Tokens: 70}); got != want {
			t.Errorf("of a key that was forgotten counts %v, want %v", got, want)
		}
		c.sums()
	})
}
