package e2e

import (
	"testing"

	"golang.org/x/sync/semaphore"
)

// Most tests wait most of the time, and many run side by side. Those that keep
// the processors or the memory busy by themselves would only starve each other,
// so they have weights, and what runs at a time weighs fullWeight at most.
const (
	fullWeight = 4 // nothing else that has a weight runs beside it
	halfWeight = 2
)

var weights = semaphore.NewWeighted(fullWeight)

// weighs waits until there is room for a test of such a weight. It comes after
// t.Parallel, once in a test, and never in one whose subtests are parallel: they
// would wait for a turn that others cannot end.
func weighs(t *testing.T, weight int64) {
	t.Helper()
	if err := weights.Acquire(t.Context(), weight); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { weights.Release(weight) })
}
