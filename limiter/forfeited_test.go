package limiter_test

import (
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// What the figures say that crashes have made count as used.

// cutWhileBusy mints a key, uses it so fast that its node reserves ahead, and cuts the power.
// It returns how much of it the store says is used that was not.
func (w *world) cutWhileBusy() (k *key, lost int64) {
	w.t.Helper()
	k = w.mint(activations(4000))
	const used = 500
	for range used {
		if code := k.use(); code != "" {
			w.t.Fatal(code)
		}
		w.clock.advance(time.Millisecond)
	}
	w.kill(true)
	if lost = k.view().Used[record.Activations] - used; lost == 0 {
		w.t.Fatal("nothing was reserved ahead")
	}
	return k, lost
}

func TestWhatACrashForfeitsIsCountedOnce(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(w *world){
		"while it stays in memory": func(*world) {},
		"after it has left memory": func(w *world) {
			for range 2 { // the first time it is saved
				w.clock.advance(time.Hour)
				w.SweepActive()
				if err := w.Ping(ctx); err != nil {
					w.t.Fatal(err)
				}
				w.SweepIdle()
			}
			if n := w.Loaded(); n > 0 {
				w.t.Fatalf("%d keys are in memory", n)
			}
		},
		"after the store was opened again": func(w *world) {
			w.fail(false)
			w.heal(nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newMachine(t)
			k, lost := w.cutWhileBusy()
			before := w.Stats().Forfeited
			if before < lost {
				t.Errorf("at most %d are said to be forfeited, and %d are", before, lost)
			}
			again(w)
			k.view()
			if n := w.Stats().Forfeited; n != before {
				t.Errorf("%d are forfeited, and then %d", before, n)
			}
		})
	}
}

func TestWhatRunsWhileTheStoreIsOpenedAgainIsNotForfeited(t *testing.T) {
	t.Parallel()
	for name, shadow := range map[string]string{"with a shadow": "shadow", "without one": ""} {
		t.Run(name, func(t *testing.T) {
			w := newMachine(t)
			w.shadow = shadow
			w.restart()
			k := w.mint(activations(100))
			g, refusal := k.ask()
			if refusal != nil {
				t.Fatal(refusal)
			}
			w.fail(false)
			w.heal(nil)
			if n := w.Stats().Forfeited; n != 0 {
				t.Errorf("%d are forfeited while the request runs", n)
			}
			g.Cancel()
			if n := k.drain(record.CodeActivationsExhausted); n != 100 {
				t.Errorf("%d of 100", n)
			}
			if n := w.Stats().Forfeited; n != 0 {
				t.Errorf("%d are forfeited", n)
			}
		})
	}
}
