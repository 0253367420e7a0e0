package limiter_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/till-proxy/till/limiter"
)

// TestNoScheduleSpendsMoreThanTheCap drives a key and its role, both limited in
// tokens and dollars, through holds of any size, fits, settlements below the
// bound, aborts, renewals, stops and crashes: settled and held never pass the
// cap, and neither does what was really used.
func TestNoScheduleSpendsMoreThanTheCap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		defer w.Abandon()
		caps := limiter.Amounts{limiter.NoLimit, rapid.Int64Range(1, 1e6).Draw(rt, "tokens"), rapid.Int64Range(1, 1e9).Draw(rt, "dollars"), limiter.NoLimit}
		shared := limiter.Amounts{limiter.NoLimit, rapid.Int64Range(1, 1e6).Draw(rt, "the role's tokens"), limiter.NoLimit, limiter.NoLimit}
		w.roles = map[string]limiter.Role{"ci": {Budget: limiter.RoleBudget{Limit: shared}}}
		if err := w.SetRoles(w.roles); err != nil {
			rt.Fatal(err)
		}
		renews := rapid.SampledFrom([]limiter.Renewal{"", limiter.Daily}).Draw(rt, "renews")
		k := w.mint(func(k *limiter.Key) { k.Limit, k.Renews, k.Role = caps, renews, "ci" })
		type request struct {
			*limiter.Grant
			bound limiter.Amounts
			day   int
		}
		var running []request
		day := 0
		used := make(map[int]limiter.Amounts) // by day, what may have been used
		total := int64(0)                     // tokens, of the role
		add := func(day int, a limiter.Amounts) {
			sum := used[day]
			for i := range sum {
				sum[i] += a[i]
			}
			used[day] = sum
			total += a[limiter.Tokens]
		}
		drop := func(r request, keep limiter.Amounts) {
			for i := range keep {
				keep[i] -= r.bound[i]
			}
			add(r.day, keep)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"request": func(rt *rapid.T) {
				natural := limiter.Amounts{limiter.Tokens: rapid.Int64Range(1, 2e5).Draw(rt, "bound"), limiter.Nanodollars: rapid.Int64Range(1, 2e8).Draw(rt, "cost")}
				fits := rapid.Bool().Draw(rt, "fit")
				bound := natural
				g, refusal := k.ask(func(a *limiter.Ask) {
					a.Bound = limiter.Amounts{limiter.Activations: 1}
					a.Fit = func(left limiter.Amounts) limiter.Amounts {
						bound = natural
						if fits {
							bound[limiter.Tokens] = min(natural[limiter.Tokens], max(left[limiter.Tokens], 1))
							bound[limiter.Nanodollars] = min(natural[limiter.Nanodollars], max(left[limiter.Nanodollars], 1))
						}
						return bound
					}
				})
				if refusal != nil {
					return
				}
				add(day, bound)
				running = append(running, request{g, bound, day})
			},
			"end": func(rt *rapid.T) {
				if len(running) == 0 {
					return
				}
				r := running[0]
				running = running[1:]
				if rapid.IntRange(0, 4).Draw(rt, "dispatched") == 0 {
					r.Cancel()
					drop(r, limiter.Amounts{})
					return
				}
				u := limiter.Amounts{limiter.Activations: 1, limiter.Tokens: rapid.Int64Range(0, r.bound[limiter.Tokens]).Draw(rt, "used"),
					limiter.Nanodollars: rapid.Int64Range(0, r.bound[limiter.Nanodollars]).Draw(rt, "spent")}
				r.Settle(u)
				u[limiter.Activations] = 0
				drop(r, u)
			},
			"next day": func(*rapid.T) {
				w.clock.advance(24 * time.Hour)
				if renews != "" {
					day++
				}
				w.SweepActive()
			},
			"idle":    func(*rapid.T) { w.clock.advance(10 * time.Second); w.SweepActive() },
			"restart": func(*rapid.T) { running = nil; w.restart() },
			"kill":    func(rt *rapid.T) { running = nil; w.kill(rapid.Bool().Draw(rt, "power")) },
			"": func(rt *rapid.T) {
				w.agree(rt)
				v := k.view()
				for _, kind := range []limiter.Kind{limiter.Tokens, limiter.Nanodollars} {
					if v.Used[kind]+v.Held[kind] > caps[kind] || used[day][kind] > caps[kind] {
						rt.Fatalf("%s: settled %d and held %d, really %d, of %d", kind, v.Used[kind], v.Held[kind], used[day][kind], caps[kind])
					}
				}
				if total > shared[limiter.Tokens] {
					rt.Fatalf("the role's keys used %d tokens of %d", total, shared[limiter.Tokens])
				}
			},
		})
	})
}
