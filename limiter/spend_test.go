package limiter_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
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
		draw := func(what string) record.Amounts {
			return record.Amounts{record.NoLimit, rapid.Int64Range(1, 1e6).Draw(rt, what+" tokens"), rapid.Int64Range(1, 1e9).Draw(rt, what+" dollars"), record.NoLimit}
		}
		renewal := rapid.SampledFrom([]record.Renewal{"", record.Daily})
		shared := budgetBook{cap: draw("the role's"), renews: renewal.Draw(rt, "the role renews")}
		w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: shared.cap, Renews: shared.renews}}}
		if err := w.SetRoles(w.roles); err != nil {
			rt.Fatal(err)
		}
		type request struct {
			*limiter.Grant
			bound record.Amounts
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
			b.key = w.mint(func(k *record.Key) { k.Limit, k.Renews, k.Role = b.cap, b.renews, "ci" })
			keys[i] = b
		}
		pick := func() *held { return keys[rapid.IntRange(0, 1).Draw(rt, "key")] }
		day := 0
		note := func(b *held, day int, a record.Amounts, sign int64) {
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
				natural := record.Amounts{record.Tokens: rapid.Int64Range(1, 2e5).Draw(rt, "bound"), record.Nanodollars: rapid.Int64Range(1, 2e8).Draw(rt, "cost")}
				fits := rapid.Bool().Draw(rt, "fit")
				bound := natural
				g, refusal := b.ask(func(a *limiter.Ask) {
					a.Bound = record.Amounts{record.Activations: 1}
					a.Fit = func(left record.Amounts) record.Amounts {
						bound = natural
						if fits {
							bound[record.Tokens] = min(natural[record.Tokens], max(left[record.Tokens], 1))
							bound[record.Nanodollars] = min(natural[record.Nanodollars], max(left[record.Nanodollars], 1))
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
				u := record.Amounts{record.Activations: 1, record.Tokens: rapid.Int64Range(0, r.bound[record.Tokens]).Draw(rt, "used"),
					record.Nanodollars: rapid.Int64Range(0, r.bound[record.Nanodollars]).Draw(rt, "spent")}
				r.Settle(u)
				note(b, r.day, u, 1)
			},
			"grant": func(rt *rapid.T) {
				b := pick()
				n := rapid.Int64Range(1, 1e5).Draw(rt, "more")
				if _, err := w.GrantMore(ctx, limiter.Operator, b.id, limiter.More{Tokens: n, Nanodollars: 1000 * n}); err != nil {
					rt.Fatal(err)
				}
				b.cap[record.Tokens] += n
				b.cap[record.Nanodollars] += 1000 * n
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
					for _, kind := range []record.Kind{record.Tokens, record.Nanodollars} {
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
	cap    record.Amounts
	renews record.Renewal
	used   map[int]record.Amounts
}

func (b *budgetBook) note(day int, a record.Amounts, sign int64) {
	if b.renews == "" {
		day = 0
	}
	if b.used == nil {
		b.used = make(map[int]record.Amounts)
	}
	sum := b.used[day]
	for _, kind := range []record.Kind{record.Tokens, record.Nanodollars} {
		sum[kind] += sign * a[kind]
	}
	b.used[day] = sum
}

// judge holds every window to the cap.
func (b *budgetBook) judge(rt *rapid.T, whose string) {
	for day, sum := range b.used {
		for _, kind := range []record.Kind{record.Tokens, record.Nanodollars} {
			if sum[kind] > b.cap[kind] {
				rt.Fatalf("%s of %s on day %d: really %d of %d", kind, whose, day, sum[kind], b.cap[kind])
			}
		}
	}
}
