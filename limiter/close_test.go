package limiter_test

import (
	"bytes"
	"log/slog"
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

// TestAStopDoesNotWaitForAWholeSweep, which takes a commit or two for each of many keys.
// What is left of it is found again after the next start.
func TestAStopDoesNotWaitForAWholeSweep(t *testing.T) {
	t.Parallel()
	const many = 20
	expires := func(k *record.Key) { k.ExpiresAt = newClock().now.Add(time.Hour) }
	for name, test := range map[string]struct {
		mint  func(w *world) []*key
		known bool // they are in memory
	}{
		"children of a key that has expired": {mint: func(w *world) (children []*key) {
			parent := w.mint(delegating(activations(1000), expires))
			w.clock.advance(time.Second) // so it is due before them
			for range many {
				children = append(children, parent.mustChild(activations(10)))
			}
			return children
		}},
		"keys that have expired": {known: true, mint: func(w *world) []*key {
			return w.MintMany(many, func(_ int, k *record.Key) { expires(k) })
		}},
		"keys that nobody uses": {mint: func(w *world) []*key {
			return w.MintMany(many, func(int, *record.Key) {})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				w := newMachine(t)
				w.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
				keys := test.mint(w)
				w.restart() // none of them is in memory
				swept := func() (n int) {
					for _, k := range keys {
						if v := k.view(); v.EndedStatus != "" || !v.StaleToldAt.IsZero() {
							n++
						}
					}
					return n
				}
				if test.known {
					swept()
				}
				w.clock.advance(31 * day)
				gate := make(chan struct{})
				w.disk.BeforeCommit(func(int) { <-gate })
				for swept() < 3 {
					gate <- struct{}{} // also waits until the sweep is due
					synctest.Wait()
				}
				closed := make(chan error, 1)
				go func() { closed <- w.Close() }()
				synctest.Wait()
				commits := 0
				for open := true; open; {
					select {
					case gate <- struct{}{}:
						commits++
					case err := <-closed:
						open = false
						if err != nil {
							t.Error(err)
						}
					}
				}
				if commits > 10 {
					t.Errorf("the stop has waited for %d commits", commits)
				}
				if log.Len() > 0 {
					t.Errorf("it is reported as a failure: %s", log.String())
				}
				w.disk.BeforeCommit(nil)
				w.open(w.disk.Open())
				w.SweepDue()
				w.SweepStale()
				if n := swept(); n != many || w.Due() != 0 {
					t.Errorf("after the next start, %d of %d were swept, and %d are due", n, many, w.Due())
				}
			})
		})
	}
}
