package e2e

import (
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
)

// Most tests wait most of the time, and some run side by side: as many as there are
// places. Those that keep the processors or the memory busy by themselves would only
// starve each other, so they have weights besides, and what runs at a time weighs
// allWeights at most. A test that waits for its turn is in no other's way.
const (
	allWeights   = 6
	heavyWeight  = 3 // hundreds of connections, bodies of megabytes, or kills
	middleWeight = 1 // thousands of requests
)

var (
	weights = semaphore.NewWeighted(allWeights)
	places  = semaphore.NewWeighted(int64(4 * runtime.GOMAXPROCS(0)))
	placed  sync.Map // names of the tests that have one
)

// weighs waits until there is room for a test of such a weight. It comes after
// t.Parallel, before the first server, once in a test, and never in one whose
// subtests are parallel: they would wait for a turn that others cannot end.
func weighs(t *testing.T, weight int64) {
	t.Helper()
	waitsFor(t, weights, weight)
}

// takesPlace waits for a place, unless the test or one that it is a part of has
// one. A server takes it.
func takesPlace(t *testing.T) {
	t.Helper()
	for name := t.Name(); name != ""; name = name[:max(0, strings.LastIndexByte(name, '/'))] {
		if _, ok := placed.Load(name); ok {
			return
		}
	}
	waitsFor(t, places, 1)
	placed.Store(t.Name(), true)
	t.Cleanup(func() { placed.Delete(t.Name()) })
}

// waitsFor takes n of what there is, until the returned function is called or the
// test has ended. What it logs is left out of the test's time in the report of
// scripts/runtests.
func waitsFor(t *testing.T, of *semaphore.Weighted, n int64) (done func()) {
	t.Helper()
	began := time.Now()
	if err := of.Acquire(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	done = sync.OnceFunc(func() { of.Release(n) })
	t.Cleanup(done)
	if waited := time.Since(began); waited > time.Second {
		t.Logf("waited %s for its turn", waited.Round(time.Millisecond))
	}
	return done
}
