package limiter_test

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// rotate gives the key another string and returns it as a key of its own.
func (k *key) rotate(grace time.Duration) *key {
	k.w.t.Helper()
	next, err := k.tryRotate(grace)
	if err != nil {
		k.w.t.Fatal(err)
	}
	return next
}

func (k *key) tryRotate(grace time.Duration) (*key, error) {
	k.w.t.Helper()
	issue := record.Issue{Lookup: newLookup(k.w.t)}
	if k.view().Custody == record.CustodySealed {
		issue.Box = record.Box{SealKey: token.SealKeyID{2}, Origins: []string{"https://b"}, Salt: token.NewSecret(strings.Repeat("b", token.SaltLen))}
	}
	_, _, err := k.w.Rotate(limiter.Operator, k.id, issue, grace)
	return &key{w: k.w, id: k.id, lookup: issue.Lookup}, err
}

func newLookup(t testing.TB) token.Lookup {
	t.Helper()
	_, lookup, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	return lookup
}

// come asks for a request as the handler does, which knows the string.
func (k *key) come(onCut func(*record.Refusal)) (*limiter.Grant, *record.Refusal) {
	live, refusal := k.w.Find(ctx, k.lookup)
	if refusal != nil {
		return nil, refusal
	}
	number, refusal := live.Number(live.Key(), k.lookup, netip.Addr{})
	if refusal != nil {
		return nil, refusal
	}
	a := limiter.Ask{
		Bound: record.Amounts{record.Activations: 1}, String: number, OnCut: onCut,
		Method: "POST", Path: "/v1/chat/completions", Addr: netip.MustParseAddr("192.0.2.1"),
	}
	g := new(limiter.Grant)
	return g, live.Reserve(ctx, &a, g)
}

// works reports the code that a request with the string is refused with.
func (k *key) works() record.Code {
	k.w.t.Helper()
	g, refusal := k.come(nil)
	if refusal != nil {
		return refusal.Code
	}
	g.Settle(record.Amounts{record.Activations: 1})
	return ""
}

func (k *key) expect(what string, want record.Code) {
	k.w.t.Helper()
	if got := k.works(); got != want {
		k.w.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestFormerStringWorksForItsGraceAndIsRevokedThen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.mint(activations(10))
	first.expect("before", "")
	second := first.rotate(time.Hour)
	first.expect("in its grace", "")
	second.expect("the new string", "")
	w.clock.advance(time.Hour - time.Nanosecond)
	first.expect("just before the grace ends", "")
	w.clock.advance(time.Nanosecond)
	first.expect("after it", record.CodeKeyRevoked)
	second.expect("the new string, then", "")
	w.restart()
	first.expect("after a restart", record.CodeKeyRevoked)
	second.expect("the new string, after a restart", "")
	v := second.view()
	if v.ID != first.id || v.Used[record.Activations] != 6 || v.Remaining[record.Activations] != 4 || v.Rotations != 1 {
		t.Errorf("the record says used %v, left %v, %d rotations", v.Used, v.Remaining, v.Rotations)
	}
}

func TestRotationWithoutGraceEndsEveryEarlierString(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.mint(activations(100))
	second := first.rotate(24 * time.Hour)
	third := second.rotate(time.Hour)
	w.clock.advance(time.Hour)
	first.expect("no string works longer than the last grace", record.CodeKeyRevoked)
	fourth := third.rotate(time.Hour)
	fifth := fourth.rotate(0)
	for i, k := range []*key{first, second, third, fourth} {
		if code := k.works(); code != record.CodeKeyRevoked {
			t.Errorf("string %d: %q", i, code)
		}
	}
	fifth.expect("the last", "")
}

func TestSixteenFormerStringsAreKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := []*key{w.mint(activations(100))}
	for range 16 {
		all = append(all, all[len(all)-1].rotate(time.Hour))
	}
	if _, err := all[16].tryRotate(time.Hour); err == nil || !strings.Contains(err.Error(), "grace of 0") {
		t.Errorf("a 17th string in its grace: %v", err)
	}
	for i, k := range all {
		if code := k.works(); code != "" {
			t.Errorf("string %d: %s", i, code)
		}
	}
	last := all[16].rotate(0)
	all[0].expect("the oldest", record.CodeKeyInvalid)
	all[1].expect("the oldest that is known", record.CodeKeyRevoked)
	last.expect("the present one", "")
	if n, _, err := w.Entries(last.id); err != nil || n != 17 {
		t.Errorf("the store has %d lookups, %v", n, err)
	}
	if n := w.Ways(last.id); n > 17 {
		t.Errorf("memory knows %d strings", n)
	}
}

func TestRotationLeavesStatusAndBudgetAsTheyAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(1))
	k.expect("the only one", "")
	k = k.rotate(time.Hour)
	k.expect("exhausted stays exhausted", record.CodeActivationsExhausted)

	k = w.mint(activations(1))
	if _, err := w.Suspend(limiter.Operator, k.id); err != nil {
		t.Fatal(err)
	}
	next := k.rotate(time.Hour)
	next.expect("suspended stays suspended", record.CodeKeySuspended)
	k.expect("the former string, too", record.CodeKeySuspended)
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
		t.Fatal(err)
	}
	k.expect("revoked, by its former string", record.CodeKeyRevoked)
	next.expect("revoked, by its new string", record.CodeKeyRevoked)
	if _, err := next.tryRotate(time.Hour); !errors.Is(err, limiter.ErrRevoked) {
		t.Errorf("rotating a revoked key: %v", err)
	}
	if err := w.Forget(ctx, limiter.Operator, k.id); err != nil {
		t.Fatal(err)
	}
	k.expect("forgotten", record.CodeKeyInvalid)
	next.expect("forgotten", record.CodeKeyInvalid)
	if n, _, err := w.Entries(k.id); err != nil || n != 0 {
		t.Errorf("the store has %d lookups of a forgotten key, %v", n, err)
	}
}

func TestGraceIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(1))
	for _, grace := range []time.Duration{-1, record.MaxGrace + 1} {
		var wrong *record.InvalidError
		if _, err := k.tryRotate(grace); !errors.As(err, &wrong) || wrong.Field != "grace" {
			t.Errorf("%s: %v", grace, err)
		}
	}
	k.expect("nothing has changed", "")
}

func TestBothStringsShareOneBudgetExactly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const limit = 500
	k := w.mint(activations(limit))
	strs := []*key{k}
	var admitted atomic.Int64
	var group sync.WaitGroup
	for round := range 5 {
		if round > 0 {
			strs = append(strs, strs[len(strs)-1].rotate(time.Hour))
		}
		for _, s := range strs {
			group.Go(func() {
				for range 60 {
					if s.works() == "" {
						admitted.Add(1)
					}
				}
			})
		}
	}
	group.Wait()
	if n := admitted.Load(); n != limit {
		t.Errorf("%d strings of one key admitted %d of %d requests", len(strs), n, limit)
	}
}

func TestWhatRunsWithAFormerStringIsCutWhenItsGraceEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	var cut atomic.Pointer[record.Refusal]
	g, refusal := k.come(func(r *record.Refusal) { cut.Store(r) })
	if refusal != nil {
		t.Fatal(refusal)
	}
	next := k.rotate(time.Hour)
	var kept atomic.Pointer[record.Refusal]
	h, refusal := next.come(func(r *record.Refusal) { kept.Store(r) })
	if refusal != nil {
		t.Fatal(refusal)
	}
	w.SweepActive()
	if cut.Load() != nil {
		t.Error("cut in its grace")
	}
	w.clock.advance(time.Hour)
	w.SweepActive()
	if r := cut.Load(); r == nil || r.Code != record.CodeKeyRevoked || g.Cut() == nil {
		t.Errorf("after the grace: %v", r)
	}
	if kept.Load() != nil {
		t.Error("what runs with the new string was cut")
	}
	h.Settle(record.Amounts{record.Activations: 1})
	g.Settle(record.Amounts{record.Activations: 1})

	g, refusal = next.come(func(r *record.Refusal) { cut.Store(r) })
	if refusal != nil {
		t.Fatal(refusal)
	}
	cut.Store(nil)
	_, n, err := w.Rotate(limiter.Operator, k.id, record.Issue{Lookup: newLookup(t)}, 0)
	if err != nil || n != 1 || cut.Load() == nil {
		t.Errorf("without a grace: %d cut, %v", n, err)
	}
	g.Settle(record.Amounts{record.Activations: 1})
}

// A request may have been read before a rotation and be admitted after it.
func TestARequestThatWasSlowToComeIsRefusedAfterTheRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	live, refusal := w.Find(ctx, k.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	number, refusal := live.Number(live.Key(), k.lookup, netip.Addr{})
	if refusal != nil {
		t.Fatal(refusal)
	}
	k.rotate(0)
	refusal = live.Reserve(ctx, &limiter.Ask{String: number, Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/"}, new(limiter.Grant))
	if refusal == nil || refusal.Code != record.CodeKeyRevoked {
		t.Errorf("%v", refusal)
	}
}

// One transaction: a crash leaves the key with either string, and never with
// none or with a budget of its own for each.
func TestACrashInARotationLeavesOneRecord(t *testing.T) {
	t.Parallel()
	for _, reached := range []bool{false, true} {
		for _, grace := range []time.Duration{0, time.Hour} {
			w := newWorld(t)
			k := w.mint(activations(3))
			k.expect("before", "")
			w.SweepActive()
			if err := w.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			w.disk.FailAt(1, reached)
			next, err := k.tryRotate(grace)
			if err == nil {
				t.Fatal("the rotation did not fail")
			}
			w.disk.Heal()
			w.kill(false)
			want := map[bool][2]record.Code{
				false: {"", record.CodeKeyInvalid},
				true:  {map[bool]record.Code{true: "", false: record.CodeKeyRevoked}[grace > 0], ""},
			}[reached]
			k.expect("the former string", want[0])
			next.expect("the new one", want[1])
			if v := k.view(); v.Limit[record.Activations] != 3 || v.Used[record.Activations] < 1 {
				t.Errorf("reached %t: limit %v, used %v", reached, v.Limit, v.Used)
			}
		}
	}
}

func TestTheSaltOfAFormerStringGoesWithItsGrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mint := func() *key {
		spec := &record.Key{Upstream: "openai", Custody: record.CustodySealed, Limit: record.NoLimits(), SealKey: token.SealKeyID{1}, Origins: []string{"https://a"}}
		lookup := newLookup(t)
		v, err := w.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup, Unlimited: true, Salt: token.NewSecret(strings.Repeat("a", token.SaltLen))})
		if err != nil {
			t.Fatal(err)
		}
		return &key{w: w, id: v.ID, lookup: lookup}
	}
	box := func(k *key) record.Box {
		t.Helper()
		live, refusal := w.Find(ctx, k.lookup)
		if refusal != nil {
			t.Fatal(refusal)
		}
		number, refusal := live.Number(live.Key(), k.lookup, netip.Addr{})
		if refusal != nil {
			return record.Box{}
		}
		return live.Box(live.Key(), number)
	}
	salts := func(k *key, want int) {
		t.Helper()
		if _, n, err := w.Entries(k.id); err != nil || n != want {
			t.Errorf("the store has %d salts, want %d (%v)", n, want, err)
		}
	}
	k := mint()
	next := k.rotate(time.Hour)
	for range 2 {
		old, now := box(k), box(next)
		if old.SealKey != (token.SealKeyID{1}) || old.Origins[0] != "https://a" || old.Salt.Reveal()[:1] != "a" ||
			now.SealKey != (token.SealKeyID{2}) || now.Origins[0] != "https://b" || now.Salt.Reveal()[:1] != "b" {
			t.Fatalf("former %v %q, new %v %q", old, old.Salt.Reveal(), now, now.Salt.Reveal())
		}
		salts(k, 2)
		w.restart()
	}
	w.clock.advance(time.Hour + time.Second)
	w.SweepDue()
	salts(k, 1)
	if b := box(k); !b.Salt.IsZero() {
		t.Error("the former string's salt is still in memory")
	}
	if b := box(next); b.Salt.IsZero() {
		t.Error("the new string's salt is gone")
	}
	if _, err := k.tryRotate(0); err != nil {
		t.Fatal(err)
	}
	salts(k, 1)
	next.rotate(time.Hour)
	salts(k, 2)
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
		t.Fatal(err)
	}
	salts(k, 0)

	if _, _, err := w.Rotate(limiter.Operator, mint().id, record.Issue{Lookup: newLookup(t)}, 0); err == nil {
		t.Error("a sealed key was rotated without a box")
	}
}
