package commit_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/commit/committest"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestACallerWaitsNoLongerThanItsPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := storetest.NewDisk()
		c := committest.Start(t, disk.Open(), func(o *committest.Options) { o.Patience = time.Second })
		over := make(chan struct{})
		disk.BeforeCommit(func(int) { <-over })
		begun := make(chan error)
		start := time.Now()
		go func() { begun <- c.Do(set("a", "1"), nil) }()
		synctest.Wait() // its commit hangs
		err := c.Do(func(transaction) error { t.Error("it was abandoned, and ran"); return nil }, nil)
		if !errors.Is(err, commit.ErrBusy) || time.Since(start) != time.Second {
			t.Errorf("what had not begun is answered %v after %s", err, time.Since(start))
		}
		if err := <-begun; !errors.Is(err, commit.ErrOutcome) || time.Since(start) != 2*time.Second {
			t.Errorf("what had begun is answered %v after %s", err, time.Since(start))
		}
		if c.Running().IsZero() {
			t.Error("it says that no commit runs")
		}
		close(over)
		synctest.Wait()
		if !c.Running().IsZero() || c.Backlog() != 0 {
			t.Errorf("a commit runs since %s, %d wait", c.Running(), c.Backlog())
		}
		if err := c.Do(set("b", "1"), nil); err != nil {
			t.Error(err)
		}
	})
}
