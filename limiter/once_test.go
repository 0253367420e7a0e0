package limiter_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// TestACallIsDoneOnceOverKillsAndIsForgottenAfterADay kills between the tries.
func TestACallIsDoneOnceOverKillsAndIsForgottenAfterADay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	grant := func() error {
		by := limiter.Operator.Once("grant", [32]byte{1}) // each try anew, as a call is
		_, err := w.GrantMore(ctx, by, k.id, limiter.More{Activations: 1})
		return err
	}
	if err := grant(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if err := grant(); !errors.Is(err, limiter.ErrReplayed) {
			t.Errorf("again: %v, want ErrReplayed", err)
		}
		other := limiter.Operator.Once("grant", [32]byte{2})
		if _, _, err := w.Replay(other); !errors.Is(err, limiter.ErrReused) {
			t.Errorf("another call: %v, want ErrReused", err)
		}
		if _, err := w.GrantMore(ctx, other, k.id, limiter.More{Activations: 2}); !errors.Is(err, limiter.ErrReused) {
			t.Errorf("another call: %v, want ErrReused", err)
		}
		w.kill(i%2 == 0)
	}
	if n := k.view().Limit[record.Activations]; n != 11 {
		t.Errorf("%d activations after one grant of 1, want 11", n)
	}
	w.clock.advance(24 * time.Hour)
	for range 2 { // once while it is still there, once after it was pruned
		if err := grant(); err != nil {
			t.Errorf("a day later: %v", err)
		}
		w.clock.advance(24 * time.Hour)
		if err := w.PruneOnces(); err != nil {
			t.Fatal(err)
		}
		if n, err := w.Onces(); n != 0 || err != nil {
			t.Errorf("%d calls are known, %v", n, err)
		}
	}
	if _, err := w.AuditVerify(ctx, limiter.Operator); err != nil {
		t.Error(err)
	}
}

// TestOneCallMayWriteSeveralEntries is about acts on more than one key.
func TestOneCallMayWriteSeveralEntries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	by := limiter.Operator.Once("many", [32]byte{1})
	for i := range 3 {
		k := w.mint(activations(1))
		if _, _, err := w.Revoke(ctx, by, k.id, fmt.Sprint(i)); err != nil {
			t.Error(err)
		}
	}
	if n, err := w.Onces(); n != 1 || err != nil {
		t.Errorf("%d calls are known, %v", n, err)
	}
}

func TestNobodyShutsTheOperatorOutOfIdempotencyKeys(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	_, anna := w.hire(limiter.Operator, "anna", "lead")
	var minted string
	mint := func(by limiter.Caller) error {
		_, lookup, err := token.MintKey()
		if err != nil {
			t.Fatal(err)
		}
		spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()}
		spec.Limit[record.Activations] = 1
		v, err := w.Mint(by, spec, limiter.Birth{Lookup: lookup})
		minted = v.ID
		return err
	}
	if err := mint(anna); err != nil {
		t.Fatal(err)
	}
	id := minted
	if err := w.FillOnces(90_000); err != nil {
		t.Fatal(err)
	}
	var full *record.InvalidError
	if err := mint(anna.Once("a", [32]byte{1})); !errors.As(err, &full) || full.Field != "Idempotency-Key" {
		t.Errorf("a team's call, with as many known as it may fill: %v", err)
	}
	if err := mint(limiter.Operator.Once("a", [32]byte{1})); err != nil {
		t.Errorf("the operator's: %v", err)
	}
	if _, err := w.Suspend(anna.Once("b", [32]byte{2}), id); err != nil {
		t.Errorf("a team stops a key: %v", err)
	}
	if _, _, err := w.Revoke(ctx, anna.Once("c", [32]byte{3}), id, ""); err != nil {
		t.Errorf("a team revokes a key: %v", err)
	}
	if err := w.FillOnces(100_000); err != nil {
		t.Fatal(err)
	}
	if err := mint(limiter.Operator.Once("b", [32]byte{1})); !errors.As(err, &full) {
		t.Errorf("the operator's, with all there may be: %v", err)
	}
}
