package limiter_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestAPlaceIsTakenUntilTheAnswerIsOver does at random what can happen to requests of
// three generations with two places each, and counts beside it who has a place. What
// was answered is still in flight, in use, and cut with its key.
func TestAPlaceIsTakenUntilTheAnswerIsOver(t *testing.T) {
	t.Parallel()
	const places = 2
	type request struct {
		*limiter.Grant
		of       int
		streams  bool
		answered bool
	}
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 0))
			w := newWorld(t)
			some := func(k *record.Key) { k.MaxConcurrency, k.IdleTimeout = places, time.Minute }
			keys := []*key{w.mint(delegating(activations(10_000), some))}
			keys = append(keys, keys[0].mustChild(delegating(activations(5000))))
			keys = append(keys, keys[1].mustChild(activations(1000)))
			var running []*request
			taken := func(of int, streams bool) (n int) {
				for _, r := range running {
					if r.of >= of && r.streams == streams && !r.answered {
						n++
					}
				}
				return n
			}
			for step := range 300 {
				act := random.IntN(12)
				if act < 5 || len(running) == 0 {
					r := &request{of: random.IntN(len(keys)), streams: random.IntN(2) == 0}
					var want record.Code
					for above := range r.of + 1 {
						if taken(above, r.streams) >= places {
							want = record.CodeConcurrency
						}
					}
					g, refusal := keys[r.of].ask(func(a *limiter.Ask) { a.Listens = r.streams })
					got := record.Code("")
					if refusal != nil {
						got = refusal.Code
					}
					if got != want {
						t.Fatalf("step %d, of key %d, streams %v: %q, want %q", step, r.of, r.streams, got, want)
					}
					if r.Grant = g; refusal == nil {
						running = append(running, r)
					}
					continue
				}
				i := random.IntN(len(running))
				switch r := running[i]; {
				case act < 9:
					r.Answered()
					r.answered = true
				case act == 11 && step%10 == 0:
					w.fail(true)
					w.heal(nil)
				default:
					if act == 9 {
						r.Cancel()
					} else {
						r.Settle(record.Amounts{record.Activations: 1})
					}
					r.Answered() // too late to change anything
					running = append(running[:i], running[i+1:]...)
				}
			}
			for _, r := range running {
				r.Answered()
			}
			w.clock.advance(time.Hour)
			for of, k := range keys {
				inFlight, below := 0, 0
				for _, r := range running {
					switch {
					case r.of == of:
						inFlight++
					case r.of > of:
						below++
					}
				}
				v := k.view()
				if used := v.LastUsedAt.Equal(w.clock.time()); v.InFlight != inFlight || used != (inFlight+below > 0) {
					t.Errorf("key %d: %d in flight, want %d; used last at %s, with %d in flight below", of, v.InFlight, inFlight, v.LastUsedAt, below)
				}
			}
			if _, _, err := w.Revoke(ctx, limiter.Operator, keys[0].id, ""); err != nil {
				t.Fatal(err)
			}
			for _, r := range running {
				if r.Cut() == nil {
					t.Errorf("a request of key %d, which was answered, is not cut with its key", r.of)
				}
			}
		})
	}
}
