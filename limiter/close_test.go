package limiter_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// gated is a store whose transactions wait at a gate, if there is one.
type gated struct {
	store.Store
	gate atomic.Pointer[chan struct{}]
	wait atomic.Bool // whether one waits
}

// Update implements store.Store.
func (s *gated) Update(fn func(store.Tx) error) error {
	if gate := s.gate.Load(); gate != nil {
		s.wait.Store(true)
		<-*gate
	}
	return s.Store.Update(fn)
}

// TestAStopGivesBackABlockThatIsOnItsWay: another machine opens the store, and what it
// found reserved there would count as used.
func TestAStopGivesBackABlockThatIsOnItsWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := storetest.NewDisk()
		s := &gated{Store: disk.Open()}
		w := &world{t: t, clock: newClock(), disk: disk, shadow: "shadow", anchor: "anchor", files: disk.Files()}
		w.open(s)
		k := w.mint(activations(1000))
		used := int64(0)
		use := func() {
			if code := k.use(); code != "" {
				t.Fatalf("after %d: %s", used, code)
			}
			used++
		}
		for left := int64(0); left < 8; w.clock.advance(time.Millisecond) { // until blocks are of some size
			use()
			synctest.Wait()
			reserved, err := w.ReservedHere(k.id)
			if err != nil {
				t.Fatal(err)
			}
			left = reserved[record.Activations] - used
		}
		gate := make(chan struct{})
		s.gate.Store(&gate)
		for !s.wait.Load() {
			use()
			synctest.Wait()
		}
		closed := make(chan error, 1)
		go func() { closed <- w.Close() }()
		synctest.Wait()
		close(gate)
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		w.shadow = "of another machine"
		w.open(disk.Open())
		defer w.Abandon()
		if got := k.view().Used[record.Activations]; got != used {
			t.Errorf("%d are used, and %d were", got, used)
		}
	})
}
