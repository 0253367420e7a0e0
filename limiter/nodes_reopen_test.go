package limiter_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// What other nodes and the figures say of requests that run on a node while it opens its
// store again. That it knows what they hold is in takeover_test.go.

// heldElsewhere is a budget of which node-a has spent some and holds some, and of which
// node-b has taken the rest.
type heldElsewhere struct {
	roles map[string]record.Role
	set   func(*record.Key)
	kind  record.Kind
	spent record.Code // the final refusal
}

func heldBudgets() map[string]heldElsewhere {
	const tokens, activation = record.Tokens, record.Activations
	all := map[string]heldElsewhere{
		"a key's tokens": {set: func(k *record.Key) { k.Limit[tokens] = 100 }, kind: tokens, spent: record.CodeTokensExhausted},
		"a key's activations": {set: func(k *record.Key) { k.Limit[activation], k.Charge = 3, record.ChargeSuccess },
			kind: activation, spent: record.CodeActivationsExhausted},
		"the tokens of a key's present window": {set: func(k *record.Key) { k.Limit[tokens], k.Renews = 100, record.Daily },
			kind: tokens, spent: record.CodeTokensExhausted},
		"a role's tokens": {set: func(k *record.Key) { k.Role = "ci" }, kind: tokens, spent: record.CodeTokensExhausted,
			roles: map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{-1, 100, -1, -1}}}}},
	}
	return all
}

// take lets both nodes take all of a budget, and returns the request that runs, and what it
// may use.
func (h *heldElsewhere) take(t *testing.T, a, b *key) (running *limiter.Grant, held record.Amounts) {
	t.Helper()
	amounts := [...]int64{20, 50, 30}
	if h.kind == record.Activations {
		amounts = [...]int64{1, 1, 1}
	}
	for i, k := range []*key{a, a, b} {
		g, refusal := k.ask(bound(h.kind, amounts[i]))
		if refusal != nil {
			t.Fatal(refusal)
		}
		used := record.Amounts{record.Activations: 1}
		if used[h.kind] = amounts[i]; i == 1 {
			running, held = g, used
		} else {
			g.Settle(used)
		}
	}
	return running, held
}

// reopened closes a node and opens it again with what runs on it; between happens when
// neither is open.
func (c *nodes) reopened(w *world, between func()) {
	c.t.Helper()
	former := w.Limiter
	if err := former.Close(); err != nil {
		c.t.Fatal(err)
	}
	between()
	if err := w.follow(former, c.Node(w.node)); err != nil {
		c.t.Fatal(err)
	}
	c.pass(100 * time.Millisecond) // others no longer believe what they have read before
}

// forfeited checks what the nodes say together that crashes have made count as used.
func (c *nodes) forfeited(want int64) {
	c.t.Helper()
	got := int64(0)
	for _, w := range c.w {
		got += w.Stats().Forfeited
	}
	if got != want {
		c.t.Errorf("%d activations are forfeited, want %d", got, want)
	}
}

func TestWhatRunsOnANodeThatIsOpenedAgainIsNotSpentForOthers(t *testing.T) {
	for name, h := range heldBudgets() {
		for answer, settle := range map[string]func(*limiter.Grant, record.Amounts) (left bool){
			"is cancelled": func(g *limiter.Grant, _ record.Amounts) bool { g.Cancel(); return true },
			"uses all":     func(g *limiter.Grant, held record.Amounts) bool { g.Settle(held); return false },
		} {
			t.Run(name+" "+answer, func(t *testing.T) {
				withNodes(t, 2, func(t *testing.T, c *nodes) {
					a := c.w[0].mint(h.set)
					b := a.on(c.w[1])
					running, held := h.take(t, a, b)
					c.settle()
					c.reopened(c.w[0], func() {})
					if code := b.use(bound(h.kind, held[h.kind])); code != record.CodeBudgetHeld {
						t.Errorf("while a request on the other node holds the rest: %q, want %q", code, record.CodeBudgetHeld)
					}
					left := settle(running, held)
					c.sweep()
					want := h.spent
					if left {
						want = ""
					}
					if code := b.use(bound(h.kind, held[h.kind])); code != want {
						t.Errorf("once that has ended: %q, want %q", code, want)
					}
					c.settle()
					c.forfeited(0)
				}, func(w *world) { w.roles = h.roles })
			})
		}
	}
}

// TestAnAnswerThatEndsWhileItsNodeIsClosedIsKnownToOthers: only the node's memory knows of it.
func TestAnAnswerThatEndsWhileItsNodeIsClosedIsKnownToOthers(t *testing.T) {
	for name, h := range heldBudgets() {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				a := c.w[0].mint(h.set)
				b := a.on(c.w[1])
				running, held := h.take(t, a, b)
				c.settle()
				c.reopened(c.w[0], func() { running.Settle(held) })
				if code := b.use(bound(h.kind, held[h.kind])); code != h.spent {
					t.Errorf("%q, want %q", code, h.spent)
				}
				c.forfeited(0)
			}, func(w *world) { w.roles = h.roles })
		})
	}
}

func TestWhatRanOnANodeThatCrashedIsSpent(t *testing.T) {
	for name, h := range heldBudgets() {
		for _, power := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", power ", power), func(t *testing.T) {
				withNodes(t, 2, func(t *testing.T, c *nodes) {
					a := c.w[0].mint(h.set)
					b := a.on(c.w[1])
					_, held := h.take(t, a, b)
					c.settle()
					c.restartKilled(c.w[0], power)
					c.pass(100 * time.Millisecond)
					if code := b.use(bound(h.kind, held[h.kind])); code != h.spent {
						t.Errorf("%q, want %q", code, h.spent)
					}
				}, func(w *world) { w.roles = h.roles })
			})
		}
	}
}
