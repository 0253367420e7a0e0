package limiter_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

func TestANodeThatHasJustComeBackIsNotTakenForGone(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(2))
		a, b := k, k.on(c.w[1])
		if code := a.use(); code != "" {
			t.Fatal(code)
		}
		if err := b.w.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond) // a knows that it is gone
		b.w.open(c.Node(b.w.node))
		running, refusal := b.ask()
		if refusal != nil {
			t.Fatal(refusal)
		}
		if code := a.use(); code != record.CodeBudgetHeld {
			t.Errorf("while the other node holds the last activation: %q", code)
		}
		synctest.Wait()
		if cut := running.Cut(); cut != nil {
			t.Errorf("a request that runs was cut: %v", cut)
		}
		running.Cancel()
		if n := c.drain(k, record.CodeActivationsExhausted); n != 1 {
			t.Errorf("%d more forwarded, want 1", n)
		}
	})
}

// beginning is a node at which something happens just before a transaction that all others
// wait for.
type beginning struct {
	store.Shared
	meanwhile *func()
}

// Update implements store.Store.
func (s beginning) Update(fn func(store.Tx) error) error {
	if do := *s.meanwhile; do != nil {
		*s.meanwhile = nil
		do()
	}
	return s.Shared.Update(fn)
}

func TestANodeThatComesBackWhileItsReserveIsWrittenOffKeepsIt(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		var meanwhile func()
		a.open(beginning{c.Node(a.node), &meanwhile})
		k := a.mint(activations(3))
		var held [2]*limiter.Grant
		for i := range held {
			var refusal *record.Refusal
			if held[i], refusal = k.on(b).ask(); refusal != nil {
				t.Fatal(refusal)
			}
		}
		held[0].Cancel() // its shadow knows that, and the database does not
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		c.Kill(b.node)
		b.Abandon()
		c.pass(15 * time.Second)
		time.Sleep(3 * time.Second) // a knows that it is gone
		var running *limiter.Grant
		meanwhile = func() {
			b.boot(false)
			b.open(c.Node(b.node))
			var refusal *record.Refusal
			if running, refusal = k.on(b).ask(); refusal != nil {
				t.Error(refusal)
			}
		}
		code := k.use()
		if running == nil {
			t.Fatalf("nothing was written off: %q", code)
		}
		if code != record.CodeBudgetHeld {
			t.Errorf("while the other node holds the last activation: %q", code)
		}
		running.Cancel()
		if n := c.drain(k, record.CodeActivationsExhausted); n != 1 {
			t.Errorf("%d more forwarded, want 1", n)
		}
	})
}

func TestWhatANodeHadReservedOfARoleThatItNoLongerKnowsCountsAsSpent(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.Role = "ci" })
		a, b := k, k.on(c.w[1])
		for range 5 {
			if code := b.use(); code != "" {
				t.Fatal(code)
			}
		}
		if _, refusal := b.ask(); refusal != nil {
			t.Fatal(refusal)
		}
		b.w.roles = nil
		c.restartKilled(b.w, true)
		n := 0
		for held := 0; held < 20; {
			switch code := a.use(); code {
			case "":
				n++
			case record.CodeBudgetHeld:
				held++
				c.sweep()
			case record.CodeActivationsExhausted:
				if n > 44 {
					t.Errorf("%d forwarded besides 6", n)
				}
				return
			default:
				t.Fatal(code)
			}
		}
		t.Errorf("after %d requests: what a node had reserved is held for ever", n)
	}, func(w *world) {
		w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{50, -1, -1, -1}}}}
	})
}

// alone is a node whose transactions are counted for which all others wait.
type alone struct {
	store.Shared
	n *atomic.Int64
}

// Update implements store.Store.
func (s alone) Update(fn func(store.Tx) error) error {
	s.n.Add(1)
	return s.Shared.Update(fn)
}

func TestANodeThatIsGoneForGoodHoldsUpNobody(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		a, gone := c.w[0], c.w[2]
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		var n atomic.Int64
		a.open(alone{c.Node(a.node), &n})
		k := a.mint(activations(2))
		if code := k.on(gone).use(); code != "" {
			t.Fatal(code)
		}
		if err := gone.Close(); err != nil {
			t.Fatal(err)
		}
		if _, refusal := k.on(c.w[1]).ask(); refusal != nil {
			t.Fatal(refusal)
		}
		time.Sleep(2 * time.Second) // all know that it is gone
		n.Store(0)
		for range 20 {
			if code := k.use(); code != record.CodeBudgetHeld {
				t.Fatal(code)
			}
		}
		if n.Load() > 0 {
			t.Errorf("20 refusals made all nodes wait %d times", n.Load())
		}
	})
}
