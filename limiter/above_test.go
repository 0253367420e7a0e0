package limiter_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/scope"
)

func TestTheKeysAboveLimitRateAndConcurrency(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.mint(delegating(activations(1000), func(k *record.Key) {
		k.Rate = record.Rate{N: 10, Per: time.Minute}
		k.MaxConcurrency = 2
	}))
	a, b := p.mustChild(activations(100)), p.mustChild(activations(100)) // two of ten
	one, refusal := a.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	two, refusal := b.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	for _, k := range []*key{p, a, b} {
		if code := k.use(); code != record.CodeConcurrency {
			t.Errorf("a third at a time: %q", code)
		}
	}
	one.Settle(record.Amounts{1})
	two.Settle(record.Amounts{1})
	for range 3 {
		if code := a.use(); code != "" {
			t.Fatal(code)
		}
		if code := b.use(); code != "" {
			t.Fatal(code)
		}
	}
	for _, k := range []*key{p, a, b} {
		if code := k.use(); code != record.CodeRateLimited {
			t.Errorf("the eleventh in a minute: %q", code)
		}
	}
}

func TestAKeyAboveThatIsNarrowedLaterBindsItsChildren(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.mint(delegating(activations(100)))
	c := p.mustChild(activations(50))
	models := func(names ...string) func(*limiter.Ask) {
		return func(a *limiter.Ask) { a.Models, a.Named = names, true }
	}
	if code := c.use(models("big")); code != "" {
		t.Fatal(code)
	}
	_, err := w.Change(ctx, limiter.Operator, p.id, 0, func(k *record.Key) error {
		k.Scope = scope.Scope{Models: []string{"small*"}, IPs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	live, refusal := w.Find(ctx, c.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if !live.Terms().Models || live.AllowsModel("big") || !live.AllowsModel("small-1") {
		t.Error("the child does not know of its parent's models")
	}
	for _, ask := range []struct {
		model, addr string
		want        record.Code
	}{
		{"small-1", "192.0.2.9", ""},
		{"big", "192.0.2.9", record.CodeModelNotAllowed},
		{"small-1", "198.51.100.1", record.CodeIPNotAllowed},
	} {
		if code := c.use(models(ask.model), from(ask.addr)); code != ask.want {
			t.Errorf("%s from %s: %q, want %q", ask.model, ask.addr, code, ask.want)
		}
	}
}

func TestAtMostAHundredChildrenLiveAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.mint(delegating(activations(1000)))
	var last *key
	for range 100 {
		last = p.mustChild(activations(1))
	}
	if _, err := p.child(activations(1)); !errors.Is(err, limiter.ErrChildren) {
		t.Errorf("one more: %v", err)
	}
	if _, _, err := w.Revoke(ctx, limiter.Operator, last.id, ""); err != nil {
		t.Fatal(err)
	}
	p.mustChild(activations(1))
	if got, want := p.left(), int64(1000-101-100); got != want {
		t.Errorf("the parent has %d left, want %d", got, want)
	}
	if _, _, err := w.Revoke(ctx, limiter.Operator, p.id, ""); err != nil {
		t.Fatal(err)
	}
	if v := last.view(); v.Status != record.Revoked || p.view().Children != 0 {
		t.Errorf("after the revocation: %s, %d children", v.Status, p.view().Children)
	}
}

func TestACarveCountsInTheWindowInWhichItWasMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.mint(delegating(activations(100), func(k *record.Key) { k.Renews = record.Daily }))
	old := p.mustChild(activations(60))
	if got := p.left(); got != 39 {
		t.Errorf("%d left today, want 39", got)
	}
	w.clock.advance(24 * time.Hour)
	fresh := p.mustChild(activations(50))
	if got := p.left(); got != 49 {
		t.Errorf("%d left the day after, want 49", got)
	}
	for _, k := range []*key{old, fresh} {
		if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
	}
	w.settle()
	if got := p.left(); got != 99 {
		t.Errorf("%d left after both ended, want 99: what yesterday's leaves is gone", got)
	}
}

func TestWhoMintedAParentSeesItsChildrenAndTheirRoleBinds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	role := record.NewRole()
	role.Permissions = []record.Permission{record.KeysCreate, record.KeysRead}
	role.Budget.Limit[record.Activations] = 7
	w.roles = map[string]record.Role{"crew": role}
	if err := w.SetRoles(w.roles); err != nil {
		t.Fatal(err)
	}
	ann := limiter.Caller{Name: "ann", Token: "tok_ann", Role: "crew"}
	bob := limiter.Caller{Name: "bob", Token: "tok_bob", Role: "crew"}
	p := w.mintBy(ann, delegating(activations(100), func(k *record.Key) { k.Role = "crew" }))
	c := p.mustChild(delegating(activations(50)))
	leaf := c.mustChild(activations(20))
	for _, k := range []*key{p, c, leaf} {
		if _, err := w.Get(ann, k.id); err != nil {
			t.Errorf("who minted the root: %v", err)
		}
		if _, err := w.Get(bob, k.id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("another token of the role: %v", err)
		}
	}
	n := 0
	for leaf.use() == "" {
		n++
	}
	if n != 5 || leaf.view().Role != "crew" {
		t.Errorf("the leaf, of role %q, forwarded %d; want the role's 7 less two mints", leaf.view().Role, n)
	}
}

func TestATreeSurvivesRestoreAndRepairInBalance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.mint(delegating(activations(200)))
	p := root.mustChild(delegating(activations(100)))
	c := p.mustChild(activations(40))
	for range 5 {
		c.use()
		p.use()
	}
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if _, err := w.Backup(context.Background(), limiter.Operator, &backup, true); err != nil {
		t.Fatal(err)
	}
	w.movedAway()
	if _, err := limiter.Restore(limiter.Offline{Store: rehearsed{w.disk.Open()}, Anchor: w.anchor, Now: w.Now()}, limiter.Operator, bytes.NewReader(backup.Bytes()), false); err != nil {
		t.Fatal(err)
	}
	w.shadow += "'"
	w.open(w.disk.Open())
	w.balance(t)
	for _, k := range []*key{root, p, c} {
		if code := k.use(); code != record.CodeKeySuspended {
			t.Errorf("a key of a backup: %q", code)
		}
		if _, err := w.Resume(limiter.Operator, k.id); err != nil {
			t.Fatal(err)
		}
	}
	if code := c.use(); code != "" {
		t.Errorf("the leaf, once all are resumed: %q", code)
	}
	if _, _, err := w.Revoke(ctx, limiter.Operator, p.id, ""); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.balance(t)
	if left := root.left(); left > 200-1-1-5-5-1 || left < 200-1-1-5-5-1-2*64 {
		t.Errorf("the root has %d left", left)
	}
	q := root.mustChild(activations(20))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := limiter.Forfeit(limiter.Offline{Store: rehearsed{w.disk.Open()}, Anchor: w.anchor, Now: w.Now()}, limiter.Operator, w.roles); err != nil {
		t.Fatal(err)
	}
	w.open(w.disk.Open())
	w.balance(t)
	if q.use() == "" || root.use() == "" {
		t.Error("a repaired tree had something left")
	}
	w.settle()
	w.balance(t)
	w.agree(t)
}

// TestWhereAMintCostsNothingOnlySoManyAMinuteAreMade: a holder must not fill the
// disk with keys that were minted and revoked, nor do so through keys below.
func TestWhereAMintCostsNothingOnlySoManyAMinuteAreMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.mint(func(k *record.Key) { k.Delegate, k.ExpiresAt = true, w.clock.time().Add(time.Hour) })
	below := []*key{root, root.mustChild(delegating()), root.mustChild(delegating(activations(100)))}
	made := 2
	var refusal *record.Refusal
	for i := 0; refusal == nil && made < 200; i++ {
		c, err := below[i%len(below)].child(activations(1))
		if errors.As(err, &refusal) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		made++
		if _, _, err := w.Revoke(ctx, limiter.Operator, c.id, ""); err != nil {
			t.Fatal(err)
		}
	}
	if made != 60 || refusal == nil || refusal.Code != record.CodeRateLimited || refusal.RetryAfter <= 0 {
		t.Errorf("%d minted, then %v", made, refusal)
	}
	w.clock.advance(time.Second)
	if _, err := root.child(activations(1)); err != nil {
		t.Errorf("a second later: %v", err)
	}
	// Where each costs an activation, that is the limit.
	limited := w.mint(delegating(activations(100)))
	for range 80 {
		limited.mustChild(activations(0))
	}
}

func TestTheTextOfAKeyIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	large := map[string]string{}
	for i := range 33 {
		large[strconv.Itoa(i)] = strings.Repeat("x", 512)
	}
	full := func(k *record.Key) { k.Metadata = large }
	spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits(), Metadata: large}
	var wrong *record.InvalidError
	if _, err := w.tryMint(limiter.Operator, spec); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "16384 bytes") {
		t.Errorf("a mint: %v", err)
	}
	k := w.mint(delegating(activations(10)))
	if _, err := k.child(func(c *record.Key) { activations(1)(c); full(c) }); !errors.As(err, &wrong) {
		t.Errorf("a holder's mint: %v", err)
	}
	if _, err := w.Change(ctx, limiter.Operator, k.id, 0, func(k *record.Key) error { full(k); return nil }); !errors.As(err, &wrong) {
		t.Errorf("a change: %v", err)
	}
	delete(large, "32")
	delete(large, "31")
	if _, err := k.child(func(c *record.Key) { activations(1)(c); full(c) }); err != nil {
		t.Errorf("as much as there may be: %v", err)
	}
}
