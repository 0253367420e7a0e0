package limiter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestANodeWhoseRemovalWasRefusedIsOpenedAgainWithWhatItHasUsedSince: its parts were folded
// before it came back, and not those that it has begun since.
func TestANodeWhoseRemovalWasRefusedIsOpenedAgainWithWhatItHasUsedSince(t *testing.T) {
	const limit, requests, each = 100, 30, 50
	for name, finds := range map[string]bool{"led elsewhere": false, "when it finds that its parts were folded": true} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				a, b := c.w[0], c.w[1]
				if err := a.Close(); err != nil {
					t.Fatal(err)
				}
				a.open(comingBack{c.Node(a.node), c, b.node})
				before := a.mint(activations(1000))
				if _, refusal := before.on(b).ask(); refusal != nil {
					t.Fatal(refusal)
				}
				c.settle()
				c.Cut(b.node)
				c.pass(30 * time.Second)
				if _, err := a.RemoveNode(ctx, limiter.Operator, b.node); !errors.Is(err, limiter.ErrNodeLives) {
					t.Fatalf("it is alive, and was removed: %v", err)
				}

				since := a.mint(func(k *record.Key) { k.Limit[record.Tokens], k.Role = 1_000_000, "ci" })
				var running []*limiter.Grant
				for range requests {
					g, refusal := since.on(b).ask(bound(record.Tokens, each))
					if refusal != nil {
						t.Fatal(refusal)
					}
					running = append(running, g)
				}
				end := func(n int, used record.Amounts) {
					for _, g := range running[:n] {
						g.Settle(used)
					}
					running = running[n:]
				}
				c.Cut(b.node) // so that what these have used cannot be saved
				end(10, record.Amounts{record.Activations: 1, record.Tokens: 7})
				former := b.Limiter
				if finds {
					c.Heal(b.node)
					for b.Failed() == nil {
						before.on(b).use()
						c.pass(time.Second)
					}
				}
				t.Log(former.Close())
				c.Heal(b.node)
				if err := b.follow(former, c.Node(b.node)); err != nil {
					t.Fatal(err)
				}
				end(10, record.Amounts{record.Activations: 1, record.Tokens: 7})
				end(10, record.Amounts{})
				c.sweep()
				if used := since.view().Used; used[record.Activations] != 20 || used[record.Tokens] != 20*7 {
					t.Errorf("20 requests have used 140 tokens, and %d and %d count as used", used[record.Activations], used[record.Tokens])
				}
				if n := 20 + c.drain(since, record.CodeActivationsExhausted, bound(record.Tokens, 1)); n != limit {
					t.Errorf("%d forwarded of a role's budget of %d", n, limit)
				}
				c.sweep()
				used, err := a.Usage(ctx, limiter.Operator, since.id)
				if err != nil || len(used.Days) != 1 || used.Days[0].Activations != limit {
					t.Errorf("%d requests were made, and the key's history is %+v, %v", limit, used.Days, err)
				}
			}, func(w *world) {
				w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{limit, -1, -1, -1}}}}
			})
		})
	}
}
