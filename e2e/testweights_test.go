package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
)

// Most tests wait most of the time, and some run side by side: as many as there are
// places. Those that keep the processors or the memory busy by themselves would only
// starve each other, so they have weights besides, and what runs at a time weighs
// allWeights at most, in all phases of a run together. A test that waits for its turn is in no other's way.
const (
	allWeights   = 6
	heavyWeight  = 3 // hundreds of connections, bodies of megabytes, or kills
	middleWeight = 1 // thousands of requests, or faults of nodes, which wait for each other
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
	if dir := os.Getenv(runVariable); dir != "" {
		began := time.Now()
		locks, err := lockWeights(dir, weight)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := closeAll(locks); err != nil {
				t.Error(err)
			}
		})
		logWait(t, began)
	}
}

// runVariable names a directory that all phases of a run of scripts/runtests share.
const runVariable = "TILL_TEST_RUN"

// lockWeights waits until other processes leave so much of allWeights. Each of these is
// a lock on a file, which ends with its process. Who comes first is served first.
func lockWeights(dir string, weight int64) (locks []*os.File, err error) {
	queue, err := lock(filepath.Join(dir, "weights"), 0)
	if err != nil {
		return nil, err
	}
	defer queue.Close()
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C { // between two looks
		for i := range allWeights {
			if int64(len(locks)) == weight {
				return locks, nil
			}
			f, err := lock(filepath.Join(dir, fmt.Sprint("weight", i)), syscall.LOCK_NB)
			if err == nil {
				locks = append(locks, f)
			} else if !errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, errors.Join(err, closeAll(locks))
			}
		}
	}
}

// lock returns a file that is locked until it is closed.
func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|how); {
		case err == nil:
			return f, nil
		case !errors.Is(err, syscall.EINTR):
			return nil, errors.Join(err, f.Close())
		}
	}
}

func closeAll(files []*os.File) (err error) {
	for _, f := range files {
		err = errors.Join(err, f.Close())
	}
	return err
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
	logWait(t, began)
	return done
}

func logWait(t *testing.T, began time.Time) {
	t.Helper()
	if waited := time.Since(began); waited > time.Second {
		t.Logf("waited %s for its turn", waited.Round(time.Millisecond))
	}
}

func TestWeightsAreSharedWithOtherPhases(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := lockWeights(dir, allWeights-1)
	if err != nil {
		t.Fatal(err)
	}
	second, err := lockWeights(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	third := make(chan error)
	go func() {
		locks, err := lockWeights(dir, heavyWeight)
		third <- errors.Join(err, closeAll(locks))
	}()
	if _, err := lock(filepath.Join(dir, "weight0"), syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("a weight that is taken: %v", err)
	}
	if err := errors.Join(closeAll(second), closeAll(first), <-third); err != nil {
		t.Error(err)
	}
}
