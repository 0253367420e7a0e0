package limiter_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// sums holds what the nodes say of all keys against the accounts in the store.
func (c *nodes) sums() {
	c.t.Helper()
	c.sweep() // nothing is reserved and unused
	var want record.Amounts
	keys := make(map[record.Status]int64)
	err := c.View(func(r store.Reader) error {
		return r.Scan([]byte(record.SpaceKeys), nil, false, func(_, value []byte) (bool, error) {
			key, err := record.DecodeKey(value)
			if err != nil {
				return false, err
			}
			_, acct, err := record.ReadKey(r, key.ID)
			want.Add(acct.Counted())
			keys[key.Recorded()]++
			return true, err
		})
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, w := range c.w {
		s := w.Stats()
		if got := s.Used.Minus(s.Forgotten); s.Unread != nil || got != want {
			c.t.Errorf("%s says that %v was used, and the accounts %v; %v", w.node, got, want, s.Unread)
		}
		for status, n := range s.Keys {
			if n != keys[status] {
				c.t.Errorf("%s says that %d keys are %s, and there are %d", w.node, n, status, keys[status])
			}
		}
	}
}

func TestTheSumOverKeysIsTheSameOnAllNodes(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		var keys []*key
		for i, w := range c.w {
			keys = append(keys, w.mint(func(k *record.Key) {
				k.Limit[record.Activations], k.Limit[record.Tokens] = 50, 1000
				if i == 2 {
					k.Limit = record.NoLimits()
				}
			}))
		}
		for _, k := range keys {
			for i, w := range c.w {
				for range 3 + i {
					g, refusal := k.on(w).ask(bound(record.Tokens, 10))
					if refusal != nil {
						t.Fatal(refusal)
					}
					g.Settle(record.Amounts{record.Activations: 1, record.Tokens: 7})
				}
			}
		}
		c.sums()
		if n := c.w[1].Stats().Used[record.Activations]; n != 36 {
			t.Errorf("%d activations in all, want 36", n)
		}
		c.restartKilled(c.w[0], true)
		c.sums()
		c.restartClean(c.w[1])
		c.sums()
		if _, _, err := c.w[0].Revoke(ctx, limiter.Operator, keys[0].id, ""); err != nil {
			t.Fatal(err)
		}
		before := c.w[2].Stats()
		if err := c.w[2].Forget(ctx, limiter.Operator, keys[0].id); err != nil {
			t.Fatal(err)
		}
		c.sums()
		after := c.w[1].Stats()
		if after.Used != before.Used || after.Forgotten == before.Forgotten || after.Keys[record.Revoked] != 0 {
			t.Errorf("before a key was forgotten: %+v, after: %+v", before, after)
		}
		c.Advance(2 * time.Minute)
		c.settle()
		for _, w := range c.w {
			w.SweepAdmin() // other nodes have heard of it by now
		}
		if left, err := c.w[2].Left(keys[0].id); err != nil || len(left) > 0 {
			t.Errorf("of the key is left: %q, %v", left, err)
		}
		// Keys that one node mints and another ends.
		for i := range 6 {
			k := c.w[i%3].mint(activations(1))
			if _, _, err := c.w[(i+1)%3].Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
				t.Fatal(err)
			}
		}
		c.sums()
	})
}

func TestSumsThatCannotBeReadAreThoseOfBefore(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		c.w[0].mint(activations(1))
		before := c.w[1].Stats()
		c.Cut(c.w[1].node)
		s := c.w[1].Stats()
		if !errors.Is(s.Unread, store.ErrUnavailable) || s.Keys[record.Active] != before.Keys[record.Active] || before.Keys[record.Active] != 1 {
			t.Errorf("%+v, before %+v", s, before)
		}
		c.Heal(c.w[1].node)
	})
}

// TestAnOverdraftBelongsToAPartOnceItIsReserved: what a node has spent is never more than
// what it has reserved in the books, also while it records that it has ended a key.
func TestAnOverdraftBelongsToAPartOnceItIsReserved(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.Limit[record.Tokens] = 1000 })
		g, refusal := k.ask(bound(record.Tokens, 60))
		if refusal != nil {
			t.Fatal(refusal)
		}
		release := make(chan struct{})
		c.Inject(func(string) storetest.Outcome {
			<-release
			return storetest.Committed
		})
		asked := make(chan record.Code)
		go func() { asked <- k.use(bound(record.Tokens, 900)) }()
		synctest.Wait() // the block for it is being committed
		g.Settle(record.Amounts{record.Activations: 1, record.Tokens: 1500})
		c.Inject(nil)
		close(release)
		if code := <-asked; code != record.CodeTokensExhausted {
			t.Errorf("a request that waited: %q", code)
		}
		synctest.Wait()
		if err := c.View(limiter.CheckParts); err != nil {
			t.Error(err)
		}
		c.sums()
		if v := k.on(c.w[1]).view(); v.Used[record.Tokens] != 1500 {
			t.Errorf("the other node says that %d were used", v.Used[record.Tokens])
		}
	})
}
