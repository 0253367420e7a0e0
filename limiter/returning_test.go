package limiter_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

func TestWhatAChildLeavesGoesBackWhenItEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(c *key){
		"revoked": (*key).revoke,
		"expired": func(c *key) { c.w.clock.advance(2 * time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.mint(delegating(activations(100)))
			c := p.mustChild(func(k *record.Key) {
				k.Limit[record.Activations] = 50
				k.ExpiresAt = w.Now().Add(time.Hour)
			})
			for range 10 {
				c.use()
			}
			end(c)
			w.settle()
			if got := p.left(); got != 89 {
				t.Errorf("the parent has %d left, want 89: 100 less a mint and 10 of its child", got)
			}
			if v := c.view(); v.Returned[0] != 40 || v.ReturnedAt.IsZero() || v.Remaining[0] != 0 {
				t.Errorf("the child returned %d at %s and has %d left", v.Returned[0], v.ReturnedAt, v.Remaining[0])
			}
			if _, err := w.GrantMore(ctx, limiter.Operator, c.id, limiter.More{Activations: 1, Lifetime: time.Hour}); !errors.Is(err, limiter.ErrReturned) && !errors.Is(err, limiter.ErrRevoked) {
				t.Errorf("a grant to it: %v", err)
			}
			if code := c.use(); code == "" {
				t.Error("it was admitted after its end")
			}
			if err := w.Forget(ctx, limiter.Operator, c.id); err != nil {
				t.Errorf("forgetting it: %v", err)
			}
			if n := p.drain(record.CodeActivationsExhausted); n != 89 {
				t.Errorf("the parent forwarded %d, want 89", n)
			}
			w.agree(t)
		})
	}
}

func TestAnExhaustedParentLivesAgainByWhatItsChildLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.mint(delegating(activations(11)))
	c := p.mustChild(activations(10))
	if code := p.use(); code != record.CodeActivationsExhausted {
		t.Fatalf("the parent: %q", code)
	}
	w.settle()
	if v := p.view(); v.Status != record.Exhausted || !v.EndedAt.IsZero() {
		t.Errorf("the parent is %s since %s; its end must not be final while a child could leave something", v.Status, v.EndedAt)
	}
	if code := c.use(); code != "" {
		t.Errorf("a child of an exhausted parent: %q", code)
	}
	c.revoke()
	if n := p.drain(record.CodeActivationsExhausted); n != 9 {
		t.Errorf("the parent forwarded %d more, want 9", n)
	}
	w.settle()
	if v := p.view(); v.EndedStatus != record.Exhausted {
		t.Errorf("the parent's end is %q once nothing can come back", v.EndedStatus)
	}
}

func TestChildrenEndWithTheirParentAndTheirRestSkipsTheDead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.mint(delegating(activations(1000)))
	mid := root.mustChild(delegating(activations(500)))
	low := mid.mustChild(delegating(activations(200)))
	leaf := low.mustChild(activations(100))
	for range 7 {
		leaf.use()
	}
	cut := make(chan struct{}, 1)
	g, refusal := leaf.ask(func(a *limiter.Ask) { a.OnCut = func(*record.Refusal) { cut <- struct{}{} } })
	if refusal != nil {
		t.Fatal(refusal)
	}
	_, n, err := w.Revoke(ctx, limiter.Operator, mid.id, "")
	if err != nil || n != 1 {
		t.Errorf("revoking cut %d streams, %v; want 1", n, err)
	}
	<-cut
	if code := leaf.use(); code != record.CodeKeyRevoked {
		t.Errorf("the leaf: %q", code)
	}
	g.Settle(record.Amounts{1})
	w.settle()
	// Used below mid: two mints, and eight by the leaf.
	if got, want := root.left(), int64(1000-1-2-8); got != want {
		t.Errorf("the root has %d left, want %d", got, want)
	}
	for _, k := range []*key{mid, low, leaf} {
		if v := k.view(); v.EndedStatus != record.Revoked || v.ReturnedAt.IsZero() {
			t.Errorf("%s: %s, returned at %s", k.id, v.EndedStatus, v.ReturnedAt)
		}
	}
	if v := leaf.view(); !strings.Contains(v.EndedReason, low.id) {
		t.Errorf("the leaf's reason is %q", v.EndedReason)
	}
	w.agree(t)
}

func TestAnExpiredParentEndsItsChildren(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.mint(delegating(activations(100)))
	p := root.mustChild(delegating(func(k *record.Key) {
		k.Limit[record.Activations] = 50
		k.ExpiresAt = w.Now().Add(time.Hour)
	}))
	c := p.mustChild(activations(20))
	if got := c.view().ExpiresAt; !got.Equal(p.view().ExpiresAt) {
		t.Errorf("the child expires at %s, not with its parent", got)
	}
	// An operator shortens the parent's life afterwards.
	_, err := w.Change(ctx, limiter.Operator, p.id, 0, func(k *record.Key) error {
		k.ExpiresAt = w.Now().Add(time.Minute)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	g, refusal := c.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	w.clock.advance(2 * time.Minute)
	if code := c.use(); code != record.CodeKeyExpired {
		t.Errorf("the child of an expired key: %q", code)
	}
	w.SweepActive()
	if cut := g.Cut(); cut == nil || cut.Code != record.CodeKeyExpired {
		t.Errorf("what it runs was cut with %v", cut)
	}
	g.Settle(record.Amounts{1})
	w.settle()
	if v := c.view(); v.EndedStatus != record.Expired || v.ReturnedAt.IsZero() {
		t.Errorf("the child ended %q, returned at %s", v.EndedStatus, v.ReturnedAt)
	}
	if got, want := root.left(), int64(100-1-1-1); got != want {
		t.Errorf("the root has %d left, want %d", got, want)
	}
}

func TestAKilledRevocationIsFinishedAfterwards(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.mint(delegating(activations(100)))
	p := root.mustChild(delegating(activations(50)))
	c := p.mustChild(activations(20))
	c.use()
	// The revocation of the parent reaches the disk, and nothing after it.
	var once sync.Once
	dead := false
	w.disk.BeforeCommit(func(int) {
		books, err := w.Books()
		if err == nil && books[p.id].Key.EndedStatus == record.Revoked {
			once.Do(func() { dead = true; w.disk.FailAt(1, false) })
		}
	})
	if _, _, err := w.Revoke(ctx, limiter.Operator, p.id, ""); err != nil && !dead {
		t.Fatal(err)
	}
	w.disk.BeforeCommit(nil)
	w.disk.Heal()
	w.kill(false)
	root.w, p.w, c.w = w, w, w
	if code := c.use(); code != record.CodeKeyRevoked {
		t.Errorf("the child after the crash: %q", code)
	}
	w.settle()
	if got, want := root.left(), int64(100-1-1-1); got != want {
		t.Errorf("the root has %d left, want %d", got, want)
	}
	if v := c.view(); v.EndedStatus != record.Revoked || v.ReturnedAt.IsZero() {
		t.Errorf("the child ended %q, returned at %s", v.EndedStatus, v.ReturnedAt)
	}
}

// TestWhatAChildLeavesGoesBackWheneverItsParentRenewsNow: the parent's window goes on when it
// is changed to renew at other times, so what was carved out of it before comes back.
func TestWhatAChildLeavesGoesBackWheneverItsParentRenewsNow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ before, after record.Renewal }{
		{"", record.Daily}, {"", record.Monthly}, {record.Daily, record.Weekly}, {record.Weekly, record.Daily}, {record.Monthly, ""},
	} {
		w := newWorld(t)
		p := w.mint(delegating(renewing(1000, test.before)))
		c, late := p.mustChild(activations(500)), p.mustChild(activations(100))
		c.use()
		_, err := w.Change(ctx, limiter.Operator, p.id, 0, func(k *record.Key) error { k.Renews = test.after; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.GrantMore(ctx, limiter.Operator, c.id, limiter.More{Activations: 50}); err != nil {
			t.Fatal(err)
		}
		w.balance(t)
		c.revoke()
		w.settle()
		w.balance(t)
		if got := p.left(); got != 897 {
			t.Errorf("%q, then %q: the parent has %d left, want 897: 1000 less two mints, one use and the 100 of its other child", test.before, test.after, got)
		}
		if test.after == "" {
			continue
		}
		w.clock.advance(31 * 24 * time.Hour)
		p.use()
		late.revoke()
		w.settle()
		w.balance(t)
		if got := p.left(); got != 999 {
			t.Errorf("%q, then %q: the parent has %d left in another window, want 999: what was carved out before is gone", test.before, test.after, got)
		}
		w.agree(t)
	}
}

// TestWhatAChildLeavesGoesBackOnceWhenTheClockIsRepaired: the repair takes the parent's
// window back to a day in which another one was before.
func TestWhatAChildLeavesGoesBackOnceWhenTheClockIsRepaired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.mint(delegating(renewing(1000, record.Daily)))
	former := p.mustChild(activations(400))
	const wrong = 365 * 24 * time.Hour
	w.clock.set(wrong)
	w.restart()
	present := p.mustChild(activations(500))
	w.clock.set(-wrong)
	if _, err := w.RepairClock(limiter.Operator); err != nil {
		t.Fatal(err)
	}
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		child *key
		left  int64
	}{{former, 499}, {present, 999}} {
		test.child.revoke()
		w.settle()
		w.balance(t)
		if got := p.left(); got != test.left {
			t.Errorf("the parent has %d left, want %d", got, test.left)
		}
	}
	w.agree(t)
}

// TestWhatAChildLeavesIsGoneOnceItsParentsAccountWasLost: windows are numbered, and those that
// come after the repair must not be taken for those that children were carved out of before.
func TestWhatAChildLeavesIsGoneOnceItsParentsAccountWasLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.mint(delegating(renewing(1000, record.Daily)))
	p.use()
	w.clock.advance(day)
	former := p.mustChild(activations(500)) // in the second window
	w.clock.advance(7 * day)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	account, err := record.KeyAccount(p.id)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.disk.Open().Update(func(tx store.Tx) error { return tx.Delete(record.AccountKey(account)) }); err != nil {
		t.Fatal(err)
	}
	if _, err := limiter.Forfeit(limiter.Offline{Store: rehearsed{w.disk.Open()}, Anchor: w.anchor, Now: w.clock.time()}, limiter.Operator, w.roles); err != nil {
		t.Fatal(err)
	}
	w.open(w.disk.Open())
	if _, err := w.Resume(limiter.Operator, p.id); err != nil {
		t.Fatal(err)
	}
	if n := p.drain(record.CodeActivationsExhausted); n != 0 {
		t.Errorf("%d forwarded in a window of which nobody knows what was used, want 0", n)
	}
	w.clock.advance(day)
	p.mustChild(activations(600)) // in the next window that the account has
	former.revoke()
	w.settle()
	w.balance(t)
	if got := p.left(); got != 399 {
		t.Errorf("the parent has %d left, want 399: 1000 less a mint and its child, and nothing of an earlier window", got)
	}
	w.agree(t)
}
