package limiter_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// A key is in use for as long as a request of it runs, and of a child. Whatever asks
// when it was used last is told the end of the last request, and not its beginning.

func idleFor(d time.Duration) func(*record.Key) {
	return func(k *record.Key) { k.IdleTimeout = d }
}

// TestIdlenessCountsFromTheEndOfTheLastRequest has one request of twelve minutes with
// keys that may be idle for ten. What holds afterwards must not depend on what became
// of the server at either end.
func TestIdlenessCountsFromTheEndOfTheLastRequest(t *testing.T) {
	t.Parallel()
	const long, idle = 12 * time.Minute, 10 * time.Minute
	requests := map[string]func(*limiter.Ask){
		"a request":         func(*limiter.Ask) {},
		"one that is free":  free,
		"one that listens":  listens,
		"one with no tally": func(a *limiter.Ask) { a.Bound = record.Amounts{} },
	}
	ends := map[string]func(g *limiter.Grant){
		"settled":   func(g *limiter.Grant) { g.Settle(record.Amounts{record.Activations: 1}) },
		"cancelled": func(g *limiter.Grant) { g.Cancel() },
	}
	afterwards := map[string]func(w *world){
		"goes on":  func(*world) {},
		"restarts": func(w *world) { w.restart() },
		"killed":   func(w *world) { w.kill(false) },
	}
	for request, opt := range requests {
		for end, settle := range ends {
			for after, event := range afterwards {
				for _, who := range []string{"the key", "its parent", "its grandparent"} {
					t.Run(fmt.Sprintf("%s, %s, %s, %s", request, end, after, who), func(t *testing.T) {
						t.Parallel()
						w := newWorld(t)
						asked, k := tree(w, who, idleFor(idle))
						g, refusal := k.ask(opt)
						if refusal != nil {
							t.Fatal(refusal)
						}
						passes(w, long)
						settle(g)
						ended := w.clock.time()
						event(w)
						if got := asked.view().LastUsedAt; !got.Equal(ended) {
							t.Errorf("it was used last at %s, and the request ended at %s", got, ended)
						}
						w.clock.advance(idle - time.Second)
						w.settle()
						if v := asked.view(); v.Status != record.Active {
							t.Fatalf("%s after the request had ended: %s, %s", idle-time.Second, v.Status, v.EndedReason)
						}
						w.clock.advance(time.Second)
						if v := asked.view(); v.Status != record.Expired {
							t.Errorf("%s after the request had ended: %s", idle, v.Status)
						}
						if code := k.use(); code != record.CodeKeyIdle {
							t.Errorf("%s after the request had ended: %q", idle, code)
						}
					})
				}
			}
		}
	}
}

// tree mints a key, or one with a child, or with a child that has one; who of them is
// special is returned, and who is used.
func tree(w *world, who string, special func(*record.Key)) (asked, used *key) {
	w.t.Helper()
	none := func(*record.Key) {}
	switch who {
	case "its parent":
		asked = w.mint(delegating(special))
		return asked, asked.mustChild(none)
	case "its grandparent":
		asked = w.mint(delegating(special))
		return asked, asked.mustChild(delegating()).mustChild(none)
	}
	asked = w.mint(special)
	return asked, asked
}

// passes lets time pass, in which the sweeper does its work.
func passes(w *world, d time.Duration) {
	w.t.Helper()
	const step = 5 * time.Second
	for ; d > 0; d -= step {
		w.clock.advance(min(step, d))
		w.SweepActive()
		if err := w.Ping(ctx); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestAKeyThatWasInUseWhenTheServerEndedIsIdleFromThen: nobody knows when what ran
// then ended, but that it still ran some seconds before.
func TestAKeyThatWasInUseWhenTheServerEndedIsIdleFromThen(t *testing.T) {
	t.Parallel()
	const known = 10 * time.Second // so often it is written what is in use
	for after, event := range map[string]func(w *world){
		"stopped":   func(w *world) { w.restart() },
		"killed":    func(w *world) { w.kill(false) },
		"power cut": func(w *world) { w.kill(true) },
	} {
		for _, who := range []string{"the key", "its parent", "its grandparent"} {
			t.Run(after+", "+who, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				asked, k := tree(w, who, idleFor(10*time.Minute))
				if _, refusal := k.ask(); refusal != nil {
					t.Fatal(refusal)
				}
				passes(w, 12*time.Minute)
				event(w)
				w.clock.advance(10*time.Minute - known - time.Second)
				if v := asked.view(); v.Status != record.Active {
					t.Fatalf("nearly ten minutes after: %s, used last at %s", v.Status, v.LastUsedAt)
				}
				w.clock.advance(known + time.Second)
				if v := asked.view(); v.Status != record.Expired {
					t.Errorf("ten minutes after: %s, used last at %s", v.Status, v.LastUsedAt)
				}
			})
		}
	}
}

// TestWhatIsInUseIsNotUnused: nobody is shown, told of or ended as unused while a
// request of theirs runs, or of a child, however long.
func TestWhatIsInUseIsNotUnused(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"the key", "its parent", "its grandparent"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			asked, k := tree(w, who, func(*record.Key) {})
			g, refusal := k.ask()
			if refusal != nil {
				t.Fatal(refusal)
			}
			passes(w, time.Hour)
			unused := limiter.Filter{UnusedFor: 10 * time.Minute}
			if page, err := w.List(ctx, limiter.Operator, unused); err != nil || len(page.Keys) > 0 {
				t.Errorf("unused: %d keys, %v", len(page.Keys), err)
			}
			if at := asked.view().LastUsedAt; !at.Equal(w.clock.time()) {
				t.Errorf("while it is used, it was used last at %s", at)
			}
			w.SetStale(10*time.Minute, true)
			w.SweepStale()
			if v := asked.view(); !v.StaleToldAt.IsZero() || v.Status != record.Active {
				t.Errorf("told to be stale at %s, %s", v.StaleToldAt, v.Status)
			}
			g.Settle(record.Amounts{record.Activations: 1})
			w.clock.advance(9 * time.Minute)
			if page, err := w.List(ctx, limiter.Operator, unused); err != nil || len(page.Keys) > 0 {
				t.Errorf("nine minutes after it: %d keys, %v", len(page.Keys), err)
			}
		})
	}
}

// TestWhatUsesNothingIsNoUse: what was refused, and questions about the key.
func TestWhatUsesNothingIsNoUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.IdleTimeout, k.Scope.Methods = 10*time.Minute, []string{"POST"} })
	w.clock.advance(9 * time.Minute)
	if code := k.use(func(a *limiter.Ask) { a.Method = "GET" }); code != record.CodeMethodNotAllowed {
		t.Fatal(code)
	}
	live, refusal := w.Find(ctx, k.lookup)
	if refusal == nil {
		refusal = live.Touch(ctx, from192)
	}
	if refusal != nil {
		t.Fatal(refusal)
	}
	w.clock.advance(time.Minute)
	if code := k.use(); code != record.CodeKeyIdle {
		t.Errorf("ten minutes after it was made: %q", code)
	}
}

// TestWhoWaitsIsNotIdle: a request that waits for what others hold finds its key as it
// came to it, and those above.
func TestWhoWaitsIsNotIdle(t *testing.T) {
	t.Parallel()
	for _, depth := range []int{0, 1, 2} {
		synctest.Test(t, func(t *testing.T) { // time passes only while all wait
			w := newWorld(t)
			w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{-1, 100, -1, -1}}}}
			if err := w.SetRoles(w.roles); err != nil {
				t.Fatal(err)
			}
			other := w.mint(func(k *record.Key) { k.Role = "ci" })
			k := w.mint(delegating(func(k *record.Key) { k.Role, k.IdleTimeout = "ci", 10*time.Second }))
			top := k
			for range depth {
				k = k.mustChild(delegating())
			}
			holds, refusal := other.ask(bound(record.Tokens, 100))
			if refusal != nil {
				t.Fatal(refusal)
			}
			w.clock.advance(9 * time.Second)
			answered := make(chan record.Code, 1)
			go func() { answered <- k.use(bound(record.Tokens, 100), func(a *limiter.Ask) { a.Waits = true }) }()
			synctest.Wait()
			if n := w.Turns(); n != 1 {
				t.Fatalf("%d above: %d wait", depth, n)
			}
			w.clock.advance(5 * time.Second)
			w.SweepActive()
			w.SweepDue()
			for _, k := range []*key{k, top} {
				if s := k.view().Status; s != record.Active {
					t.Errorf("%d above, while it waits: %s", depth, s)
				}
			}
			holds.Cancel()
			if code := <-answered; code != "" {
				t.Errorf("%d above, its turn: %s", depth, code)
			}
			w.clock.advance(10 * time.Second)
			if s := top.view().Status; s != record.Expired {
				t.Errorf("%d above, when nobody waits or uses it: %s", depth, s)
			}
		})
	}
}
