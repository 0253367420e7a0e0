package access_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/commit/committest"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func names(all []record.AdminToken) (names []string) {
	for _, rec := range all {
		names = append(names, rec.Name)
	}
	slices.Sort(names)
	return names
}

func TestATokenIsFoundByItsStringAndUsedUntilItEnds(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	m := newTeam(t, disk.Open())
	if _, err := m.hire("anna", func(rec *record.AdminToken) { rec.ExpiresAt = noon.Add(time.Hour) }); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*team{m, newTeam(t, disk.Open())} {
		rec, ok := m.Find(lookup("anna"))
		if !ok || rec.ID != "tok_anna" {
			t.Fatalf("found %+v, %v", rec, ok)
		}
		if _, ok := m.Find(lookup("bob")); ok {
			t.Error("a token was found that nobody has made")
		}
		if _, ok := m.Use(rec.ID, noon.Add(time.Minute)); !ok {
			t.Error("it does not work")
		}
		if _, ok := m.Use(rec.ID, noon.Add(time.Hour)); ok {
			t.Error("it works after its end")
		}
		if rec, _ := m.Get(rec.ID); !rec.LastUsedAt.Equal(noon.Add(time.Minute)) {
			t.Errorf("it was used last at %s", rec.LastUsedAt)
		}
	}
}

func TestUsesOfTokensAreSavedAndNeverGoBack(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	m, other := newTeam(t, disk.Open()), newTeam(t, disk.Open())
	m.mustHire(t, "anna")
	if err := other.Follow(nil); err != nil {
		t.Fatal(err)
	}
	for _, use := range []struct {
		by *team
		at time.Time
	}{{m, noon.Add(time.Hour)}, {other, noon.Add(time.Minute)}} {
		if _, ok := use.by.Use("tok_anna", use.at); !ok {
			t.Fatal("it does not work")
		}
		if err := use.by.SaveUses(); err != nil {
			t.Fatal(err)
		}
		if rec, _ := newTeam(t, disk.Open()).Get("tok_anna"); !rec.LastUsedAt.Equal(noon.Add(time.Hour)) {
			t.Errorf("saved was %s", rec.LastUsedAt)
		}
	}
	before := disk.Commits()
	if err := m.SaveUses(); err != nil || disk.Commits() != before {
		t.Errorf("without a use, %d commits, %v", disk.Commits()-before, err)
	}
}

func TestNoTwoTokensHaveNamesThatLookAlike(t *testing.T) {
	t.Parallel()
	m := newTeam(t, storetest.NewDisk().Open())
	m.mustHire(t, "anna", "ope", "Anna", "Анна")
	for _, name := range []string{"anna", "\u0430nna", "ann\u0251", "\uff41nna", "\u043e\u0440\u0435"} {
		var wrong *record.InvalidError
		if _, err := m.hire(name, func(rec *record.AdminToken) { rec.ID += " again" }); !errors.As(err, &wrong) {
			t.Errorf("a token named %q: %v", name, err)
		}
	}
	if got := names(m.All()); len(got) != 4 {
		t.Errorf("there are %q", got)
	}
}

func TestTokensThatEndedLongAgoMakeRoomAndFreeTheirNames(t *testing.T) {
	t.Parallel()
	m := newTeam(t, storetest.NewDisk().Open())
	ends := func(at time.Time) func(*record.AdminToken) {
		return func(rec *record.AdminToken) { rec.ExpiresAt = at }
	}
	for name, with := range map[string]func(*record.AdminToken){
		"expired": ends(noon.Add(time.Hour)), "later": ends(noon.Add(2 * time.Hour)), "lives": func(*record.AdminToken) {},
		"revoked": func(rec *record.AdminToken) { rec.ExpiresAt, rec.RevokedAt = noon.Add(9999*time.Hour), noon },
	} {
		if _, err := m.hire(name, with); err != nil {
			t.Fatal(err)
		}
	}
	m.now = noon.Add(time.Hour + 90*24*time.Hour)
	if _, err := m.hire("expired"); err == nil {
		t.Error("a name was given again after 90 days and not more")
	}
	m.now = m.now.Add(1)
	old, err := m.hire("expired", func(rec *record.AdminToken) { rec.ID += " again" })
	if got := names(old); err != nil || !slices.Equal(got, []string{"expired", "revoked"}) {
		t.Errorf("%q made room, %v", got, err)
	}
	if got := strings.Join(names(m.All()), " "); got != "expired later lives" {
		t.Errorf("there are %s", got)
	}
	if _, ok := m.Get("tok_expired"); ok {
		t.Error("the old one is still there")
	}
}

func TestANodeFollowsTheTokensOfOthers(t *testing.T) {
	t.Parallel()
	c := storetest.NewCluster()
	a, b := newTeam(t, c.Bystander(t, "a")), newTeam(t, c.Bystander(t, "b"))
	a.mustHire(t, "anna", "bob")
	if _, ok := b.Get("tok_anna"); ok {
		t.Fatal("it has followed already")
	}
	if rec, ok, err := b.Fetch("tok_anna"); err != nil || !ok || rec.Name != "anna" {
		t.Errorf("fetched %+v, %v, %v", rec, ok, err)
	}
	if _, ok, err := b.Fetch("tok_nobody"); err != nil || ok {
		t.Errorf("a token that nobody has made: %v, %v", ok, err)
	}
	if err := b.Follow(nil); err != nil || len(b.All()) != 2 {
		t.Errorf("it knows %q, %v", names(b.All()), err)
	}
	c.Write(t, func(tx store.Tx) error { return tx.Delete(record.TokenKey("tok_bob")) })
	if err := b.Follow([]string{"tok_bob"}); err != nil || len(b.All()) != 1 {
		t.Errorf("it knows %q, %v", names(b.All()), err)
	}
	if _, ok := b.Find(lookup("bob")); ok {
		t.Error("a token is found that another node has dropped")
	}
}

func TestTheUsesOfMoreTokensThanFitIntoOneCommitAreSaved(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	m := newTeam(t, disk.Open())
	const n = 1500
	for i := range n {
		rec := &record.AdminToken{ID: fmt.Sprintf("%s%d", record.TokenIDPrefix, i), Lookup: lookup(fmt.Sprint(i)), Name: fmt.Sprint(i), Role: "lead", CreatedAt: noon}
		if err := m.Do(func(tx committest.Transaction) error { return rec.Write(tx) }, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Follow(nil); err != nil {
		t.Fatal(err)
	}
	for _, rec := range m.All() {
		if _, ok := m.Use(rec.ID, noon.Add(time.Hour)); !ok {
			t.Fatal("it does not work")
		}
	}
	disk.Limit(1200)
	if err := m.SaveUses(); err != nil {
		t.Fatal(err)
	}
	saved := 0
	for _, rec := range newTeam(t, disk.Open()).All() {
		if rec.LastUsedAt.Equal(noon.Add(time.Hour)) {
			saved++
		}
	}
	if saved != n {
		t.Errorf("the uses of %d tokens are saved, want %d", saved, n)
	}
}
