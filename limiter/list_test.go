package limiter_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// everyPage follows a list to its end, and holds that no key comes twice.
func (w *world) everyPage(by limiter.Caller, f limiter.Filter) []limiter.View {
	w.t.Helper()
	var all []limiter.View
	seen := map[string]bool{}
	for {
		page, err := w.List(ctx, by, f)
		if err != nil {
			w.t.Fatalf("%+v: %v", f, err)
		}
		for _, v := range page.Keys {
			if seen[v.ID] {
				w.t.Fatalf("%+v: key %s twice", f, v.ID)
			}
			seen[v.ID] = true
		}
		all = append(all, page.Keys...)
		if page.Next == "" {
			return all
		}
		f.Cursor = page.Next
	}
}

func idsOf(views []limiter.View) []string {
	ids := []string{}
	for _, v := range views {
		ids = append(ids, v.ID)
	}
	return ids
}

// TestEveryFilterFindsWhatASearchOfAllKeysFinds makes keys of many kinds, and
// compares lists by every filter, alone and together, with all keys looked at one
// by one.
func TestEveryFilterFindsWhatASearchOfAllKeysFinds(t *testing.T) {
	t.Parallel()
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, seed))
	w := newWorld(t)
	researcher := record.NewRole()
	researcher.Permissions, researcher.Sees = []record.Permission{record.KeysCreate, record.KeysRead}, record.SeesRole
	w.roles = map[string]record.Role{"ci": record.NewRole(), "research": researcher}
	w.restart()
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	var keys []*key
	for i := range 120 {
		w.clock.advance(time.Duration(rng.IntN(5000)) * time.Millisecond)
		k := w.mint(func(k *record.Key) {
			k.Name = pick("", "Nightly", "nightly build", "night", "Ω-run", "key_01") + pick("", fmt.Sprint(i))
			k.Owner, k.Role, k.Upstream = pick("", "ann", "an", "bob"), pick("", "ci", "research"), pick("openai", "openai2", "github")
			k.Labels = map[string]string{"team": pick("a", "b")}
			k.Limit[record.Activations] = int64(1 + rng.IntN(2))
			switch rng.IntN(5) {
			case 0:
				k.Renews = record.Daily
			case 1:
				k.ExpiresAt = w.clock.time().Add(10 * time.Minute)
			case 2:
				k.IdleTimeout = 10 * time.Minute
			}
		})
		keys = append(keys, k)
	}
	for range 3 {
		parent := w.mint(delegating(activations(100), func(k *record.Key) { k.Name = "Nightly" }))
		for range 4 {
			parent.mustChild(func(k *record.Key) { k.Name, k.Limit[record.Activations] = pick("Nightly", "night"), 2 })
		}
	}
	compare := func(when string) {
		t.Helper()
		if err := w.CheckIndexes(); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		all := w.everyPage(limiter.Operator, limiter.Filter{Limit: 500})
		if !slices.IsSortedFunc(all, func(a, b limiter.View) int { return -strings.Compare(a.ID, b.ID) }) {
			t.Fatalf("%s: not the newest first", when)
		}
		for range 80 {
			var f limiter.Filter
			for range 1 + rng.IntN(2) {
				switch rng.IntN(10) {
				case 0:
					f.Status = record.Status(pick("active", "exhausted", "expired", "revoked", "suspended"))
				case 1:
					f.Upstream = pick("openai", "github", "none")
				case 2:
					f.Role = pick("ci", "research")
				case 3:
					f.Owner = pick("ann", "an", "bob", "a")
				case 4:
					f.CreatedBy = pick("operator", "someone")
				case 5:
					f.Query = pick("ni", "NIGHTLY", "k", "key_", "key_01", all[rng.IntN(len(all))].ID[:20], all[3].ID, "ω")
				case 6:
					f.UnusedFor = time.Duration(rng.IntN(20)) * time.Minute
				case 7:
					f.Labels = map[string]string{"team": pick("a", "b")}
				case 8:
					f.Name = pick("Nightly", "nightly", "night", "Nightly3", all[3].Name)
				case 9:
					f.Parent = cmp.Or(all[rng.IntN(len(all))].Parent, all[3].ID)
				}
			}
			f.Sort = pick("", "", "created", "-created", "last_used", "-last_used")
			f.Limit = 1 + rng.IntN(40)
			by := limiter.Operator
			if rng.IntN(4) == 0 {
				by = limiter.Caller{Name: "t", Token: "tok_1", Role: "research"}
			}
			want := []string{}
			for _, v := range all {
				if f.Picks(&v, w.Now()) && w.Sees(by, &v.Key) {
					want = append(want, v.ID)
				}
			}
			views := w.everyPage(by, f)
			got := idsOf(views)
			switch f.Sort {
			case "created", "-created":
				if f.Sort == "created" {
					slices.Reverse(want)
				}
			case "last_used", "-last_used":
				minute := func(v limiter.View) int64 {
					if v.LastUsedAt.After(v.CreatedAt) {
						return v.LastUsedAt.Unix() / 60
					}
					return v.CreatedAt.Unix() / 60
				}
				sorted := slices.IsSortedFunc(views, func(a, b limiter.View) int {
					if d := int(minute(a) - minute(b)); f.Sort == "last_used" {
						return d
					} else {
						return -d
					}
				})
				if !sorted {
					t.Errorf("%s: %+v: not by last use", when, f)
				}
				slices.Sort(got)
				slices.Sort(want)
			default:
				slices.Sort(got)
				slices.Sort(want)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%s, seed %d: %+v by %s found\n%v, want\n%v", when, seed, f, by.Name, got, want)
			}
		}
	}
	settle := func() {
		w.clock.advance(3 * time.Second)
		w.SweepActive()
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
	}
	settle()
	compare("fresh")
	for _, k := range keys {
		w.clock.advance(time.Duration(rng.IntN(20)) * time.Second)
		switch rng.IntN(6) {
		case 0:
			if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
				t.Fatal(err)
			}
		case 1:
			if _, err := w.Suspend(limiter.Operator, k.id); err != nil {
				t.Fatal(err)
			}
		case 2, 3:
			k.use()
			k.use()
		case 4:
			k.use()
			_, err := w.Change(ctx, limiter.Operator, k.id, 0, func(k *record.Key) error {
				k.Name, k.Labels = "changed "+k.Name, map[string]string{"team": "a"}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	settle()
	compare("used, with ends that nobody has recorded")
	for range 3 {
		w.SweepDue()
	}
	settle()
	compare("swept")
	w.clock.advance(20 * time.Minute)
	settle()
	w.SweepIdle()
	compare("out of memory")
	w.kill(true)
	compare("after a power cut")
	w.clock.advance(24 * time.Hour)
	compare("on the next day")
}

// TestOtherFiltersPageWithPartial asks for what only a search can find.
func TestOtherFiltersPageWithPartial(t *testing.T) {
	t.Parallel()
	w := newBadgerWorld(t)
	w.mint(func(k *record.Key) { k.Labels = map[string]string{"team": "first"} })
	w.clock.advance(time.Minute)
	w.MintMany(record.MaxLookedAt+10, func(int, *record.Key) {})
	f := limiter.Filter{Labels: map[string]string{"team": "first"}}
	page, err := w.List(ctx, limiter.Operator, f)
	if err != nil || len(page.Keys) != 0 || !page.Partial || page.Next == "" {
		t.Fatalf("%d keys, partial %v, next %q, %v", len(page.Keys), page.Partial, page.Next, err)
	}
	f.Cursor = page.Next
	page, err = w.List(ctx, limiter.Operator, f)
	if err != nil || len(page.Keys) != 1 || page.Partial || page.Next != "" {
		t.Fatalf("%d keys, partial %v, next %q, %v", len(page.Keys), page.Partial, page.Next, err)
	}
}

// TestAnEndThatIsRecordedStaysWhateverTheTime sets the clock back behind the
// expiry of a key, which then counts as expired all the same.
func TestAnEndThatIsRecordedStaysWhateverTheTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) {
		k.Limit[record.Activations], k.ExpiresAt = 5, w.clock.time().Add(time.Hour)
	})
	w.clock.advance(2 * time.Hour)
	w.SweepDue()
	w.clock.set(-2 * time.Hour)
	if _, err := w.RepairClock(limiter.Operator); err != nil {
		t.Fatal(err)
	}
	if code := k.use(); code != record.CodeKeyExpired || k.view().Status != record.Expired {
		t.Errorf("refused with %q, status %s", code, k.view().Status)
	}
	spent := w.mint(func(k *record.Key) {
		k.Limit[record.Activations], k.ExpiresAt = 1, w.clock.time().Add(time.Hour)
	})
	spent.drain(record.CodeActivationsExhausted)
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(2 * time.Hour)
	if s := spent.view().Status; s != record.Exhausted {
		t.Errorf("an exhausted key became %s", s)
	}
}

func TestAKeyThatIsSuspendedAfterItsEndIsListedAsSuspended(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.ExpiresAt = w.clock.time().Add(time.Minute) })
	w.clock.advance(2 * time.Minute)
	w.SweepDue()
	if v := k.view(); v.EndedStatus != record.Expired {
		t.Fatalf("its end is not recorded: %+v", v)
	}
	if _, err := w.Suspend(limiter.Operator, k.id); err != nil {
		t.Fatal(err)
	}
	if v := k.view(); v.Status != record.Suspended {
		t.Fatalf("it is %s", v.Status)
	}
	if got := idsOf(w.everyPage(limiter.Operator, limiter.Filter{Status: record.Suspended})); !slices.Equal(got, []string{k.id}) {
		t.Errorf("suspended are %v, want %s", got, k.id)
	}
}

func TestAMintAnswersWhatIsListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spec := &record.Key{Upstream: "openai", Custody: "held", Limit: record.NoLimits(), Renews: record.Daily}
	spec.Limit[record.Activations] = 5
	made, err := w.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup(), Unlimited: true})
	if err != nil {
		t.Fatal(err)
	}
	page, err := w.List(ctx, limiter.Operator, limiter.Filter{})
	if err != nil || len(page.Keys) != 1 || !reflect.DeepEqual(page.Keys[0], made) || made.RenewsAt.IsZero() {
		t.Errorf("%+v is listed as %+v, %v", made, page.Keys, err)
	}
}
