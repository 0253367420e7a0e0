package limiter_test

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// crew are callers of every kind, and a key that all of them see: anna minted it.
type crew struct {
	*world
	callers map[string]limiter.Caller
	*key
}

func newCrew(t *testing.T, w *world) *crew {
	t.Helper()
	role := func(sees record.Sight, has ...record.Permission) record.Role {
		r := record.NewRole()
		r.Sees, r.Permissions = sees, append(has, record.KeysRevoke)
		return r
	}
	w.roles = map[string]record.Role{
		"maker": role(record.SeesOwn, record.KeysCreate, record.KeysUpdate),
		"lead":  role(record.SeesAll, record.KeysUpdate),
		"watch": role(record.SeesAll),
	}
	if err := w.SetRoles(w.roles); err != nil {
		t.Fatal(err)
	}
	c := &crew{world: w, callers: map[string]limiter.Caller{"operator": limiter.Operator}}
	for name, role := range map[string]string{"star": "*", "anna": "maker", "lena": "lead", "luis": "lead", "wim": "watch"} {
		_, c.callers[name] = w.hire(limiter.Operator, name, role)
	}
	lookup := lookup()
	v, err := w.Mint(c.callers["anna"], spec(), limiter.Birth{Lookup: lookup})
	if err != nil {
		t.Fatal(err)
	}
	c.callers["holder"] = limiter.Holder(&v.Key, "192.0.2.1") // who may revoke it
	c.key = &key{w, v.ID, lookup}
	return c
}

// lifts tries every caller but some, and says who may lift the stop that there is.
func (c *crew) lifts(t *testing.T, what string, may ...string) {
	t.Helper()
	names := slices.SortedFunc(maps.Keys(c.callers), func(a, b string) int { // who may not, first
		return map[bool]int{true: 1}[slices.Contains(may, a)] - map[bool]int{true: 1}[slices.Contains(may, b)]
	})
	before := c.view()
	for _, name := range names {
		_, err := c.Resume(c.callers[name], c.id)
		if !slices.Contains(may, name) {
			if !errors.Is(err, limiter.ErrForbidden) {
				t.Errorf("%s is lifted by %s: %v", what, name, err)
			}
			if v := c.view(); v.Status != record.Suspended || v.Version != before.Version || v.SuspendedBy != before.SuspendedBy {
				t.Fatalf("%s, refused to %s: the key is %s, version %d, by %+v", what, name, v.Status, v.Version, v.SuspendedBy)
			}
			continue
		}
		if v := c.view(); err != nil || v.Status != record.Active || v.SuspendedBy != (record.Stopper{}) {
			t.Errorf("%s is not lifted by %s: %v, %s", what, name, err, v.Status)
		}
		if name != names[len(names)-1] { // the next one wants to try
			if _, err := c.Suspend(c.callers[before.SuspendedBy.Title()], c.id); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAStopIsLiftedByWhoImposedItAndFromAbove(t *testing.T) {
	t.Parallel()
	for by, may := range map[string][]string{
		"operator": {"operator", "star"},
		"star":     {"operator", "star"},
		"anna":     {"operator", "star", "anna", "lena", "luis"},
		"lena":     {"operator", "star", "lena"},
		"wim":      {"operator", "star", "wim"},
	} {
		c := newCrew(t, newWorld(t))
		v, err := c.Suspend(c.callers[by], c.id)
		if err != nil || v.SuspendedBy.Name != by {
			t.Fatalf("suspended by %s: %v, by %+v", by, err, v.SuspendedBy)
		}
		c.lifts(t, "the stop of "+by, may...)
	}
}

// TestAStopFromAboveIsNotTakenForTheOneBeforeIt is about two who stop a key one
// after the other: the first must not lift the stop of the second with its own.
func TestAStopFromAboveIsNotTakenForTheOneBeforeIt(t *testing.T) {
	t.Parallel()
	for _, order := range [][]string{{"anna", "operator"}, {"operator", "anna"}, {"anna", "lena", "operator"}, {"lena", "operator", "anna"}} {
		c := newCrew(t, newWorld(t))
		for _, by := range order {
			if _, err := c.Suspend(c.callers[by], c.id); err != nil {
				t.Fatal(err)
			}
		}
		c.lifts(t, "the operator's stop among others", "operator", "star")
	}
	c := newCrew(t, newWorld(t))
	for _, by := range []string{"anna", "lena", "luis"} { // the last two are equals: the first of them stands
		if _, err := c.Suspend(c.callers[by], c.id); err != nil {
			t.Fatal(err)
		}
	}
	c.lifts(t, "the stop of lena", "operator", "star", "lena")
}

// TestAStopThatIsNotDurableYetIsLiftedByNoOneElse is about a full disk, on which a
// suspension holds in memory alone.
func TestAStopThatIsNotDurableYetIsLiftedByNoOneElse(t *testing.T) {
	t.Parallel()
	c := newCrew(t, newWorld(t))
	c.disk.Fill()
	if _, err := c.Suspend(limiter.Operator, c.id); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("on a full disk: %v", err)
	}
	if _, err := c.Suspend(c.callers["anna"], c.id); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("once more, by anna: %v", err)
	}
	c.disk.Heal()
	for _, name := range []string{"anna", "lena", "wim"} {
		if _, err := c.Resume(c.callers[name], c.id); !errors.Is(err, limiter.ErrForbidden) {
			t.Errorf("by %s: %v", name, err)
		}
	}
	c.SweepDue() // tries again
	if code := c.use(); code != record.CodeKeySuspended {
		t.Errorf("used: %q", code)
	}
	c.restart()
	if v := c.view(); v.SuspendedBy.Name != "operator" {
		t.Errorf("suspended by %+v", v.SuspendedBy)
	}
	c.lifts(t, "the operator's stop", "operator", "star")
}

// TestOfTwoStopsByEqualsTheFirstStands also where neither is durable yet.
func TestOfTwoStopsByEqualsTheFirstStands(t *testing.T) {
	t.Parallel()
	c := newCrew(t, newWorld(t))
	c.disk.Fill()
	for _, by := range []string{"lena", "luis"} {
		if _, err := c.Suspend(c.callers[by], c.id); !errors.Is(err, store.ErrNoSpace) {
			t.Fatalf("on a full disk, by %s: %v", by, err)
		}
	}
	c.disk.Heal()
	if _, err := c.Resume(c.callers["luis"], c.id); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("luis lifts the stop of lena: %v", err)
	}
	c.SweepDue()
	if v := c.view(); v.SuspendedBy.Name != "lena" {
		t.Errorf("suspended by %+v", v.SuspendedBy)
	}
}

// TestNobodyButTheOperatorLiftsAStopOfUnknownOrOfNoOne is about records from before
// it was kept who suspended, and keys that come out of a backup.
func TestNobodyButTheOperatorLiftsAStopOfUnknownOrOfNoOne(t *testing.T) {
	t.Parallel()
	c := newCrew(t, newWorld(t))
	if _, err := c.Suspend(c.callers["anna"], c.id); err != nil {
		t.Fatal(err)
	}
	backup := c.backup(false)
	if err := c.ForgetStopper(c.id); err != nil {
		t.Fatal(err)
	}
	c.lifts(t, "a stop of nobody knows whom", "operator", "star")

	next, _ := c.restored(backup, false)
	restored := &crew{world: next, key: &key{next, c.id, c.lookup}, callers: map[string]limiter.Caller{"operator": limiter.Operator}}
	if err := next.SetRoles(c.roles); err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]string{"lora": "lead", "walt": "watch"} {
		_, restored.callers[name] = next.hire(limiter.Operator, name, role)
	}
	if v := restored.view(); v.SuspendedBy.Name != "till" {
		t.Errorf("out of a backup it is suspended by %+v", v.SuspendedBy)
	}
	restored.lifts(t, "the stop of what came out of a backup", "operator")
}

// TestNothingElseLiftsAStop lets who may not resume a key do everything else to it.
func TestNothingElseLiftsAStop(t *testing.T) {
	t.Parallel()
	for name, act := range acts {
		if name == "Resume" || act.prepare != nil || !act.onKey {
			continue
		}
		w := newWorld(t)
		all := record.NewRole()
		all.Permissions, all.Sees = record.Permissions, record.SeesAll
		w.roles = map[string]record.Role{"all": all}
		if err := w.SetRoles(w.roles); err != nil {
			t.Fatal(err)
		}
		_, by := w.hire(limiter.Operator, "anna", "all")
		lookup := lookup()
		v, err := w.Mint(by, spec(), limiter.Birth{Lookup: lookup})
		if err == nil {
			_, err = w.Suspend(limiter.Operator, v.ID)
		}
		if err == nil {
			err = act.do(w, by, v.ID)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		after, err := w.Get(limiter.Operator, v.ID)
		if err != nil || after.Status != record.Suspended && after.Status != record.Revoked {
			t.Errorf("%s: the key is %s, %v", name, after.Status, err)
		}
	}
}
