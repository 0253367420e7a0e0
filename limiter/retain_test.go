package limiter_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

const day = 24 * time.Hour

func TestEndedKeysAreForgottenAfterRetainAndSumsAndAuditStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var dead []*key
	for range 150 {
		k := w.mint(activations(2))
		k.use()
		dead = append(dead, k)
	}
	alive, revived := w.mint(activations(2)), w.mint(activations(1))
	revived.drain(record.CodeActivationsExhausted)
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	for i, k := range dead {
		if i%2 == 0 {
			k.drain(record.CodeActivationsExhausted)
		} else if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
	}
	used := w.Stats().Used
	w.agree(t)
	w.restart() // out of memory
	w.clock.advance(limiter.DefaultRetain - time.Hour)
	w.SweepEnded()
	if code := dead[0].use(); code != record.CodeActivationsExhausted { // in memory now
		t.Errorf("before retain is over: %q", code)
	}
	if _, err := w.GrantMore(ctx, limiter.Operator, revived.id, limiter.More{Activations: 1}); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(2 * time.Hour)
	w.SweepEnded()
	for i, k := range dead {
		if _, err := w.Get(limiter.Operator, k.id); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("key %d after retain: %v", i, err)
		}
		if code := k.use(); code != record.CodeKeyInvalid {
			t.Fatalf("key %d after retain is refused with %q", i, code)
		}
	}
	for _, k := range []*key{alive, revived} {
		if code := k.use(); code != "" {
			t.Errorf("a key that lives: %q", code)
		}
	}
	used[record.Activations] += 2
	if got := w.Stats().Used; got != used {
		t.Errorf("all keys used %v, want %v", got, used)
	}
	w.SweepActive()
	w.agree(t)
	left, err := w.Left(dead[0].id)
	if err != nil || len(left) > 0 {
		t.Errorf("the store still holds %q, %v", left, err)
	}
	if log := w.acts(dead[1].id); log != "key.create key.revoke key.forget" {
		t.Errorf("the log says %s", log)
	}
	if _, err := w.AuditVerify(ctx, limiter.Operator); err != nil {
		t.Error(err)
	}
	w.Retain(time.Hour)
	revived.drain(record.CodeActivationsExhausted)
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(2 * time.Hour)
	w.SweepEnded()
	if _, err := w.Get(limiter.Operator, revived.id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("with a shorter retain: %v", err)
	}
}

func TestWhileTheClockIsInDoubtNothingIsForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(1))
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
		t.Fatal(err)
	}
	w.clock.set(365 * day)
	w.SweepEnded()
	if k.view().Status != record.Revoked {
		t.Error("forgotten while the clock is not believed")
	}
	w.restart() // and it is
	w.SweepEnded()
	if k.view().Status != record.Revoked {
		t.Error("forgotten right after a start with a clock that is far ahead")
	}
	w.clock.advance(day + time.Second)
	w.SweepEnded()
	if _, err := w.Get(limiter.Operator, k.id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a day later: %v", err)
	}
}

func TestOnceTheClockIsRepairedKeysAreForgottenAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(1))
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(limiter.DefaultRetain + day)
	w.mint(activations(1)) // tells the store the time
	const wrong = 365 * day
	w.clock.set(wrong)
	w.restart()
	w.clock.set(-wrong)
	if _, err := w.RepairClock(limiter.Operator); err != nil {
		t.Fatal(err)
	}
	w.SweepEnded()
	if _, err := w.Get(limiter.Operator, k.id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after the repair: %v", err)
	}
}

// TestExpiryCutsWhatRunsWhileEndedKeysAreForgotten holds the store up, so that
// forgetting takes as long as it would in a large one.
func TestExpiryCutsWhatRunsWhileEndedKeysAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old, k := w.mint(activations(1)), w.mint(expiresIn(w, time.Hour))
	if _, _, err := w.Revoke(ctx, limiter.Operator, old.id, ""); err != nil {
		t.Fatal(err)
	}
	cut := make(chan *record.Refusal, 1)
	g, refusal := k.ask(func(a *limiter.Ask) { a.OnCut = func(r *record.Refusal) { cut <- r } })
	if refusal != nil {
		t.Fatal(refusal)
	}
	w.clock.advance(time.Minute)
	release := w.hang()
	defer release()
	w.Retain(time.Second)
	w.clock.advance(time.Hour)
	select {
	case r := <-cut:
		if r.Code != record.CodeKeyExpired {
			t.Errorf("cut with %v", r)
		}
	case <-time.After(patience):
		t.Fatal("what runs past its key's time goes on while ended keys are forgotten")
	}
	release()
	g.Settle(record.Amounts{record.Activations: 1})
}

func TestTheAuditLogIsNotPrunedByAClockThatIsFarAheadAtTheStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 3 {
		w.mint(activations(1))
	}
	before := len(w.auditLines())
	w.clock.set(365 * day)
	w.restart()
	w.KeepAudit(day)
	if err := w.PruneAudit(); err != nil || len(w.auditLines()) < before {
		t.Errorf("%d of %d entries are left (%v)", len(w.auditLines()), before, err)
	}
}

func TestOneSweepEndsAllWhoseTimeIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var expiring []*key
	for i := range 300 {
		expiring = append(expiring, w.mint(func(k *record.Key) {
			k.ExpiresAt = w.clock.time().Add(time.Hour)
			if i%3 == 0 {
				k.ExpiresAt, k.IdleTimeout = time.Time{}, time.Hour
			}
		}))
	}
	suspended := expiring[299]
	if _, err := w.Suspend(limiter.Operator, suspended.id); err != nil {
		t.Fatal(err)
	}
	w.restart()
	expiring[0].use()
	w.clock.advance(2 * time.Hour)
	w.SweepDue()
	if n := w.Stats().Keys[record.Expired]; n != 299 {
		t.Errorf("%d keys are recorded as expired, want 299", n)
	}
	if left := w.Due(); left != 0 {
		t.Errorf("%d entries of the time index are left over", left)
	}
	if _, err := w.Resume(limiter.Operator, suspended.id); err != nil {
		t.Fatal(err)
	}
	w.SweepDue()
	if log := w.acts(suspended.id); !strings.HasSuffix(log, "key.resume key.expired") {
		t.Errorf("the log says %s", log)
	}
	w.agree(t)
}

// TestAKeyThatBeginsAnewIsNotForgotten: who may end keys is said by another permission.
func TestAKeyThatBeginsAnewIsNotForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.Limit[record.Activations], k.Renews = 1, record.Daily })
	k.use()
	if v := k.view(); v.Status != record.Exhausted {
		t.Fatalf("it is %s", v.Status)
	}
	if err := w.Forget(ctx, limiter.Operator, k.id); !errors.Is(err, limiter.ErrAlive) {
		t.Errorf("forgetting it: %v", err)
	}
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
		t.Fatal(err)
	}
	if err := w.Forget(ctx, limiter.Operator, k.id); err != nil {
		t.Error(err)
	}
}

func TestForgottenKeysLeaveTheirTotals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(3))
	if err := w.Forget(ctx, limiter.Operator, k.id); !errors.Is(err, limiter.ErrAlive) {
		t.Fatalf("forgetting a live key: %v", err)
	}
	k.use()
	k.use()
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
		t.Fatal(err)
	}
	held, refusal := w.Find(ctx, k.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if err := w.Forget(ctx, limiter.Operator, k.id); err != nil {
		t.Fatal(err)
	}
	if code := k.use(); code != record.CodeKeyInvalid {
		t.Errorf("a forgotten key: %q", code)
	}
	// A request that had found the key before it was forgotten.
	if r := held.Reserve(ctx, &limiter.Ask{Method: "GET", Path: "/"}, new(limiter.Grant)); r == nil || r.Code != record.CodeKeyInvalid {
		t.Errorf("a forgotten key that was found before: %v", r)
	}
	if _, err := w.Get(limiter.Operator, k.id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	w.SweepActive()
	w.restart()
	if s := w.Stats(); s.Forgotten[record.Activations] != 2 || s.Keys[record.Revoked] != 0 {
		t.Errorf("stats %+v", s)
	}
}
