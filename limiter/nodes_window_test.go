package limiter_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func TestAWindowThatOneNodeHasBegunIsNotBegunAgainByAnother(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(renewing(10, record.Daily))
		a, b := k, k.on(c.w[1])
		for range 3 {
			a.use()
			b.use()
		}
		for day := range 3 {
			c.pass(24 * time.Hour)
			for range 7 {
				if code := a.use(); code != "" {
					t.Fatalf("day %d: %s", day, code)
				}
			}
			n := 7 + b.drain(record.CodeActivationsExhausted)
			if n > 10 {
				t.Errorf("day %d: %d forwarded of 10", day, n)
			}
			c.settle()
		}
	})
}

func TestAWindowInWhichARoleWasUsedFirstIsNotBegunAgainByAnotherNode(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.Role = "ci" })
		a, b := k, k.on(c.w[1])
		b.view() // it is in the first window, in which neither used it
		c.pass(24 * time.Hour)
		c.restartKilled(a.w, false)
		for range 30 {
			if code := a.use(); code != "" {
				t.Fatal(code)
			}
		}
		if n := 30 + b.drain(record.CodeActivationsExhausted); n > 50 {
			t.Errorf("%d forwarded of 50", n)
		}
		c.settle()
	}, func(w *world) {
		w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{50, -1, -1, -1}, Renews: record.Daily}}}
	})
}

func TestANodeThatWasWrittenOffInAWindowThatIsOverGoesOnInTheNext(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(renewing(60, record.Daily))
		a, b := k, k.on(c.w[1])
		running, refusal := a.ask()
		if refusal != nil {
			t.Fatal(refusal)
		}
		synctest.Wait()
		c.Cut(a.w.node)
		c.pass(11 * time.Second)
		time.Sleep(2 * time.Second) // the other finds out that it is gone
		b.drain(record.CodeActivationsExhausted)
		running.Cancel() // it was not used after all
		c.pass(24 * time.Hour)
		if code := b.use(); code != "" {
			t.Fatal(code)
		}
		c.Heal(a.w.node)
		synctest.Wait()
		if n := 1 + c.drain(k, record.CodeActivationsExhausted); n != 60 {
			t.Errorf("%d forwarded in the next window, want 60", n)
		}
		c.settle()
	})
}

func TestABlockIsNotTakenInAWindowThatIsOver(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(renewing(10, record.Daily))
		a, b := k, k.on(c.w[1])
		running, refusal := b.ask() // goes on past midnight
		if refusal != nil {
			t.Fatal(refusal)
		}
		c.pass(24 * time.Hour)
		if n := a.drain(record.CodeActivationsExhausted); n != 10 {
			t.Errorf("%d forwarded, want 10", n)
		}
		running.Settle(record.Amounts{record.Activations: 1})
		if n := c.drain(k, record.CodeActivationsExhausted); n != 0 {
			t.Errorf("%d more forwarded", n)
		}
		c.sweep()
		if v := a.view(); v.Used[0] != 10 || v.Past[0] != 1 {
			t.Errorf("%d used and %d before, want 10 and 1", v.Used[0], v.Past[0])
		}
	})
}

func TestABudgetThatBeginsToRenewOnOneNodeGoesOnOnTheOthers(t *testing.T) {
	for name, from := range map[string]record.Renewal{"never": "", "weekly": record.Weekly} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				k := c.w[0].mint(renewing(10, from))
				for range 3 {
					for _, w := range c.w {
						if code := k.on(w).use(); code != "" {
							t.Fatal(code)
						}
					}
				}
				running, refusal := k.on(c.w[1]).ask()
				if refusal != nil {
					t.Fatal(refusal)
				}
				if _, err := c.w[0].Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error {
					key.Renews = record.Daily
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				running.Settle(record.Amounts{record.Activations: 1})
				if n := c.drain(k, record.CodeActivationsExhausted); n != 3 {
					t.Errorf("%d more forwarded, want 3", n)
				}
				c.sweep()
				for _, w := range c.w {
					if v := k.on(w).view(); v.Used[0] != 10 || v.Past[0] != 0 {
						t.Errorf("%s: %d used and %d before, want 10 and 0", w.node, v.Used[0], v.Past[0])
					}
				}
				c.pass(24 * time.Hour)
				if n := c.drain(k, record.CodeActivationsExhausted); n != 10 {
					t.Errorf("%d forwarded in the next window, want 10", n)
				}
				c.settle()
			})
		})
	}
}

// A node that starts when nobody has used a role yet is in the present window; another
// may then write that the role was last in a former one.
func TestARolesFirstBlockIsNotTakenInAWindowThatIsOver(t *testing.T) {
	roles := map[string]record.Role{"night": {Budget: record.RoleBudget{Limit: record.Amounts{20, -1, -1, -1}, Renews: record.Daily}}}
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		c.pass(24 * time.Hour)
		c.restartKilled(c.w[0], false)
		c.restartClean(c.w[1])
		k := c.w[0].mint(func(k *record.Key) { k.Role = "night" })
		n := int64(0)
		for range 3 {
			if code := k.use(); code != "" {
				t.Fatal(code)
			}
			n++
		}
		if n += c.drain(k.on(c.w[1]), record.CodeActivationsExhausted); n != 20 {
			t.Errorf("%d forwarded in one window, want 20", n)
		}
	}, func(w *world) { w.roles = roles })
}

func TestWhatAChildLeavesGoesBackAlsoOnANodeThatItsParentWasNotChangedOn(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		p := c.w[0].mint(delegating(activations(1000)))
		child := p.mustChild(activations(500)).on(c.w[1])
		if code := child.use(); code != "" {
			t.Fatal(code)
		}
		renewsDaily(t, p)
		if _, _, err := c.w[1].Revoke(ctx, limiter.Operator, child.id, ""); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if n := c.drain(p, record.CodeActivationsExhausted); n != 998 {
			t.Errorf("%d forwarded, want 998: 1000 less the mint and one use", n)
		}
		c.settle()
	})
}
