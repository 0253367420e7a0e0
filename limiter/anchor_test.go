package limiter_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// reopen tries to open what the world has on its disk.
func (w *world) reopen() error {
	w.t.Helper()
	l, err := limiter.Open(w.options(w.disk.Open()))
	if err == nil {
		w.Limiter = l
	}
	return err
}

func (w *world) file(path string) []byte {
	w.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) put(path string, b []byte) {
	w.t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func TestAStoreThatDoesNotAgreeWithItsAnchorStaysClosed(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(w *world, old *storetest.Disk){
		"an older store": func(w *world, old *storetest.Disk) { w.disk = old },
		"no anchor":      func(w *world, _ *storetest.Disk) { _ = os.Remove(w.anchor) },
	} {
		w := newWorld(t)
		w.mint(activations(100)).use()
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		old := w.disk.Snapshot()
		for range 5 {
			w.mint(activations(100)).use()
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		damage(w, old)
		err := w.reopen()
		if !errors.Is(err, store.ErrDoubt) || !strings.Contains(err.Error(), "caddy till repair --forfeit") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABudgetThatWentBackClosesTheStoreAtItsFirstUse(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"its account", "its record"} {
		w := newWorld(t)
		k, other := w.mint(activations(100)), w.mint(activations(100))
		other.use()
		prefix := "a/"
		if what == "its record" {
			prefix = "k/" + k.id
		}
		before := make(map[string][]byte)
		scan := func(fn func(key, value []byte)) {
			t.Helper()
			err := w.disk.Open().View(func(r store.Reader) error {
				return r.Scan([]byte(prefix), nil, false, func(key, value []byte) (bool, error) { fn(key, value); return true, nil })
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		scan(func(key, value []byte) { before[string(key)] = append([]byte{}, value...) })
		for range 50 {
			k.use()
		}
		if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		changed := 0
		scan(func(key, value []byte) {
			if old := before[string(key)]; old != nil && string(old) != string(value) {
				changed++
				if err := w.disk.Open().Update(func(tx store.Tx) error { return tx.Set(key, old) }); err != nil {
					t.Fatal(err)
				}
			}
		})
		if changed == 0 {
			t.Fatal("nothing has gone back")
		}
		if err := w.reopen(); err != nil {
			t.Fatalf("%s: opening reads no record: %v", what, err)
		}
		if code := k.use(); code != record.CodeStoreUnavailable {
			t.Errorf("%s: a revoked key whose budget went back: %q", what, code)
		}
		if code := other.use(); code != record.CodeStoreUnavailable {
			t.Errorf("%s: another key: %q", what, code)
		}
		if err := w.Trouble(ctx); !errors.Is(err, store.ErrDoubt) || !strings.Contains(err.Error(), "repair --forfeit") {
			t.Errorf("%s: the store says %v", what, err)
		}
		w.Abandon()
	}
}

func TestForfeitingSpendsWhatMayHaveBeenSpent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{50, record.NoLimit, record.NoLimit, record.NoLimit}}}}
	if err := w.SetRoles(w.roles); err != nil {
		t.Fatal(err)
	}
	counted := w.mint(activations(100))
	timed := w.mint(func(k *record.Key) { k.ExpiresAt = w.clock.time().Add(1e12) })
	daily := w.mint(renewing(10, record.Daily))
	shared := w.mint(func(k *record.Key) { k.Role = "ci" })
	revoked := w.mint(activations(100))
	if _, _, err := w.Revoke(ctx, limiter.Operator, revoked.id, ""); err != nil {
		t.Fatal(err)
	}
	for _, k := range []*key{counted, timed, daily, shared} {
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
	}
	w.agree(t)
	old := w.disk.Snapshot()
	counted.use()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.disk = old
	if err := w.reopen(); !errors.Is(err, store.ErrDoubt) {
		t.Fatalf("an older store: %v", err)
	}
	for cut := 1; ; cut++ { // off at every commit, and run again
		reached := cut%2 == 1
		w.disk.FailAt(cut, reached)
		done, err := limiter.Forfeit(limiter.Offline{Store: rehearsed{w.disk.Open()}, Anchor: w.anchor, Now: w.clock.time()}, limiter.Operator, w.roles)
		w.disk.Heal()
		if err == nil {
			if done.Keys != 5 || done.Suspended > 3 {
				t.Errorf("%+v", done)
			}
			break
		}
		err = w.reopen()
		if err == nil && reached { // it was the last one, which is the whole repair
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, store.ErrDoubt) {
			t.Fatalf("after a repair that was cut off at commit %d: %v", cut, err)
		}
	}
	if err := w.reopen(); err != nil {
		t.Fatal(err)
	}
	w.agree(t)
	if w.Stats().Used[record.Activations] < 203 {
		t.Errorf("all keys used %v", w.Stats().Used)
	}
	for k, want := range map[*key]record.Code{
		counted: record.CodeActivationsExhausted, timed: record.CodeKeySuspended, daily: record.CodeKeySuspended,
		shared: record.CodeKeySuspended, revoked: record.CodeKeyRevoked,
	} {
		if code := k.use(); code != want {
			t.Errorf("%s: %q, want %q", k.id, code, want)
		}
	}
	if _, err := w.Resume(limiter.Operator, shared.id); err != nil {
		t.Fatal(err)
	}
	if code := shared.use(); code != record.CodeActivationsExhausted {
		t.Errorf("the role's budget after a repair: %q", code)
	}
	if _, err := w.GrantMore(ctx, limiter.Operator, counted.id, limiter.More{Activations: 3}); err != nil {
		t.Fatal(err)
	}
	if n := counted.drain(record.CodeActivationsExhausted); n != 3 {
		t.Errorf("%d after a grant of 3", n)
	}
	w.agree(t)
	w.restart()
	w.agree(t)
}

// TestAnyNumberOfCrashesBetweenACommitAndItsAnchorLosesNothing cuts the power
// again and again after a commit has reached the disk and before its anchor has.
func TestAnyNumberOfCrashesBetweenACommitAndItsAnchorLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(100))
	k.use()
	for crash := range 5 {
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		anchor := w.file(w.anchor)
		w.mint(activations(1)) // one commit more, which the anchor is not told of
		w.Abandon()
		w.put(w.anchor, anchor)
		if err := w.reopen(); err != nil {
			t.Fatalf("after crash %d: %v", crash+1, err)
		}
	}
	// And one crash after another at the first commit of an opening: it is there,
	// and nobody was told.
	w.Abandon()
	for range 5 {
		w.disk.FailAt(1, true)
		if err := w.reopen(); !errors.Is(err, errInjected) {
			t.Fatal(err)
		}
		w.disk.Heal()
	}
	if err := w.reopen(); err != nil {
		t.Fatalf("after crashes in a row: %v", err)
	}
	if n := k.drain(record.CodeActivationsExhausted); n > 99 {
		t.Errorf("%d more than one of 100", n)
	}
}

// TestWhatLivesAgainWithoutAKeyClosesTheStore: an admin token whose revocation
// is lost, a job that has not ended its keys, and the time that keys expired by.
func TestWhatLivesAgainWithoutAKeyClosesTheStore(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"t/i/", "t/n/", "j/", "m/clock"} {
		for _, goes := range []string{"back", "away"} {
			w := newTeam(t)
			w.mint(activations(100)).use()
			_, anna := w.hire(limiter.Operator, "anna", "lead")
			if _, err := w.RevokeMany(limiter.Operator, limiter.Filter{Owner: "nobody"}, false, ""); err != nil {
				t.Fatal(err)
			}
			records := func() map[string]string {
				all := make(map[string]string)
				err := w.disk.Open().View(func(r store.Reader) error {
					return r.Scan([]byte(prefix), nil, false, func(key, value []byte) (bool, error) {
						all[string(key)] = string(value)
						return true, nil
					})
				})
				if err != nil {
					t.Fatal(err)
				}
				return all
			}
			if err := w.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			before := records()
			w.clock.advance(time.Hour)
			if _, err := w.RevokeToken(limiter.Operator, anna.Token); err != nil {
				t.Fatal(err)
			}
			if _, err := w.RevokeMany(limiter.Operator, limiter.Filter{Owner: "nobody"}, false, ""); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			changed := 0
			for key, value := range records() {
				old, was := before[key]
				if goes == "back" && old == value && prefix != "t/n/" { // names do not change
					continue
				}
				changed++
				err := w.disk.Open().Update(func(tx store.Tx) error {
					switch {
					case goes == "away" || !was:
						return tx.Delete([]byte(key))
					case prefix == "t/n/":
						return tx.Set([]byte(key), []byte("tok_another"))
					}
					return tx.Set([]byte(key), []byte(old))
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if changed == 0 {
				t.Fatalf("%s: nothing goes %s", prefix, goes)
			}
			if err := w.reopen(); !errors.Is(err, store.ErrDoubt) {
				t.Errorf("%s goes %s: %v", prefix, goes, err)
			}
		}
	}
}
