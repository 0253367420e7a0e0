package limiter_test

import (
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestALockdownThatIsSetWhileAnotherIsBeingLiftedStaysInForce: lifting waits for the disk, and
// whoever sets it then is not undone by that, not even for a moment.
func TestALockdownThatIsSetWhileAnotherIsBeingLiftedStaysInForce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lockdown")
	synctest.Test(t, func(t *testing.T) {
		d := newLockdown(path)
		d.Recall()
		if _, _, err := d.Set(limiter.Operator, "first", time.Now()); err != nil {
			t.Fatal(err)
		}
		end := d.TakeTurn()
		var lifted, set error
		go func() { lifted = d.Lift(limiter.Operator) }()
		synctest.Wait()
		go func() { _, _, set = d.Set(limiter.Operator, "second", time.Now()) }()
		synctest.Wait()
		end()
		synctest.Wait()
		if !errors.Is(lifted, limiter.ErrLockedAgain) || set != nil {
			t.Errorf("lifting answers %v, and setting %v", lifted, set)
		}
		if r := d.Refusal(nil); r == nil || r.Code != record.CodeLockedDown {
			t.Error("keys work")
		}
		again := newLockdown(path) // as after a restart
		again.Recall()
		if again.State() == nil {
			t.Error("it is not durable")
		}
	})
}
