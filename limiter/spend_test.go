package limiter_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/till-proxy/till/limiter"
)

// TestNoScheduleSpendsMoreThanTheCap drives two keys and the role that they
// share, all limited in tokens and dollars, through holds of any size, fits,
// settlements below the bound, aborts, grants, renewals, evictions, stops and
// crashes: in every window what is settled and what is held never pass the cap
// together, nor does what was really used; and never is more durably reserved.
func TestNoScheduleSpendsMoreThanTheCap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newMachine(t)
		defer w.Abandon()
		draw := func(what string) limiter.Amounts {
			return limiter.Amounts{limiter.NoLimit, rapid.Int64Range(1, 1e6).Draw(rt, what+" tokens"), rapid.Int64Range(1, 1e9).Draw(rt, what+" dollars"), limiter.NoLimit}
		}
		renewal := rapid.SampledFrom([]limiter.Renewal{"", limiter.Daily})
		shared := budgetBook{cap: draw("the role's"), renews: renewal.Draw(rt, "the role renews")}
		w.roles = map[string]limiter.Role{"ci": {Budget: limiter.RoleBudget{Limit: shared.cap, Renews: shared.renews}}}
		if err := w.SetRoles(w.roles); err != nil {
			rt.Fatal(err)
		}
		type request struct {
			*limiter.Grant
			bound limiter.Amounts
			day   int
		}
		type held struct {
			*key
			budgetBook
			running []request
		}
		keys := make([]*held, 2)
		for i := range keys {
			b := &held{budgetBook: budgetBook{cap: draw("a key's"), renews: renewal.Draw(rt, "a key renews")}}
			b.key = w.mint(func(k *limiter.Key) { k.Limit, k.Renews, k.Role = b.cap, b.renews, "ci" })
			keys[i] = b
		}
		pick := func() *held { return keys[rapid.IntRange(0, 1).Draw(rt, "key")] }
		day := 0
		note := func(b *held, day int, a limiter.Amounts, sign int64) {
			b.note(day, a, sign)
			shared.note(day, a, sign)
		}
		stopped := func() {
			for _, b := range keys {
				b.running = nil // each counts at its bound
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"request": func(rt *rapid.T) {
				b := pick()
				natural := limiter.Amounts{limiter.Tokens: rapid.Int64Range(1, 2e5).Draw(rt, "bound"), limiter.Nanodollars: rapid.Int64Range(1, 2e8).Draw(rt, "cost")}
				fits := rapid.Bool().Draw(rt, "fit")
				bound := natural
				g, refusal := b.ask(func(a *limiter.Ask) {
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
				note(b, day, bound, 1)
				b.running = append(b.running, request{g, bound, day})
			},
			"end": func(rt *rapid.T) {
				b := pick()
				if len(b.running) == 0 {
					return
				}
				r := b.running[0]
				b.running = b.running[1:]
				note(b, r.day, r.bound, -1)
				if rapid.IntRange(0, 4).Draw(rt, "dispatched") == 0 {
					r.Cancel()
					return
				}
				u := limiter.Amounts{limiter.Activations: 1, limiter.Tokens: rapid.Int64Range(0, r.bound[limiter.Tokens]).Draw(rt, "used"),
					limiter.Nanodollars: rapid.Int64Range(0, r.bound[limiter.Nanodollars]).Draw(rt, "spent")}
				r.Settle(u)
				note(b, r.day, u, 1)
			},
			"grant": func(rt *rapid.T) {
				b := pick()
				n := rapid.Int64Range(1, 1e5).Draw(rt, "more")
				if _, err := w.GrantMore(ctx, limiter.Operator, b.id, limiter.More{Tokens: n, Nanodollars: 1000 * n}); err != nil {
					rt.Fatal(err)
				}
				b.cap[limiter.Tokens] += n
				b.cap[limiter.Nanodollars] += 1000 * n
			},
			"next day": func(*rapid.T) { w.clock.advance(24 * time.Hour); day++; w.SweepActive() },
			"idle":     func(*rapid.T) { w.clock.advance(10 * time.Second); w.SweepActive() },
			"evict":    func(*rapid.T) { w.SweepActive(); w.SweepIdle() },
			"restart":  func(*rapid.T) { stopped(); w.restart() },
			"kill":     func(rt *rapid.T) { stopped(); w.kill(rapid.Bool().Draw(rt, "power")) },
			"": func(rt *rapid.T) {
				w.agree(rt)
				shared.judge(rt, "the role")
				for _, b := range keys {
					b.judge(rt, b.id)
					v := b.view()
					memory, stored, err := w.Reserved(b.id)
					if err != nil {
						rt.Fatal(err)
					}
					for _, kind := range []limiter.Kind{limiter.Tokens, limiter.Nanodollars} {
						if v.Used[kind]+v.Held[kind] > b.cap[kind] || stored[kind] > b.cap[kind] || memory[kind] < v.Used[kind]+v.Held[kind] {
							rt.Fatalf("%s: settled %d, held %d, reserved %d and %d on disk, of %d", kind, v.Used[kind], v.Held[kind], memory[kind], stored[kind], b.cap[kind])
						}
					}
				}
			},
		})
	})
}

// budgetBook is what may have been used of a budget, day by day.
type budgetBook struct {
	cap    limiter.Amounts
	renews limiter.Renewal
	used   map[int]limiter.Amounts
}

func (b *budgetBook) note(day int, a limiter.Amounts, sign int64) {
	if b.renews == "" {
		day = 0
	}
	if b.used == nil {
		b.used = make(map[int]limiter.Amounts)
	}
	sum := b.used[day]
	for _, kind := range []limiter.Kind{limiter.Tokens, limiter.Nanodollars} {
		sum[kind] += sign * a[kind]
	}
	b.used[day] = sum
}

// judge holds every window to the cap.
func (b *budgetBook) judge(rt *rapid.T, whose string) {
	for day, sum := range b.used {
		for _, kind := range []limiter.Kind{limiter.Tokens, limiter.Nanodollars} {
			if sum[kind] > b.cap[kind] {
				rt.Fatalf("%s of %s on day %d: really %d of %d", kind, whose, day, sum[kind], b.cap[kind])
			}
		}
	}
}
