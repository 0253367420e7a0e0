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

// fail lets the next commit fail, and everything after it.
func (w *world) fail(reached bool) {
	w.t.Helper()
	w.disk.FailAt(1, reached)
	if err := w.Ping(ctx); err == nil {
		w.t.Fatal("the store has not failed")
	}
}

// heal lets the store work again, and has another limiter succeed the one that failed.
// What between does happens when neither is open.
func (w *world) heal(between func()) {
	w.t.Helper()
	if err := w.succeed(func() {
		if between != nil {
			between()
		}
		w.disk.Heal()
	}); err != nil {
		w.t.Fatal(err)
	}
}

func TestRequestsThatRunWhileTheStoreIsOpenedAgainSettleExactly(t *testing.T) {
	t.Parallel()
	for _, reached := range []bool{false, true} {
		w := newWorld(t)
		w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{1000, 100_000, -1, -1}}}}
		if err := w.SetRoles(w.roles); err != nil {
			t.Fatal(err)
		}
		k := w.mint(func(k *record.Key) {
			k.Limit = record.Amounts{100, 10_000, -1, -1}
			k.Role = "ci"
			k.MaxConcurrency = 5
		})
		for range 20 {
			k.use(bound(record.Tokens, 10))
		}
		var running []*limiter.Grant
		for range 5 {
			g, refusal := k.ask(bound(record.Tokens, 1000))
			if refusal != nil {
				t.Fatal(refusal)
			}
			running = append(running, g)
		}
		settle := func(i int) { running[i].Settle(record.Amounts{record.Activations: 1, record.Tokens: 10}) }
		w.fail(reached)
		settle(0)
		w.heal(func() { settle(1) })
		settle(2)
		if v := k.view(); v.InFlight != 2 || v.Held[record.Tokens] != 2000 || v.Used[record.Tokens] != 30 {
			t.Errorf("two run: %d in flight, %v held, %v used", v.InFlight, v.Held, v.Used)
		}
		running[3].Cancel()
		settle(4)
		settle(4)
		if v := k.view(); v.InFlight != 0 || v.Held != (record.Amounts{}) || v.Used[record.Tokens] != 40 || v.Used[record.Activations] != 24 {
			t.Errorf("none runs: %d in flight, %v held, %v used", v.InFlight, v.Held, v.Used)
		}
		if n := w.Stats().Holds; n != 0 {
			t.Errorf("%d requests in flight in all", n)
		}
		w.agree(t)
		if n := k.drain(record.CodeActivationsExhausted); n != 76 {
			t.Errorf("%d more after 24 of 100", n)
		}
		other := w.mint(func(k *record.Key) { k.Role = "ci" })
		if n := other.drain(record.CodeActivationsExhausted); n != 900 {
			t.Errorf("%d more of the role's 1000 after 100", n)
		}
		w.agree(t)
		w.restart()
		w.agree(t)
	}
}

func TestWhatWasStoppedWhileTheStoreFailedStaysStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	revoked, suspended, running := w.mint(activations(100)), w.mint(activations(100)), w.mint(activations(100))
	var cuts []record.Code
	hold := func(k *key) *limiter.Grant {
		g, refusal := k.ask(func(a *limiter.Ask) { a.OnCut = func(r *record.Refusal) { cuts = append(cuts, r.Code) } })
		if refusal != nil {
			t.Fatal(refusal)
		}
		return g
	}
	for _, k := range []*key{revoked, suspended} {
		hold(k)
	}
	g := hold(running)
	w.fail(false)
	if _, n, err := w.Revoke(ctx, limiter.Operator, revoked.id, "leaked"); err == nil || n != 1 {
		t.Errorf("revoking on a failed store: %d cut, %v", n, err)
	}
	w.heal(func() {
		if _, err := w.Suspend(limiter.Operator, suspended.id); err == nil {
			t.Error("suspending on a closed store is said to be durable")
		}
	})
	for range 2 {
		for k, want := range map[*key]record.Code{revoked: record.CodeKeyRevoked, suspended: record.CodeKeySuspended} {
			if code := k.use(); code != want {
				t.Errorf("%q, want %q", code, want)
			}
		}
		if len(cuts) == 2 {
			if _, n, err := w.Revoke(ctx, limiter.Operator, running.id, ""); err != nil || n != 1 || g.Cut() == nil {
				t.Errorf("revoking a key whose request has run all the while: %d cut, %v", n, err)
			}
		}
		w.kill(true) // the second time, from what is durable
	}
	if v := revoked.view(); v.EndedReason != "leaked" {
		t.Errorf("the reason is %q", v.EndedReason)
	}
}

func TestWhatWasStoppedOnAFullDiskBecomesDurableOnceThereIsSpace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(100))
	k.use()
	w.disk.Fill()
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err == nil {
		t.Fatal("durable on a full disk")
	}
	for range 5 {
		w.clock.advance(10 * time.Second)
		w.SweepActive()
		w.SweepDue()
	}
	w.disk.Heal()
	w.SweepDue()
	w.kill(true)
	if code := k.use(); code != record.CodeKeyRevoked {
		t.Errorf("after a power cut: %q", code)
	}
}

// TestAnOlderStorePutInPlaceOfOneThatFailedStaysClosed: it agrees with the anchor
// that was put there with it, but this process knows better.
func TestAnOlderStorePutInPlaceOfOneThatFailedStaysClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(100))
	if code := k.use(); code != "" {
		t.Fatal(code)
	}
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	older, anchor := w.disk.Snapshot(), w.file(w.anchor)
	for range 50 {
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
	}
	former, newer, newest := w.Limiter, w.disk, w.file(w.anchor)
	w.fail(false)
	if err := former.Close(); err == nil {
		t.Fatal("a failed limiter closes as if nothing had happened")
	}
	other := storetest.NewDisk()
	o := limiter.Options{Patience: patience, Disk: w.beside(), Shadow: w.shadow, Anchor: w.anchor, Clock: w.clock, After: former}
	for name, place := range map[string]func(){
		"an older one": func() { o.Store = older.Open(); w.put(w.anchor, anchor) },
		"another one": func() {
			o.Store = other.Open()
			if err := os.Remove(w.anchor); err != nil {
				t.Fatal(err)
			}
		},
	} {
		place()
		if _, err := limiter.Open(o); !errors.Is(err, store.ErrDoubt) || !strings.Contains(err.Error(), "this server") {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer.Heal()
	o.Store = newer.Open()
	w.put(w.anchor, newest)
	l, err := limiter.Open(o)
	if err != nil {
		t.Fatal("the one that failed: ", err)
	}
	w.Limiter = l
	if n := k.drain(record.CodeActivationsExhausted); n != 49 {
		t.Errorf("%d of the 49 that are left", n)
	}
}

func TestWhatRunsEndsInTimeWhileItsStoreIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	parent := w.mint(delegating(activations(50)))
	child := parent.mustChild(activations(20))
	_, err := w.Change(ctx, limiter.Operator, parent.id, 0, func(k *record.Key) error {
		k.ExpiresAt = w.Now().Add(time.Hour)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	rotated := w.mint(activations(10))
	rotated.rotate(time.Hour)
	running := make(map[string]*limiter.Grant)
	for name, k := range map[string]*key{
		"of a key that expires": w.mint(expiresIn(w, time.Hour)), "below a key that expires": child,
		"with a string that has been replaced": rotated, "of a key that goes on": w.mint(activations(10)),
	} {
		g, refusal := k.come(nil)
		if refusal != nil {
			t.Fatalf("a request %s: %v", name, refusal)
		}
		running[name] = g
	}
	w.fail(false)
	if err := w.Close(); err == nil {
		t.Fatal("a failed limiter closes as if nothing had happened")
	}
	look := func(when string, want map[string]record.Code) {
		w.CutOverdue()
		for name, g := range running {
			code := record.Code("")
			if r := g.Cut(); r != nil {
				code = r.Code
			}
			if code != want[name] {
				t.Errorf("%s, a request %s was cut with %q, want %q", when, name, code, want[name])
			}
		}
	}
	look("before the hour is over", nil)
	w.clock.advance(time.Hour)
	look("then", map[string]record.Code{
		"of a key that expires": record.CodeKeyExpired, "below a key that expires": record.CodeKeyExpired,
		"with a string that has been replaced": record.CodeKeyRevoked,
	})
}
