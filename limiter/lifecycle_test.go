package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

var ctx = context.Background()

func TestTimeEndsKeys(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		key   func(w *world) func(*record.Key)
		uses  []time.Duration // when it is used, before
		alive time.Duration   // still works here
		dead  time.Duration   // and no more here
		code  record.Code
	}{
		{
			name:  "expiry",
			key:   func(w *world) func(*record.Key) { return expiresIn(w, time.Hour) },
			alive: time.Hour - time.Nanosecond, dead: time.Hour, code: record.CodeKeyExpired,
		}, {
			name: "idle since its last use",
			key: func(*world) func(*record.Key) {
				return func(k *record.Key) { k.IdleTimeout = 10 * time.Minute }
			},
			uses:  []time.Duration{5 * time.Minute, 9 * time.Minute},
			alive: 19*time.Minute - time.Nanosecond, dead: 29 * time.Minute, code: record.CodeKeyIdle,
		}, {
			name: "idle since it was made",
			key: func(*world) func(*record.Key) {
				return func(k *record.Key) { k.IdleTimeout = 10 * time.Minute }
			},
			dead: 10 * time.Minute, code: record.CodeKeyIdle,
		}, {
			name: "never used in time",
			key: func(*world) func(*record.Key) {
				return func(k *record.Key) { k.FirstUseWithin = time.Hour }
			},
			dead: time.Hour, code: record.CodeKeyExpired,
		}, {
			name: "used in time",
			key: func(w *world) func(*record.Key) {
				return func(k *record.Key) { k.FirstUseWithin = time.Hour; expiresIn(w, 24*time.Hour)(k) }
			},
			uses:  []time.Duration{59 * time.Minute},
			alive: 23 * time.Hour, dead: 24 * time.Hour, code: record.CodeKeyExpired,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			k := w.mint(test.key(w))
			start := w.clock.time()
			at := func(d time.Duration) { w.clock.advance(start.Add(d).Sub(w.clock.time())) }
			for _, d := range test.uses {
				at(d)
				if code := k.use(); code != "" {
					t.Fatalf("at %s: %s", d, code)
				}
			}
			if test.alive > 0 {
				at(test.alive)
				if code := k.use(); code != "" {
					t.Fatalf("at %s: %s, want alive", test.alive, code)
				}
			}
			at(test.dead)
			w.restart() // the answer must not depend on what memory knows
			if code := k.use(); code != test.code {
				t.Errorf("at %s: %q, want %s", test.dead, code, test.code)
			}
			w.clock.advance(time.Second)
			w.SweepDue()
			if v := k.view(); v.EndedStatus != record.Expired || v.EndedReason != string(test.code) {
				t.Errorf("after the sweep the record says %q, %q", v.EndedStatus, v.EndedReason)
			}
			if n := w.Stats().Keys; n[record.Expired] != 1 || n[record.Active] != 0 {
				t.Errorf("the tally says %v", n)
			}
		})
	}
}

func expiresIn(w *world, d time.Duration) func(*record.Key) {
	return func(k *record.Key) { k.ExpiresAt = w.clock.time().Add(d) }
}

func TestExpiryCutsWhatRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(expiresIn(w, time.Minute))
	cut := make(chan *record.Refusal, 1)
	g, refusal := k.ask(func(a *limiter.Ask) { a.OnCut = func(r *record.Refusal) { cut <- r } })
	if refusal != nil {
		t.Fatal(refusal)
	}
	w.clock.advance(time.Minute)
	w.SweepActive()
	if r := <-cut; r.Code != record.CodeKeyExpired || g.Cut() != r {
		t.Errorf("cut with %v", r)
	}
	g.Settle(record.Amounts{record.Activations: 1})
}

func TestRevokedIsForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	cut := make(chan *record.Refusal, 2)
	g, refusal := k.ask(func(a *limiter.Ask) { a.OnCut = func(r *record.Refusal) { cut <- r } })
	if refusal != nil {
		t.Fatal(refusal)
	}
	v, n, err := w.Revoke(ctx, limiter.Operator, k.id, "the contractor left")
	if err != nil || n != 1 || v.Status != record.Revoked {
		t.Fatalf("revoke: %v, %d cut, %v", v.Status, n, err)
	}
	if r := <-cut; r.Code != record.CodeKeyRevoked {
		t.Errorf("cut with %s", r.Code)
	}
	g.Settle(record.Amounts{record.Activations: 1})
	if _, err := w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 5}); !errors.Is(err, limiter.ErrRevoked) {
		t.Errorf("a grant to a revoked key: %v", err)
	}
	if _, err := w.Resume(limiter.Operator, k.id); !errors.Is(err, limiter.ErrRevoked) {
		t.Errorf("resuming a revoked key: %v", err)
	}
	if _, err := w.Suspend(limiter.Operator, k.id); !errors.Is(err, limiter.ErrRevoked) {
		t.Errorf("suspending a revoked key: %v", err)
	}
	for range 2 {
		if code := k.use(); code != record.CodeKeyRevoked {
			t.Errorf("a revoked key: %q", code)
		}
		w.restart()
	}
	v, _, err = w.Revoke(ctx, limiter.Operator, k.id, "again")
	if err != nil || v.EndedReason != "the contractor left" {
		t.Errorf("revoking twice: %q, %v", v.EndedReason, err)
	}
}

func TestRevocationHoldsInMemoryWhenTheDiskFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	if code := k.use(); code != "" {
		t.Fatal(code)
	}
	w.disk.FailAt(1, false)
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); !errors.Is(err, errInjected) {
		t.Fatalf("revoke on a failing disk: %v", err)
	}
	if code := k.use(); code != record.CodeKeyRevoked && code != record.CodeStoreUnavailable {
		t.Errorf("after it: %q, want a refusal", code)
	}
}

func TestSuspendedKeysComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	if _, err := w.Suspend(limiter.Operator, k.id); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if code := k.use(); code != record.CodeKeySuspended {
		t.Errorf("suspended: %q", code)
	}
	if _, err := w.Resume(limiter.Operator, k.id); err != nil {
		t.Fatal(err)
	}
	if n := k.drain(record.CodeActivationsExhausted); n != 10 {
		t.Errorf("after resume %d were left, want 10", n)
	}
}

func TestAGrantRevives(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.Limit[record.Activations] = 3; expiresIn(w, time.Hour)(k) })
	if n := k.drain(record.CodeActivationsExhausted); n != 3 {
		t.Fatal(n)
	}
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if v := k.view(); v.EndedStatus != record.Exhausted {
		t.Fatalf("the end is not final: %+v", v.EndedStatus)
	}
	v, err := w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 4})
	if err != nil || v.Status != record.Active || !v.EndedAt.IsZero() {
		t.Fatalf("grant: %v %v %v", v.Status, v.EndedAt, err)
	}
	if n := k.drain(record.CodeActivationsExhausted); n != 4 {
		t.Errorf("after a grant of 4: %d", n)
	}
	w.clock.advance(2 * time.Hour)
	if code := k.use(); code != record.CodeKeyExpired {
		t.Fatalf("%q", code)
	}
	if _, err = w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 1, Lifetime: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if n := k.drain(record.CodeActivationsExhausted); n != 1 {
		t.Errorf("after a grant of 1 and an hour: %d", n)
	}
	if n := w.Stats().Keys; n[record.Active]+n[record.Exhausted] != 1 || n[record.Expired] != 0 {
		t.Errorf("the tally says %v", n)
	}
	for _, more := range []limiter.More{{}, {Activations: -1}, {Tokens: 5}, {Lifetime: -time.Hour}, {Activations: 1 << 62}} {
		var invalid *record.InvalidError
		if _, err := w.GrantMore(ctx, limiter.Operator, k.id, more); !errors.As(err, &invalid) {
			t.Errorf("grant %+v: %v, want an InvalidError", more, err)
		}
	}
}

func TestAChangeIsVersionedAndKeepsWhatIsNotChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	for range 4 {
		k.use()
	}
	v := k.view()
	lower := func(key *record.Key) error { key.Limit[record.Activations] = 6; key.ID = "key_other"; return nil }
	if _, err := w.Change(ctx, limiter.Operator, k.id, v.Version+1, lower); !errors.Is(err, limiter.ErrVersion) {
		t.Fatalf("wrong version: %v", err)
	}
	v, err := w.Change(ctx, limiter.Operator, k.id, v.Version, lower)
	if err != nil || v.ID != k.id || v.Limit[0] != 6 {
		t.Fatalf("%v %v", v, err)
	}
	if n := k.drain(record.CodeActivationsExhausted); n != 2 {
		t.Errorf("lowered from 10 to 6 after 4: %d left, want 2", n)
	}
	if _, err := w.Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error { key.Limit[0] = 100; return nil }); !errors.Is(err, limiter.ErrDead) {
		t.Errorf("raising a dead key's limit: %v", err)
	}
	v, err = w.Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error { key.Name = "old"; return nil })
	if err != nil || v.Name != "old" {
		t.Errorf("renaming a dead key: %v", err)
	}
}

func TestMintRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, test := range []struct {
		field string
		fn    func(*record.Key)
	}{
		{"max_activations", func(k *record.Key) { k.Limit[0] = -3 }},
		{"limits:", func(k *record.Key) { k.Limit[0] = record.NoLimit }},
		{"upstream", func(k *record.Key) { k.Upstream = "" }},
		{"expires_at", func(k *record.Key) { k.ExpiresAt = w.clock.time() }},
		{"charge", func(k *record.Key) { k.Charge = "twice" }},
		{"charge", func(k *record.Key) { k.Charge = record.ChargeSuccess; k.Limit[0] = record.NoLimit }},
		{"max_concurrency", func(k *record.Key) { k.MaxConcurrency = -1 }},
		{"idle_timeout", func(k *record.Key) { k.IdleTimeout = -1 }},
		{"role", func(k *record.Key) { k.Role = "nobody" }},
		{"name", func(k *record.Key) { k.Name = "a\nb" }},
		{"labels", func(k *record.Key) { k.Labels = map[string]string{"": "x"} }},
		{"scope:", func(k *record.Key) { k.Scope.Paths = []string{"no-slash"} }},
	} {
		spec := &record.Key{Upstream: "openai", Limit: record.NoLimits()}
		spec.Limit[0] = 1
		test.fn(spec)
		_, err := w.Mint(limiter.Operator, spec, limiter.Birth{Lookup: [32]byte{1}})
		var invalid *record.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != test.field {
			t.Errorf("%s: %v", test.field, err)
		}
	}
	if n := w.Stats().Keys[record.Active]; n != 0 {
		t.Errorf("%d keys were minted all the same", n)
	}
}

func TestListPagesThroughAllKeysOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	minted := map[string]bool{}
	for i := range 23 {
		k := w.mint(func(k *record.Key) {
			k.Limit[0] = 1
			k.Name = fmt.Sprintf("Key %02d", i)
			k.Labels = map[string]string{"even": fmt.Sprint(i%2 == 0)}
			if i%3 == 0 {
				k.Upstream = "github"
			}
		})
		minted[k.id] = true
		w.clock.advance(time.Minute)
		if i == 5 {
			k.drain(record.CodeActivationsExhausted)
		}
	}
	for _, sort := range []string{"", "created"} {
		seen := map[string]bool{}
		f := limiter.Filter{Limit: 5, Sort: sort}
		var last time.Time
		for {
			page, err := w.List(ctx, limiter.Operator, f)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range page.Keys {
				if seen[v.ID] {
					t.Errorf("%s twice", v.ID)
				}
				seen[v.ID] = true
				if !last.IsZero() && v.CreatedAt.After(last) != (sort == "created") {
					t.Errorf("sort %q: %s after %s", sort, v.CreatedAt, last)
				}
				last = v.CreatedAt
			}
			if f.Cursor = page.Next; page.Next == "" {
				break
			}
		}
		if len(seen) != len(minted) {
			t.Errorf("sort %q: %d of %d", sort, len(seen), len(minted))
		}
	}
	for _, test := range []struct {
		f    limiter.Filter
		want int
	}{
		{limiter.Filter{Upstream: "github"}, 8},
		{limiter.Filter{Labels: map[string]string{"even": "true"}}, 12},
		{limiter.Filter{Query: "key 0"}, 10},
		{limiter.Filter{Status: record.Exhausted}, 1},
		{limiter.Filter{UnusedFor: 20 * time.Minute}, 4},
		{limiter.Filter{CreatedBy: "somebody"}, 0},
	} {
		page, err := w.List(ctx, limiter.Operator, test.f)
		if err != nil || len(page.Keys) != test.want {
			t.Errorf("%+v: %d, %v; want %d", test.f, len(page.Keys), err, test.want)
		}
	}
	for _, f := range []limiter.Filter{{Sort: "size"}, {Status: "odd"}, {Limit: 501}, {Cursor: "!"}, {Cursor: "a2V5Xw"}} {
		var invalid *record.InvalidError
		if _, err := w.List(ctx, limiter.Operator, f); !errors.As(err, &invalid) {
			t.Errorf("%+v: %v, want an InvalidError", f, err)
		}
	}
}

func TestHistoryAddsUpAcrossRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(5))
	for range 3 {
		k.use()
		w.clock.advance(time.Hour)
	}
	w.restart()
	k.drain(record.CodeActivationsExhausted)
	k.use()
	h, err := w.Usage(limiter.Operator, k.id)
	if err != nil {
		t.Fatal(err)
	}
	var hours, days, refused int64
	for _, b := range h.Hours {
		hours += b.Activations
		refused += b.Refusals[record.CodeActivationsExhausted]
	}
	for _, b := range h.Days {
		days += b.Activations
	}
	if hours != 5 || days != 5 || refused != 2 || len(h.Hours) != 4 || len(h.Days) != 1 {
		t.Errorf("hours %d, days %d, refused %d: %+v", hours, days, refused, h)
	}
}

func TestIdleKeysLeaveMemoryAndComeBackUnchanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	for range 4 {
		k.use()
	}
	for range 4 {
		w.clock.advance(5 * time.Minute)
		w.SweepActive()
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		w.SweepIdle()
	}
	if w.InMemory(k.id) {
		t.Fatal("an idle key stays in memory")
	}
	live, refusal := w.Find(ctx, k.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if n := k.drain(record.CodeActivationsExhausted); n != 6 {
		t.Errorf("%d left, want 6", n)
	}
	if live.Key().ID != k.id {
		t.Error("another key came back")
	}
}
