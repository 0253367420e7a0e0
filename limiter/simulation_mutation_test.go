package limiter_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mutations are checks of the engine, and what stands in their place when they are left
// out. Those of the shared store are in TestTheSimulationFindsPlantedFaults.
var mutations = []struct {
	name, file, check, without string

	hangs bool // something may be waited for without end
}{
	{
		name: "a part of a former window counts in the present one", file: "record/part.go",
		check: `if p.Lineage != lineage {`, without: `if p.Lineage != lineage && p.Lineage == 0 {`,
	},
	{
		name: "a node gives nothing back that another asks for", file: "refresh.go",
		check: `if !k.gone {
		l.reportUse(&k.account, k)`, without: `if false {
		l.reportUse(&k.account, k)`,
	},
	{
		name: "a block is granted in a window that another node has ended", file: "block.go", hangs: true,
		check: `if rec.Lineage != a.lineage || a.renews`, without: `if a.renews`,
	},
	{
		name: "each node begins a window of its own", file: "renew.go",
		check: `if rec.Lineage == former {`, without: `if true {`,
	},
	{
		name: "a window that is under way is begun again", file: "renew.go",
		check: `if begun = rec.Lineage == former && rec.Epoch >= epoch; begun {`, without: `if begun = false; begun {`,
	},
	{
		// Memory never spends more than it knows to be left, so this is not an overspend by
		// itself. But what is reserved twice is refused on every node.
		name: "what others have reserved may be reserved as well", file: "books.go",
		check: `return record.Kept(rec.Kept(), rec.Reserved.Minus(own.Reserved))`, without: `return rec.Kept()`,
	},
	{
		name: "what others have reserved counts as free", file: "books.go", hangs: true,
		check: `a.limit = record.Kept(record.Kept(a.whole, a.given), a.others.Reserved)`, without: `a.limit = record.Kept(a.whole, a.given)`,
	},
	{
		name: "what others have done is not followed", file: "follower.go",
		check: `return f.l.refresh(about(keys))`, without: `return nil`,
	},
	{
		name: "a node that may have missed something goes on", file: "nodes.go",
		check: `return n.shared.Fresh()`, without: `return nil`,
	},
	{
		name: "what a node took over is lost when the rest of an attempt fails", file: "follower.go",
		check: `again := f.missed && f.former == nil`, without: `again := f.missed`,
	},
	{
		name: "a node that is being opened counts as having followed for what runs", file: "follower.go",
		check: `err = errNotOpen`, without: `_ = errNotOpen`,
	},
	{
		name: "what runs goes on while a node that is being opened loses touch", file: "follower.go", hangs: true,
		check: `n = former.cutAll(outOfTouch(err))`, without: `n = 0`,
	},
	{
		name: "what runs goes on although its node cannot be opened again", file: "unavailable.go",
		check: `l.cutAll(storeRefusal("this server has lost touch with the database"))`, without: `_ = storeRefusal`,
	},
	{
		name: "what runs is not carried over", file: "takeover.go",
		check: `k.grants, k.inflight, k.free = old.grants, old.inflight, old.free`, without: `k.grants, k.inflight, k.free = nil, 0, old.free`,
	},
	{
		name: "a node that was removed while it lived counts what it has used again", file: "recovery.go",
		check: `after.removed.Store(true)`, without: `after.removed.Store(false)`,
	},
	{
		name: "a node that was removed while it lived puts its use into the history again", file: "takeover.go",
		check: `if how.booked {
			rest[i]`, without: `if false {
			rest[i]`,
	},
	{
		name: "parts are folded of a node that may still commit", file: "noderemoval.go",
		check: `switch err := l.shared.Fence(name); {`, without: `switch err := error(nil); {`,
	},
	{
		name: "a node that hears of a doubt goes on", file: "follower.go",
		check: `if opened && !errors.Is(err, store.ErrStale) {`, without: `if opened && false {`,
	},
}

// TestTheSimulationFindsMutationsOfTheEngine builds the engine without each of its checks,
// and requires that the simulation of nodes fails. It takes a build for each of them.
func TestTheSimulationFindsMutationsOfTheEngine(t *testing.T) {
	for _, m := range mutations { // also where none is built, so that they keep up with the source
		source, err := os.ReadFile(m.file)
		if n := strings.Count(string(source), m.check); err != nil || n != 1 {
			t.Errorf("%s: %s: the check stands there %d times (%v): %s", m.name, m.file, n, err, m.check)
		}
	}
	if os.Getenv(tortureVariable) == "" {
		t.Skipf("each mutation takes a build: set %s", tortureVariable)
	}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			source, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			path, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			mutant, overlay, binary := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "mutant.test")
			replace, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
			if err := errors.Join(err,
				os.WriteFile(mutant, []byte(strings.Replace(string(source), m.check, m.without, 1)), 0o600),
				os.WriteFile(overlay, replace, 0o600)); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("go", "test", "-vet=off", "-c", "-overlay", overlay, "-o", binary, ".").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			most, finds := 2000, regexp.MustCompile(`seed \d+: .*`)
			run := exec.Command(binary, "-test.run", "^TestSimulationOfNodes$")
			if m.hangs {
				most, finds = 500, regexp.MustCompile(`seed \d+: .*|panic: test timed out after .*`)
				run.Args = append(run.Args, "-test.timeout", "2m")
			}
			run.Env = append(os.Environ(), seedVariable+"=1", fmt.Sprint(tortureVariable, "=", most))
			out, err := run.CombinedOutput()
			found := finds.Find(out)
			switch {
			case err == nil:
				t.Errorf("%d seeds have found nothing", most)
			case found == nil:
				t.Errorf("it fails without a finding: %v\n%s", err, out)
			default:
				t.Logf("%s", found)
			}
		})
	}
}
