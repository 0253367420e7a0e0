package limiter_test

import (
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// TestAnEntryOfNoKeyHoldsUpNoSweep: what is wrong with one entry of the time index is no
// reason to leave the keys of the others as they are.
func TestAnEntryOfNoKeyHoldsUpNoSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.ExpiresAt = w.clock.time().Add(time.Hour) })
	w.Abandon()
	s := w.disk.Open()
	if err := s.Update(func(tx store.Tx) error { return tx.Set(record.DueKey(1, "no id"), nil) }); err != nil {
		t.Fatal(err)
	}
	w.kill(false)
	w.clock.advance(2 * time.Hour)
	w.SweepDue()
	if n := w.Stats().Keys[record.Expired]; n != 1 {
		t.Errorf("%d keys are recorded as expired, want that of %s", n, k.id)
	}
}
