package limiter_test

import (
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// What comes back after it was removed.

// TestWhatARemovedNodeHasUsedIsInAKeysHistoryOnceIfItsProcessLives: the removal has put there
// what the node had not saved.
func TestWhatARemovedNodeHasUsedIsInAKeysHistoryOnceIfItsProcessLives(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		k := a.mint(activations(100))
		for range 30 {
			if code := k.on(b).use(); code != "" {
				t.Fatal(code)
			}
		}
		c.Cut(b.node)
		c.pass(30 * time.Second)
		if _, err := a.RemoveNode(ctx, limiter.Operator, b.node); err != nil {
			t.Fatal(err)
		}
		c.Heal(b.node)
		if err := b.succeed(nil); err != nil {
			t.Fatal(err)
		}
		c.drain(k, record.CodeActivationsExhausted)
		c.sweep()
		used, err := a.Usage(limiter.Operator, k.id)
		if err != nil || len(used.Days) != 1 || used.Days[0].Activations != 100 {
			t.Errorf("a key that has used 100 has %+v in its history, %v", used.Days, err)
		}
	})
}

// TestWhatANodeHasUsedCountsOnceIfItWasContradictedAndThenRemoved: the removal has counted it, so
// what the node knows is not counted on top of that.
func TestWhatANodeHasUsedCountsOnceIfItWasContradictedAndThenRemoved(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		const limit = 100
		a, b := c.w[0], c.w[1]
		k, other := a.mint(activations(limit)), a.mint(activations(limit)).on(b)
		for range 30 {
			if code := k.on(b).use() + other.use(); code != "" {
				t.Fatal(code)
			}
		}
		c.contradict(other)
		former := b.Limiter
		t.Log(former.Close())
		part, err := c.partOf(k.id, b.node)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.RemoveNode(ctx, limiter.Operator, b.node); err != nil {
			t.Fatal(err)
		}
		if err := b.follow(former, c.Node(b.node)); err != nil {
			t.Fatal(err)
		}
		c.sweep()
		if n := part.Reserved[record.Activations] + c.drain(k, record.CodeActivationsExhausted); n != limit {
			t.Errorf("%d requests of %d, with %d that were folded", n, limit, part.Reserved[record.Activations])
		}
	})
}

// TestWhatRanOnARemovedNodeIsInAKeysHistoryOnceIfItEndsInTheNextWindow: the removal has put
// there all that it held, also if another node had begun that window before.
func TestWhatRanOnARemovedNodeIsInAKeysHistoryOnceIfItEndsInTheNextWindow(t *testing.T) {
	for name, first := range map[string]bool{"that begins before the removal": true, "that begins after it": false} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				a, b := c.w[0], c.w[1]
				k := a.mint(func(k *record.Key) { k.Limit[record.Activations], k.Renews = 100, record.Daily })
				running, refusal := k.on(b).ask()
				if refusal != nil {
					t.Fatal(refusal)
				}
				c.settle()
				c.Cut(b.node)
				part, err := c.partOf(k.id, b.node)
				if err != nil {
					t.Fatal(err)
				}
				reserved := part.Reserved[record.Activations]
				begin := func() {
					c.pass(24 * time.Hour)
					if code := k.on(a).use(); code != "" {
						t.Fatal(code)
					}
				}
				if first {
					begin()
				}
				c.pass(30 * time.Second)
				if _, err := a.RemoveNode(ctx, limiter.Operator, b.node); err != nil {
					t.Fatal(err)
				}
				if !first {
					begin()
				}
				c.Heal(b.node)
				if err := b.succeed(nil); err != nil {
					t.Fatal(err)
				}
				running.Settle(record.Amounts{record.Activations: 1})
				c.sweep()
				used, err := a.Usage(limiter.Operator, k.id)
				n := int64(0)
				for _, day := range used.Days {
					n += day.Activations
				}
				if err != nil || n != reserved+1 {
					t.Errorf("a key of which %d were reserved, and then 1 was used, has %+v in its history, %v", reserved, used.Days, err)
				}
			})
		})
	}
}
