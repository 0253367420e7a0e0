package limiter_test

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// What a node must not believe of what it knows of the others.

// looking is a node on which something happens in the middle of a look at a budget.
type looking struct {
	store.Shared
	meanwhile *func()
}

// View implements store.Store.
func (s looking) View(fn func(store.Reader) error) error {
	return s.Shared.View(func(r store.Reader) error { return fn(lookingReader{r, s.meanwhile}) })
}

type lookingReader struct {
	store.Reader
	meanwhile *func()
}

// Get implements store.Reader.
func (r lookingReader) Get(key []byte) ([]byte, error) {
	v, err := r.Reader.Get(key)
	if bytes.HasPrefix(key, []byte(record.SpaceParts)) {
		if do := *r.meanwhile; do != nil {
			*r.meanwhile = nil
			do()
		}
	}
	return v, err
}

func TestAViewThatIsOldDoesNotBringAFormerLimitBack(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		w := c.w[0]
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var meanwhile func()
		w.open(looking{c.Node(w.node), &meanwhile})
		k := w.mint(activations(10_000))
		var used int64
		for ; used < 1000; used++ { // until more is reserved than is used
			if code := k.use(); code != "" {
				t.Fatal(code)
			}
			c.Advance(time.Millisecond)
			if memory, _, err := w.Reserved(k.id); err != nil || used > 100 && memory[record.Activations] > used+10 {
				break
			}
		}
		used++
		meanwhile = func() { k.limitTo(used + 1) }
		k.view()
		n := int64(0)
		for n < 100 && k.use() == "" {
			n++
		}
		if n != 1 {
			t.Errorf("%d forwarded after the limit was lowered, want 1", n)
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
			b.disk = b.disk.Restarted(false, func() bool { return true })
			b.files = b.disk.Files()
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

func TestALimitThatIsSetLaterIsFeltByANodeThatHasUsedMore(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(*record.Key) {})
		a, b := k, k.on(c.w[1])
		for range 10 {
			for range 2 {
				if code := b.use(); code != "" {
					t.Fatal(code)
				}
			}
			if code := a.use(); code != "" {
				t.Fatal(code)
			}
		}
		held := make(chan struct{})
		c.Inject(func(node string) storetest.Outcome {
			if node == b.w.node {
				<-held
			}
			return storetest.Committed
		})
		limited := make(chan struct{})
		go func() {
			defer close(limited)
			a.limitTo(40)
		}()
		synctest.Wait()
		select {
		case <-limited:
			t.Error("it is answered before what another node has used is written")
		default:
		}
		close(held)
		<-limited
		n := int64(30)
		for range 40 {
			if a.use() == "" {
				n++
			}
		}
		if n += b.drain(record.CodeActivationsExhausted); n != 40 {
			t.Errorf("%d forwarded, want 40", n)
		}
	})
}

func TestAChangeIsFeltOnAllNodesWhenItIsAnswered(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(100))
		b := k.on(c.w[1])
		if code := b.use(); code != "" {
			t.Fatal(code)
		}
		c.Lose(b.w.node, true)
		if _, err := c.w[0].Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error {
			key.Scope.Methods = []string{"GET"}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if code := b.use(); code == "" {
			t.Error("a request is admitted that the scope no longer allows")
		}
	})
}

func TestALookLeavesNothingReserved(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.Limit[record.Activations], k.IdleTimeout = 100, time.Hour })
		c.pass(2 * time.Hour)
		if code := k.use(); code != record.CodeKeyIdle {
			t.Errorf("a key that was not used for too long: %q", code)
		}
		c.sweep()
		if memory, stored, err := k.w.Reserved(k.id); err != nil || memory[record.Activations] != 0 || stored[record.Activations] != 0 {
			t.Errorf("%d are reserved in memory and %d in the store, %v", memory[record.Activations], stored[record.Activations], err)
		}
	})
}

func TestANodeStartsWhileOthersAreBusy(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		n := 0
		var one sync.Mutex
		b := c.world("node-b")
		b.open(busy{c.Node(b.node), func() {
			if !one.TryLock() {
				return // what follows is part of the same moment
			}
			defer one.Unlock()
			if n++; n < 1000 {
				c.w[0].mint(activations(1))
				synctest.Wait()
			}
		}})
		one.Lock()
		c.w = append(c.w, b)
		if n >= 1000 {
			t.Errorf("it had to look %d times", n)
		}
	})
}

// busy is a node beside which others do something whenever it looks at the store.
type busy struct {
	store.Shared
	meanwhile func()
}

// View implements store.Store.
func (s busy) View(fn func(store.Reader) error) error {
	s.meanwhile()
	return s.Shared.View(fn)
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

// A node that lowers a limit knows how much the others have used when it commits, and
// must not go on with what it had reserved before.
func TestALimitThatIsLoweredBelowWhatAllNodesHaveUsedStopsEachAtOnce(t *testing.T) {
	for name, limit := range map[string]struct {
		key   func(*record.Key)
		lower func(c *nodes, k *key, n int64)
	}{
		"a key's": {activations(10_000), func(_ *nodes, k *key, n int64) { k.limitTo(n) }},
		"a role's": {func(k *record.Key) { k.Role = "ci" }, func(c *nodes, _ *key, n int64) {
			for _, w := range c.w {
				roles := map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{n, -1, -1, -1}}}}
				if err := w.SetRoles(roles); err != nil {
					c.t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				k := c.w[0].mint(limit.key)
				a, b := k, k.on(c.w[1])
				n := int64(0)
				use := func(k *key, times int) {
					for range times {
						if code := k.use(); code != "" {
							t.Fatal(code)
						}
						n++
						c.Advance(2 * time.Millisecond)
					}
				}
				use(a, 150) // until more is reserved than is used
				use(b, 150)
				limit.lower(c, k, n)
				for _, k := range []*key{a, b, a} {
					if code := k.use(); code == "" {
						t.Errorf("%s forwarded one of %d more than the limit", k.w.node, n)
					}
				}
			}, func(w *world) {
				w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{10_000, -1, -1, -1}}}}
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

func TestAKeyThatAnotherNodeHasJustRevivedIsNotForgotten(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(1))
		b := k.on(c.w[1])
		if code := b.use(); code != "" {
			t.Fatal(code)
		}
		if code := b.use(); code != record.CodeActivationsExhausted {
			t.Fatal(code)
		}
		c.sweep()
		c.Lose(b.w.node, true) // it hears of the grant later
		granted := make(chan error, 1)
		go func() {
			_, err := c.w[0].GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 5})
			granted <- err
		}()
		synctest.Wait()
		if err := b.w.Forget(ctx, limiter.Operator, k.id); !errors.Is(err, limiter.ErrAlive) {
			t.Errorf("forgetting a key that was just granted more: %v", err)
		}
		if err := <-granted; err != nil {
			t.Fatal(err)
		}
		if n := c.drain(k, record.CodeActivationsExhausted); n != 5 {
			t.Errorf("%d forwarded, want 5", n)
		}
	})
}
