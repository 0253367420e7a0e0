package limiter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestANodeThatIsOpenedAgainWhileItIsRemovedGoesOnWithThePartsThatItHas: its removal is
// refused from then on, and has folded some of its parts.
func TestANodeThatIsOpenedAgainWhileItIsRemovedGoesOnWithThePartsThatItHas(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		const keys, limit, each = 100, 10, 50 // more keys than are folded in one transaction
		a, b := c.w[0], c.w[1]
		by := a.removes(c)
		type use struct {
			k       *key
			running []*limiter.Grant
			folded  bool
		}
		var all []*use
		end := func(u *use, used record.Amounts) {
			u.running[0].Settle(used)
			u.running = u.running[1:]
		}
		for range keys {
			u := &use{k: a.mint(func(k *record.Key) { k.Limit[record.Activations], k.Limit[record.Tokens] = limit, 1_000_000 })}
			for range 3 {
				g, refusal := u.k.on(b).ask(bound(record.Tokens, each))
				if refusal != nil {
					t.Fatal(refusal)
				}
				u.running = append(u.running, g)
			}
			all = append(all, u)
		}
		c.settle()
		c.Cut(b.node) // so that what these have used cannot be saved
		for _, u := range all {
			end(u, record.Amounts{record.Activations: 1, record.Tokens: 7})
		}
		c.pass(30 * time.Second)
		by.then = func() {
			for _, u := range all {
				part, err := c.partOf(u.k.id, b.node)
				if err != nil {
					t.Error(err)
				}
				u.folded = part.Reserved == record.Amounts{}
			}
			c.Heal(b.node)
			former := b.Limiter
			t.Log(former.Close())
			if err := b.follow(former, c.Node(b.node)); err != nil {
				t.Error(err)
			}
		}
		by.when = func() bool { return c.folded(b.node) }
		if _, err := a.RemoveNode(ctx, limiter.Operator, b.node); !errors.Is(err, limiter.ErrNodeLives) {
			t.Fatalf("it is open again, and was removed: %v", err)
		}
		for _, u := range all {
			end(u, record.Amounts{record.Activations: 1, record.Tokens: 7})
			end(u, record.Amounts{})
		}
		c.sweep()
		n := 0
		for _, u := range all {
			used := u.k.view().Used
			switch activations, tokens := used[record.Activations], used[record.Tokens]; {
			case u.folded:
				if n++; activations < 2 || tokens < 2*7 {
					t.Errorf("a key whose part was folded has used %d of 2 requests, and %d of 14 tokens", activations, tokens)
				}
			case activations != 2 || tokens != 2*7:
				t.Errorf("2 requests have used 14 tokens, and %d and %d count as used", activations, tokens)
			}
			if n := c.drain(u.k, record.CodeActivationsExhausted, bound(record.Tokens, 1)); used[record.Activations]+n != limit {
				t.Errorf("%d forwarded of a key of %d that had used %d", n, limit, used[record.Activations])
			}
		}
		if n == 0 || n == keys {
			t.Fatalf("the parts of %d keys were folded, of %d", n, keys)
		}
		c.sweep()
		for _, u := range all {
			used, err := a.Usage(limiter.Operator, u.k.id)
			if err != nil || len(used.Days) != 1 || used.Days[0].Activations != limit {
				t.Errorf("a key that has used %d has %+v in its history, %v", limit, used.Days, err)
			}
		}
	})
}
