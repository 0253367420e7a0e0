package limiter_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

func TestAKilledNodeTakesBackNothingButItsOwn(t *testing.T) {
	for _, power := range []bool{false, true} {
		t.Run(fmt.Sprint("power", power), func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				k := c.w[0].mint(activations(100))
				a, b := k, k.on(c.w[1])
				n := int64(0)
				for range 20 {
					if code := a.use(); code != "" {
						t.Fatal(code)
					}
					if code := b.use(); code != "" {
						t.Fatal(code)
					}
					n += 2
				}
				c.restartKilled(c.w[0], power)
				c.settle()
				n += c.drain(k, record.CodeActivationsExhausted)
				if n > 100 || !power && n != 100 {
					t.Errorf("%d forwarded of 100", n)
				}
				c.settle()
			})
		})
	}
}

func TestEachNodesShadowIsBelievedAfterAKill(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(10_000))
		n := int64(0)
		for range 2 { // the second time it is busy, and reserves more than it uses at once
			for _, w := range c.w {
				for range 60 {
					if code := k.on(w).use(); code != "" {
						t.Fatal(code)
					}
					n++
				}
			}
			time.Sleep(150 * time.Millisecond)
		}
		for _, w := range c.w {
			c.restartKilled(w, false)
			c.settle()
			for _, by := range c.w {
				c.sweep()
				if v := k.on(by).view(); v.Used[record.Activations] != n || v.Remaining[record.Activations] != 10_000-n {
					t.Errorf("after %s was killed, %s says %d used and %d left, want %d and %d", w.node, by.node,
						v.Used[record.Activations], v.Remaining[record.Activations], n, 10_000-n)
				}
			}
		}
	})
}

func TestANodeThatStartsLeavesAloneWhatOthersHaveReserved(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(60))
		n := int64(0)
		for range 5 {
			for _, w := range c.w {
				if code := k.on(w).use(); code != "" {
					t.Fatal(code)
				}
				n++
			}
			c.restartClean(c.w[1])
			c.settle()
		}
		if n += c.drain(k, record.CodeActivationsExhausted); n != 60 {
			t.Errorf("%d forwarded, want 60", n)
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
