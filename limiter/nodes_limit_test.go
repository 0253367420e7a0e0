package limiter_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestALimitIsLoweredForAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(1000))
		a, b := k, k.on(c.w[1])
		for range 20 {
			a.use()
			b.use()
		}
		b.limitTo(50)
		c.settle()
		if n := 40 + c.drain(k, record.CodeActivationsExhausted); n != 50 {
			t.Errorf("%d forwarded, want 50", n)
		}
		if _, err := a.w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 7}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if n := c.drain(k, record.CodeActivationsExhausted); n != 7 {
			t.Errorf("%d more forwarded, want 7", n)
		}
	})
}

func TestANodeThatHasNotHeardOfALowerLimitGoesByTheBooks(t *testing.T) {
	for name, limit := range map[string]int64{"lower": 30, "none": record.NoLimit} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				k := c.w[0].mint(activations(40))
				b := k.on(c.w[1])
				for range 5 {
					if code := b.use(); code != "" {
						t.Fatal(code)
					}
				}
				synctest.Wait()
				c.Lose(b.w.node, true)
				k.limitTo(limit)
				n := int64(5)
				for ; n < 100; n++ {
					if b.use() != "" {
						break
					}
				}
				if limit == record.NoLimit {
					limit = 100
				}
				if n != limit {
					t.Errorf("%d forwarded, want %d", n, limit)
				}
			})
		})
	}
}

func TestALimitThatIsSetLaterCountsWhatAllNodesHaveUsed(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(*record.Key) {})
		for range 10 {
			for _, w := range c.w {
				if code := k.on(w).use(); code != "" {
					t.Fatal(code)
				}
			}
		}
		c.sweep()
		k.limitTo(30)
		c.settle()
		if n := 20 + c.drain(k, record.CodeActivationsExhausted); n != 30 {
			t.Errorf("%d forwarded, want 30", n)
		}
	})
}

func TestWhatAnswersUseBeyondTheirBoundIsCountedOnAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.Limit[record.Tokens] = 1000 })
		var used int64
		for range 3 {
			for _, w := range c.w {
				g, refusal := k.on(w).ask(bound(record.Tokens, 10))
				if refusal != nil {
					t.Fatal(refusal)
				}
				g.Settle(record.Amounts{record.Activations: 1, record.Tokens: 100})
				used += 100
			}
		}
		c.sweep()
		c.settle()
		for _, w := range c.w {
			if code := k.on(w).use(bound(record.Tokens, 1000-used+1)); code == "" {
				t.Errorf("%s: admitted beyond the limit", w.node)
			}
			if v := k.on(w).view(); v.Used[record.Tokens] != used {
				t.Errorf("%s: %d tokens used, want %d", w.node, v.Used[record.Tokens], used)
			}
		}
	})
}

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
			done := make(chan struct{})
			go func() { // it is done by somebody else
				defer close(done)
				do()
			}()
			<-done
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

// TestWhatOtherNodesHoldMayBeLeftLater: a request waits for that, too.
func TestWhatOtherNodesHoldMayBeLeftLater(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.Limit[record.Tokens] = 1000 })
		g, refusal := k.ask(bound(record.Tokens, 600))
		if refusal != nil {
			t.Fatal(refusal)
		}
		b := k.on(c.w[1])
		if code := b.use(bound(record.Tokens, 100)); code != "" { // it reads what the other has
			t.Fatal(code)
		}
		live, refusal := b.w.Find(ctx, k.lookup)
		if refusal != nil {
			t.Fatal(refusal)
		}
		if left, later := live.Left(); left[record.Tokens] != 400 || later[record.Tokens] != 1000 {
			t.Errorf("left are %d tokens, and later %d, want 400 and 1000", left[record.Tokens], later[record.Tokens])
		}
		g.Settle(record.Amounts{record.Activations: 1, record.Tokens: 600})
	})
}

// TestRolesThatChangeWhileTheDatabaseIsAwayApplyOnceItIsBack: a reload does not come again.
func TestRolesThatChangeWhileTheDatabaseIsAwayApplyOnceItIsBack(t *testing.T) {
	role := func(n int64) record.Role {
		r := record.NewRole()
		r.Budget.Limit[record.Activations] = n
		return r
	}
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		w := c.w[0]
		k := w.mint(func(k *record.Key) { k.Role = "r" })
		c.settle()
		c.Stop()
		if err := w.SetRoles(map[string]record.Role{"r": role(5), "another": role(5)}); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("a role is not in memory: %v", err)
		}
		c.Start()
		c.pass(10 * time.Second)
		if n := c.drain(k, record.CodeActivationsExhausted); n != 5 {
			t.Errorf("%d requests of 5", n)
		}
	}, func(w *world) { w.roles = map[string]record.Role{"r": role(500)} })
}
