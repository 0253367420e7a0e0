package cli

import (
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/wire"
)

func TestRepairSpendsOnlyOnRequestAndOnlyAClosedStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.Serve()
	if got := till(t, "repair", "--address", address); got.code != exitUsage || !strings.Contains(got.err, "--forfeit") {
		t.Errorf("without --forfeit: %d, %q", got.code, got.err)
	}
	if got := till(t, "repair", "--forfeit", "--yes", "--address", address); got.code != 1 || !strings.Contains(got.err, "nothing to repair") {
		t.Errorf("of a store in order: %d, %q", got.code, got.err)
	}
	if got := till(t, "repair", "--clock", "--address", address); got.code != 0 || !strings.HasPrefix(got.out, "It is 20") {
		t.Errorf("of the clock: %d, %q %q", got.code, got.out, got.err)
	}
	if got := till(t, "repair", "--clock", "--yes", "--address", address); got.code != exitUsage {
		t.Errorf("of the clock, with --yes: %d, %q", got.code, got.err)
	}
	w.Closed = true
	if got := till(t, "stats", "--address", address); got.code != 1 {
		t.Errorf("stats of a closed store: %d, %q", got.code, got.out)
	}
	if got := till(t, "repair", "--forfeit", "--dry-run", "--address", address); got.code != 0 || got.out != "A repair would leave 2 budgets spent, 1 key suspended and 0 admin tokens revoked, of 3 keys.\n" {
		t.Errorf("a dry run: %d, %q %q", got.code, got.out, got.err)
	}
	if got := till(t, "repair", "--forfeit", "--address", address); got.code != exitUsage || !strings.Contains(got.err, "--yes") || !strings.Contains(got.err, "2 budgets spent") {
		t.Errorf("without anybody to ask: %d, %q %q", got.code, got.out, got.err)
	}
	if got := till(t, "stats", "--address", address); got.code != 1 {
		t.Errorf("it was repaired nevertheless: %d, %q", got.code, got.out)
	}
	if got := till(t, "repair", "--forfeit", "--yes", "--address", address); got.code != 0 || got.out != "The store is open: 2 budgets spent, 1 key suspended and 0 admin tokens revoked, of 3 keys.\n" {
		t.Errorf("of a closed store: %d, %q %q", got.code, got.out, got.err)
	}
	if got := till(t, "stats", "--address", address); got.code != 0 {
		t.Errorf("stats after the repair: %d, %q", got.code, got.err)
	}
}

func TestOnlyTheWordConfirmsARepair(t *testing.T) {
	t.Parallel()
	n := int64(2)
	would := &wire.RepairedAnswer{Keys: &n, Forfeited: &n, Suspended: &n, Tokens: &n}
	for text, ok := range map[string]bool{"forfeit\n": true, "forfeit": true, "yes\n": false, "\n": false, "": false} {
		var said strings.Builder
		if err := confirmedForfeit(strings.NewReader(text), &said, would); (err == nil) != ok || !strings.Contains(said.String(), "2 budgets spent") {
			t.Errorf("%q: %v, %q", text, err, said.String())
		}
	}
}
