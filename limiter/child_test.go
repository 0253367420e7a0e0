package limiter_test

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// child mints a child of the key; fn says what is special about it.
func (k *key) child(fn func(*record.Key)) (*key, error) {
	k.w.t.Helper()
	live, refusal := k.w.Find(ctx, k.lookup)
	if refusal != nil {
		return nil, refusal
	}
	spec := live.Key().Child()
	fn(spec)
	_, lookup, err := token.MintKey()
	if err != nil {
		k.w.t.Fatal(err)
	}
	view, err := k.w.Delegate(ctx, live, &limiter.Ask{Addr: netip.MustParseAddr("192.0.2.1")}, spec, limiter.Birth{Lookup: lookup, Unlimited: true})
	if err != nil {
		return nil, err
	}
	return &key{w: k.w, id: view.ID, lookup: lookup}, nil
}

func (k *key) mustChild(fn func(*record.Key)) *key {
	k.w.t.Helper()
	c, err := k.child(fn)
	if err != nil {
		k.w.t.Fatal(err)
	}
	return c
}

func delegating(fns ...func(*record.Key)) func(*record.Key) {
	return func(k *record.Key) {
		k.Delegate = true
		for _, fn := range fns {
			fn(k)
		}
	}
}

// left is what the key has left of activations.
func (k *key) left() int64 { return k.view().Remaining[record.Activations] }

// settle lets the sweeper do what is due.
func (w *world) settle() {
	w.t.Helper()
	for range 6 { // a level of a tree each
		w.SweepActive()
		if err := w.Ping(ctx); err != nil {
			w.t.Fatal(err)
		}
		w.SweepDue()
	}
}

func TestAChildIsCarvedOutOfItsParent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.mint(delegating(activations(100)))
	c := p.mustChild(activations(40))
	if got := p.left(); got != 59 {
		t.Errorf("the parent has %d left, want 59: 40 are its child's and the mint took one", got)
	}
	v := p.view()
	if v.Delegated[0] != 40 || v.Used[0] != 1 || v.Children != 1 || c.view().Parent != p.id {
		t.Errorf("parent: delegated %d, used %d, children %d; child's parent %q", v.Delegated[0], v.Used[0], v.Children, c.view().Parent)
	}
	var short *limiter.ShortError
	if _, err := p.child(activations(59)); !errors.As(err, &short) || short.Left != 58 || short.Want != 59 || short.Held {
		t.Errorf("a child of all that was left before its own mint: %v", err)
	}
	if got := p.left(); got != 59 {
		t.Errorf("a refused mint took something: %d left", got)
	}
	if n := c.drain(record.CodeActivationsExhausted); n != 40 {
		t.Errorf("the child forwarded %d, want 40", n)
	}
	if n := p.drain(record.CodeActivationsExhausted); n != 59 {
		t.Errorf("the parent forwarded %d, want 59", n)
	}
	w.agree(t)
}

func TestATreeOfKeysForwardsExactlyN(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 1000
	root := w.mint(delegating(activations(n)))
	keys := []*key{root}
	mints := int64(0)
	for _, depth := range []int64{200, 60, 20, 5} {
		above := keys[len(keys)-1]
		for range 2 {
			keys = append(keys, above.mustChild(delegating(activations(depth))))
			mints++
		}
	}
	if _, err := keys[len(keys)-1].child(activations(1)); !errors.Is(err, record.ErrDepth) {
		t.Errorf("a fifth generation: %v", err)
	}
	var forwarded atomic.Int64
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			for range 40 {
				if keys[i%len(keys)].use() == "" {
					forwarded.Add(1)
				}
			}
		})
	}
	all.Wait()
	for _, k := range keys {
		forwarded.Add(k.drain(record.CodeActivationsExhausted))
	}
	if got := forwarded.Load() + mints; got != n {
		t.Errorf("forwarded %d and minted %d, want %d in all", forwarded.Load(), mints, n)
	}
	w.agree(t)
}

func TestASuspendedParentStopsItsChildrenWhileItLasts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.mint(delegating(activations(100)))
	c := root.mustChild(delegating(activations(50)))
	leaf := c.mustChild(activations(20))
	g, refusal := leaf.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	if _, err := w.Suspend(limiter.Operator, root.id); err != nil {
		t.Fatal(err)
	}
	if g.Cut() == nil || g.Cut().KeyID != leaf.id {
		t.Errorf("what the leaf runs was cut with %v", g.Cut())
	}
	g.Settle(record.Amounts{1})
	if code := leaf.use(); code != record.CodeKeySuspended || leaf.view().Status != record.Suspended {
		t.Errorf("the leaf: %q, %s", code, leaf.view().Status)
	}
	if _, err := c.child(activations(1)); err == nil {
		t.Error("a child of a suspended key's child was minted")
	}
	if _, err := w.Resume(limiter.Operator, root.id); err != nil {
		t.Fatal(err)
	}
	if code := leaf.use(); code != "" {
		t.Errorf("the leaf after all: %q", code)
	}
}

func TestAGrantToAChildComesOutOfItsParent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.mint(delegating(activations(100)))
	c := p.mustChild(activations(10))
	if _, err := w.GrantMore(ctx, limiter.Operator, c.id, limiter.More{Activations: 30}); err != nil {
		t.Fatal(err)
	}
	if p.left() != 59 || c.left() != 40 {
		t.Errorf("parent %d, child %d left; want 59 and 40", p.left(), c.left())
	}
	var short *limiter.ShortError
	if _, err := w.GrantMore(ctx, limiter.Operator, c.id, limiter.More{Activations: 60}); !errors.As(err, &short) {
		t.Errorf("more than the parent has: %v", err)
	}
	raise := func(k *record.Key) error { k.Limit[record.Activations]++; return nil }
	var invalid *record.InvalidError
	if _, err := w.Change(ctx, limiter.Operator, c.id, 0, raise); !errors.As(err, &invalid) {
		t.Errorf("a change that raises it: %v", err)
	}
	limitTokens := func(k *record.Key) error { k.Limit[record.Tokens] = 1000; return nil }
	if _, err := w.Change(ctx, limiter.Operator, p.id, 0, limitTokens); !errors.As(err, &invalid) {
		t.Errorf("a limit on the parent that would not bind its child: %v", err)
	}
	lower := func(k *record.Key) error { k.Limit[record.Activations] = 5; return nil }
	if _, err := w.Change(ctx, limiter.Operator, c.id, 0, lower); err != nil {
		t.Error(err)
	}
	if n := c.drain(record.CodeActivationsExhausted); n != 5 {
		t.Errorf("the child forwarded %d after it was lowered to 5", n)
	}
	w.settle()
	if got := p.left(); got != 94 {
		t.Errorf("the parent has %d left, want 94: what was taken from the child came back", got)
	}
}
