package cli

import (
	"strings"
	"testing"
)

func TestRepairSpendsOnlyOnRequestAndOnlyAClosedStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.Serve()
	if got := till(t, "repair", "--address", address); got.code != exitUsage || !strings.Contains(got.err, "--forfeit") {
		t.Errorf("without --forfeit: %d, %q", got.code, got.err)
	}
	if got := till(t, "repair", "--forfeit", "--address", address); got.code != 1 || !strings.Contains(got.err, "nothing to repair") {
		t.Errorf("of a store in order: %d, %q", got.code, got.err)
	}
	if got := till(t, "repair", "--clock", "--address", address); got.code != 0 || !strings.HasPrefix(got.out, "It is 20") {
		t.Errorf("of the clock: %d, %q %q", got.code, got.out, got.err)
	}
	w.Closed = true
	if got := till(t, "stats", "--address", address); got.code != 1 {
		t.Errorf("stats of a closed store: %d, %q", got.code, got.out)
	}
	if got := till(t, "repair", "--forfeit", "--address", address); got.code != 0 || got.out != "The store is open. Of 3 keys, 2 budgets count as spent and 1 keys are suspended.\n" {
		t.Errorf("of a closed store: %d, %q %q", got.code, got.out, got.err)
	}
	if got := till(t, "stats", "--address", address); got.code != 0 {
		t.Errorf("stats after the repair: %d, %q", got.code, got.err)
	}
}
