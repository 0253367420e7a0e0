package limiter_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// usedUnbound is a key that has been used, has some of its budget reserved, and is told to
// bind itself to an address from now on.
func usedUnbound(t *testing.T, w *world, advance func(time.Duration)) *key {
	t.Helper()
	k := w.mint(activations(10_000))
	for range 150 { // until more is reserved than is used
		if code := k.use(from("192.0.2.1")); code != "" {
			t.Fatal(code)
		}
		advance(2 * time.Millisecond)
	}
	if _, err := w.Change(ctx, limiter.Operator, k.id, 0, func(k *record.Key) error { k.Scope.PinIP = true; return nil }); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestAnAddressIsDurableBeforeItIsUsed, also if it is not that of the key's first use.
func TestAnAddressIsDurableBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := usedUnbound(t, w, w.clock.advance)
	if code := k.use(from("192.0.2.2")); code != "" {
		t.Fatal(code)
	}
	w.kill(true)
	if code := k.use(from("192.0.2.3")); code != record.CodeIPNotAllowed {
		t.Errorf("another address after a power cut: %q", code)
	}
	if code := k.use(from("192.0.2.2")); code != "" {
		t.Errorf("the same address after a power cut: %q", code)
	}
}

// TestAKeyThatWasUsedIsBoundToOneAddressOnAllNodes: both have budget of it that they could
// use without asking the store.
func TestAKeyThatWasUsedIsBoundToOneAddressOnAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := usedUnbound(t, c.w[0], c.Advance)
		b := k.on(c.w[1])
		c.settle()
		if code := k.use(from("192.0.2.2")); code != "" {
			t.Fatal(code)
		}
		if code := b.use(from("192.0.2.3")); code != record.CodeIPNotAllowed {
			t.Errorf("another address on another node: %q", code)
		}
		if code := b.use(from("192.0.2.2")); code != "" {
			t.Errorf("the same address on another node: %s", code)
		}
	})
}

// TestAKeyThatIsBoundOnOneNodeBindsItsChildrenOnAll, also those whose requests ask the store
// for nothing of it.
func TestAKeyThatIsBoundOnOneNodeBindsItsChildrenOnAll(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		p := c.w[0].mint(delegating(activations(100)))
		child := p.mustChild(activations(10)).on(c.w[1])
		if code := child.use(from("192.0.2.3")); code != "" {
			t.Fatal(code)
		}
		if _, err := c.w[0].Change(ctx, limiter.Operator, p.id, 0, func(k *record.Key) error { k.Scope.PinIP = true; return nil }); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if code := p.use(from("192.0.2.2")); code != "" {
			t.Fatal(code)
		}
		c.pass(time.Second)
		if code := child.use(from("192.0.2.3")); code != record.CodeIPNotAllowed {
			t.Errorf("a child from another address on another node: %q", code)
		}
		if code := child.use(from("192.0.2.2")); code != "" {
			t.Errorf("a child from the same address on another node: %q", code)
		}
	})
}

// TestAQuestionIsAnsweredToTheAddressThatAnotherNodeHasBoundTheKeyTo, and to no other.
func TestAQuestionIsAnsweredToTheAddressThatAnotherNodeHasBoundTheKeyTo(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.Scope.PinIP = true })
		live, refusal := c.w[1].Find(ctx, k.lookup) // it has the key in memory, without an address
		if refusal != nil {
			t.Fatal(refusal)
		}
		c.settle()
		if code := k.use(from("192.0.2.2")); code != "" {
			t.Fatal(code)
		}
		c.pass(time.Second)
		if code := codeOf(live.Touch(ctx, netip.MustParseAddr("192.0.2.3"))); code != record.CodeIPNotAllowed {
			t.Errorf("from another address: %q", code)
		}
		if code := codeOf(live.Touch(ctx, netip.MustParseAddr("192.0.2.2"))); code != "" {
			t.Errorf("from the same address: %q", code)
		}
	})
}

// TestARequestThatStopsWaitingBindsItsKeyToNoAddress: nothing of it was forwarded. What the
// store has begun to write by then stays.
func TestARequestThatStopsWaitingBindsItsKeyToNoAddress(t *testing.T) {
	withNodes(t, 0, func(t *testing.T, c *nodes) {
		w := c.world("node-a")
		s := &meeting{Shared: c.Node(w.node)}
		w.open(s)
		c.w = append(c.w, w)
		k := w.mint(func(k *record.Key) { k.Limit[record.Activations] = 10; k.Scope.PinIP = true })
		c.settle()
		goOn := make(chan struct{})
		s.before = func() { s.before = nil; <-goOn }
		var busy sync.WaitGroup
		busy.Go(func() { w.mint(activations(1)) })
		synctest.Wait()
		leaving, leave := context.WithCancel(ctx)
		answered := make(chan *record.Refusal)
		live, refusal := w.Find(ctx, k.lookup)
		if refusal != nil {
			t.Fatal(refusal)
		}
		go func() {
			ask := limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x", Addr: netip.MustParseAddr("192.0.2.1")}
			answered <- live.Reserve(leaving, &ask, new(limiter.Grant))
		}()
		synctest.Wait()
		leave()
		if refusal := <-answered; refusal == nil {
			t.Fatal("it did not wait")
		}
		close(goOn)
		busy.Wait()
		c.settle()
		if v := k.view(); !v.FirstUsedAt.IsZero() {
			t.Errorf("it was first used at %s", v.FirstUsedAt)
		}
		if code := k.use(from("192.0.2.2")); code != "" {
			t.Errorf("from another address: %s", code)
		}
		if code := k.use(from("192.0.2.1")); code != record.CodeIPNotAllowed {
			t.Errorf("then from the first one: %q", code)
		}
	})
}
