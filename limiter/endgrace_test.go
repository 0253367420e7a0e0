package limiter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func TestTheGraceOfOneStringCanBeEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	next := k.rotate(time.Hour)
	for _, want := range []limiter.LeakState{limiter.LeakGraceEnded, limiter.LeakDead} {
		if done, err := w.Leak(ctx, limiter.Operator, k.lookup, false, false); err != nil || done.State != want {
			t.Errorf("%+v, %v, want %s", done, err, want)
		}
	}
	k.expect("its grace was ended", record.CodeKeyRevoked)
	next.expect("the key goes on", "")
}

func TestAStringWhoseGraceWasEndedWorksNoMoreEvenIfThatIsNotDurableYet(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ fail, heal func(w *world) }{
		"on a full disk":             {func(w *world) { w.disk.Fill() }, func(w *world) { w.disk.Heal(); w.SweepDue() }},
		"where the store has failed": {func(w *world) { w.fail(false) }, func(w *world) { w.heal(func() {}) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			k := w.mint(activations(10))
			next := k.rotate(time.Hour)
			g, refusal := k.ask()
			if refusal != nil {
				t.Fatal(refusal)
			}
			c.fail(w)
			for range 2 {
				if done, err := w.Leak(ctx, limiter.Operator, k.lookup, false, false); err == nil || done.State != limiter.LeakGraceEnded {
					t.Errorf("%+v, %v, want an error", done, err)
				}
				if _, refusal := k.ask(); refusal == nil || refusal.Code != record.CodeKeyRevoked && refusal.Code != record.CodeStoreUnavailable {
					t.Errorf("in memory: %v", refusal)
				}
			}
			if g.Cut() == nil {
				t.Error("what ran with it was not cut")
			}
			g.Settle(record.Amounts{record.Activations: 1})
			c.heal(w)
			k.expect("once the store is well", record.CodeKeyRevoked)
			next.expect("the key goes on", "")
			if done, err := w.Leak(ctx, limiter.Operator, k.lookup, false, false); err != nil || done.State != limiter.LeakDead {
				t.Errorf("once it is durable: %+v, %v", done, err)
			}
			w.kill(true)
			k.expect("after a power cut", record.CodeKeyRevoked)
			next.expect("after a power cut, the key", "")
			if got := strings.Count(w.acts(k.id), "key.end_grace"); got != 1 {
				t.Errorf("the log says %s", w.acts(k.id))
			}
		})
	}
}

// TestAGraceThatEndedInMemoryStaysEndedWhateverElseIsWritten: each of these writes a record
// in which the grace still runs, or knows of another end as well.
func TestAGraceThatEndedInMemoryStaysEndedWhateverElseIsWritten(t *testing.T) {
	t.Parallel()
	const ended, failed = true, false
	leak := func(w *world, k *key, durable bool) {
		w.t.Helper()
		if done, err := w.Leak(ctx, limiter.Operator, k.lookup, false, false); (err == nil) != durable || done.State != limiter.LeakGraceEnded {
			w.t.Errorf("%+v, %v", done, err)
		}
	}
	suspend := func(w *world, id string, durable bool) {
		w.t.Helper()
		if _, err := w.Suspend(limiter.Operator, id); (err == nil) != durable {
			w.t.Errorf("suspending: %v", err)
		}
	}
	resume := func(w *world, id string) {
		w.t.Helper()
		if _, err := w.Resume(limiter.Operator, id); err != nil {
			w.t.Errorf("resuming: %v", err)
		}
	}
	for name, write := range map[string]func(w *world, first, second *key){
		"the end of another, neither of which is durable": func(w *world, first, second *key) {
			leak(w, first, failed)
			leak(w, second, failed)
			w.disk.Heal()
			w.SweepDue()
		},
		"the end of another that is durable": func(w *world, first, second *key) {
			leak(w, first, failed)
			w.disk.Heal()
			leak(w, second, ended)
		},
		"the end of another of long ago": func(w *world, first, second *key) {
			w.disk.Heal()
			leak(w, second, ended)
			w.disk.Fill()
			leak(w, first, failed)
			w.disk.Heal()
			if done, err := w.Leak(ctx, limiter.Operator, second.lookup, false, false); err != nil || done.State != limiter.LeakDead {
				w.t.Errorf("what ended before: %+v, %v", done, err)
			}
		},
		"a suspension after it": func(w *world, first, _ *key) {
			leak(w, first, failed)
			w.disk.Heal()
			suspend(w, first.id, true)
			resume(w, first.id)
		},
		"a suspension that came before": func(w *world, first, _ *key) {
			suspend(w, first.id, false)
			leak(w, first, failed)
			w.disk.Heal()
			resume(w, first.id)
		},
		"another change": func(w *world, first, _ *key) {
			leak(w, first, failed)
			w.disk.Heal()
			if _, err := w.Change(ctx, limiter.Operator, first.id, 0, func(k *record.Key) error { k.Name = "renamed"; return nil }); err != nil {
				w.t.Error(err)
			}
		},
		"a clean stop": func(w *world, first, _ *key) {
			leak(w, first, failed)
			w.disk.Heal()
			w.restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			first := w.mint(activations(10))
			second := first.rotate(time.Hour)
			last := second.rotate(time.Hour)
			w.disk.Fill()
			write(w, first, second)
			first.expect("then", record.CodeKeyRevoked)
			w.SweepIdle()
			w.SweepDue()
			first.expect("after a sweep", record.CodeKeyRevoked)
			w.kill(true)
			first.expect("after a power cut", record.CodeKeyRevoked)
			last.expect("the key", "")
		})
	}
}
