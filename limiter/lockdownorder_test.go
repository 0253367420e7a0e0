package limiter_test

import (
	"errors"
	"log/slog"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"

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
		if _, _, err := d.Set(limiter.Operator, "first"); err != nil {
			t.Fatal(err)
		}
		end := d.TakeTurn()
		var lifted, set error
		go func() { lifted = d.Lift(limiter.Operator) }()
		synctest.Wait()
		go func() { _, _, set = d.Set(limiter.Operator, "second") }()
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

// TestALockdownThatIsSetWhileTheFileOfAnotherIsRemovedStaysInForce: the one that lifts has found
// no other before.
func TestALockdownThatIsSetWhileTheFileOfAnotherIsRemovedStaysInForce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lockdown")
	slow := &logged{message: "what is left of an attempt to write the file of a lockdown stays; nothing reads it"}
	d := limiter.NewLockdown(limiter.LockdownOptions{Path: path, Logger: slog.New(slow), Patience: patience})
	d.Recall()
	if _, _, err := d.Set(limiter.Operator, "first"); err != nil {
		t.Fatal(err)
	}
	unremovable(t, path+".new")
	set := make(chan error, 1)
	slow.then = func() {
		go func() {
			_, _, err := d.Set(limiter.Operator, "second")
			set <- err
		}()
		for d.State().Reason != "second" {
			runtime.Gosched()
		}
	}
	if err := d.Lift(limiter.Operator); !errors.Is(err, limiter.ErrLockedAgain) || slow.then != nil {
		t.Errorf("lifting answers %v", err)
	}
	if err := <-set; err != nil || d.Refusal(nil) == nil {
		t.Errorf("keys work, or setting it has failed: %v", err)
	}
	d.Close()
}
