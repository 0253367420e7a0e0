package till

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// TestWhatRunsEndsWithItsKeyWhileTheStoreCannotBeOpened although nobody asks for the store.
func TestWhatRunsEndsWithItsKeyWhileTheStoreCannotBeOpened(t *testing.T) {
	t.Parallel()
	for name, hangs := range map[string]bool{"its disk fails": false, "its disk does not answer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				disk := storetest.NewDisk()
				e, o := engineOn(t, disk)
				l := e.mustOpen(t, o)
				k := findIn(t, l, mintIn(t, l, 100))
				_, err := l.Change(t.Context(), limiter.Operator, k.Key().ID, 0, func(key *record.Key) error {
					key.ExpiresAt = l.Time().Add(10 * time.Minute)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				running := admitted(t, k)
				failIn(t, disk, l)
				answers, opens := make(chan struct{}), o.open
				o.open = func(with StoreOpening) (OpenedStore, error) {
					if hangs {
						<-answers
					}
					return opens(with)
				}
				defer close(answers)
				time.Sleep(reopenAfter)
				if l, err := e.open(o, time.Second); err != nil || l.Failed() == nil {
					t.Fatalf("a store that still fails: %v", err)
				}
				time.Sleep(9 * time.Minute)
				if r := running.Cut(); r != nil {
					t.Errorf("before its key expires it is cut with %v", r)
				}
				time.Sleep(2 * time.Minute)
				if r := running.Cut(); r == nil || r.Code != record.CodeKeyExpired {
					t.Errorf("after its key has expired it is cut with %v", r)
				}
			})
		})
	}
}
