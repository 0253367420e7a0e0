package limiter_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestARequestWaitsForWhatOthersHold(t *testing.T) {
	t.Parallel()
	type scene struct {
		*world
		parent, key *key
		held        *limiter.Grant
		leave       context.CancelFunc
		exiting     atomic.Bool
	}
	revoke := func(s *scene, id string) {
		if _, _, err := s.Revoke(ctx, limiter.Operator, id, ""); err != nil {
			s.t.Error(err)
		}
	}
	for _, test := range []struct {
		name string
		then func(s *scene)
		code record.Code
		took time.Duration
	}{
		{"and is admitted when that is settled", func(s *scene) { s.held.Settle(used(100)) }, "", 0},
		{"and is admitted when that is cancelled", func(s *scene) { s.held.Cancel() }, "", 0},
		{"and is admitted when more is granted", func(s *scene) {
			if _, err := s.GrantMore(ctx, limiter.Operator, s.parent.id, limiter.More{Tokens: 1000}); err != nil {
				s.t.Error(err)
			}
			if _, err := s.GrantMore(ctx, limiter.Operator, s.key.id, limiter.More{Tokens: 1000}); err != nil {
				s.t.Error(err)
			}
		}, "", 0},
		{"and is told when all was used", func(s *scene) { s.held.Settle(used(1000)) }, record.CodeTokensExhausted, 0},
		{"and is told when too little came back", func(s *scene) { s.held.Settle(used(700)) }, record.CodeBudgetTooSmall, 0},
		{"and is told when nothing comes back", func(s *scene) {}, record.CodeBudgetHeld, limiter.DefaultTurn},
		{"and leaves with its client", func(s *scene) { s.leave() }, record.CodeBudgetHeld, 0},
		{"and is told at once when its key is revoked", func(s *scene) { revoke(s, s.key.id) }, record.CodeKeyRevoked, 0},
		{"and is told at once when its parent is revoked", func(s *scene) { revoke(s, s.parent.id) }, record.CodeKeyRevoked, 0},
		{"and is told at once when its key is suspended", func(s *scene) {
			if _, err := s.Suspend(limiter.Operator, s.key.id); err != nil {
				s.t.Error(err)
			}
		}, record.CodeKeySuspended, 0},
		{"and is told when its key expires", func(s *scene) {
			s.clock.advance(time.Hour)
			s.SweepActive()
		}, record.CodeKeyExpired, 0},
		{"and is told at once in a lockdown", func(s *scene) {
			if _, _, err := s.lockdown.Set(limiter.Operator, "drill"); err != nil {
				s.t.Error(err)
			}
		}, record.CodeLockedDown, 0},
		{"and is told when the store is closed", func(s *scene) { s.Abandon() }, record.CodeStoreUnavailable, 0},
		{"and is told when the process ends", func(s *scene) { s.exiting.Store(true) }, record.CodeBudgetHeld, 200 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &scene{}
				w := &world{t: t, clock: newClock(), disk: storetest.NewDisk(), dir: memoryDir(t), exiting: s.exiting.Load}
				w.shadow, w.lockdown = filepath.Join(w.dir, "shadow"), newLockdown(filepath.Join(w.dir, "lockdown"))
				w.open(w.disk.Open())
				s.world = w
				s.parent = w.mint(delegating(tokens(1000)))
				s.key = s.parent.mustChild(func(k *record.Key) { k.Limit[record.Tokens], k.ExpiresAt = 1000, w.clock.time().Add(time.Hour) })
				s.held = s.key.hold(800)
				client, leave := context.WithCancel(t.Context())
				s.leave = leave
				first := s.key.wait(client, 500)
				if code := first.code(); code != "waits" || w.Turns() != 1 {
					t.Fatalf("before: %q, %d wait", code, w.Turns())
				}
				test.then(s)
				if test.took > 0 {
					time.Sleep(test.took) // until the bubble has nothing else to do
				}
				synctest.Wait()
				if code := first.code(); code != test.code || first.took != test.took || w.Turns() != 0 {
					t.Errorf("%q after %s, want %q after %s; %d wait", code, first.took, test.code, test.took, w.Turns())
				}
				leave()
				w.Abandon()
				w.lockdown.Close()
			})
		})
	}
}

// TestWhoWaitsTakesNothing but its place in the line: not of the rate, however
// often it is called, nor of what may run at a time.
func TestWhoWaitsTakesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := w.mint(func(k *record.Key) {
			k.Limit[record.Tokens], k.Rate, k.MaxConcurrency = 1000, record.Rate{N: 20, Per: time.Hour}, 4
		})
		large := k.hold(900)
		var waiting []*waiter
		for range 10 {
			waiting = append(waiting, k.wait(ctx, 950))
		}
		for range 10 {
			k.hold(50).Settle(used(0)) // each calls the whole line
			synctest.Wait()
		}
		v := k.view()
		if v.InFlight != 1 || v.Used[record.Tokens] != 0 || v.Held[record.Tokens] != 900 || w.Turns() != 10 {
			t.Errorf("%d run, %v used, %v held, %d wait", v.InFlight, v.Used, v.Held, w.Turns())
		}
		large.Settle(used(0))
		admitted := 0
		for range 10 {
			synctest.Wait()
			for _, one := range waiting {
				if one.code() == "" && one.grant != nil {
					admitted++
					one.grant.Settle(used(0))
					one.grant = nil
				}
			}
		}
		codes := make(map[record.Code]int)
		for _, one := range waiting {
			codes[one.code()]++
		}
		// 11 of 20 were taken before.
		if admitted != 9 || codes[record.CodeRateLimited] != 1 {
			t.Errorf("%d admitted, want the 9 that the rate leaves: %v", admitted, codes)
		}
		w.Abandon()
	})
}

func TestWhoCameFirstIsCalledFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := w.mint(tokens(1000))
		large := k.hold(900)
		var line []*waiter
		for range 5 {
			line = append(line, k.wait(ctx, 600))
		}
		large.Settle(used(0))
		for i, one := range line {
			synctest.Wait()
			for j, other := range line {
				if other.over.Load() != (j <= i) {
					t.Errorf("when number %d was called, number %d is %q", i, j, other.code())
				}
			}
			if one.over.Load() {
				one.grant.Settle(used(0))
			}
		}
		w.Abandon()
	})
}

// TestSmallOnesPassALargeOneOnlySoOften: what is left is not idle because the first
// of the line needs more, and that one's turn comes all the same.
func TestSmallOnesPassALargeOneOnlySoOften(t *testing.T) {
	t.Parallel()
	for _, inLine := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			k := w.mint(tokens(1000))
			first := k.hold(900)
			large := k.wait(ctx, 1000)
			if inLine {
				first.Settle(used(0)) // and another takes its place at once
				synctest.Wait()
				first, large = large.grant, k.wait(ctx, 1000)
			}
			passed := 0
			var running []*limiter.Grant
			for range 100 {
				small := k.wait(ctx, 1)
				if small.code() != "" {
					break
				}
				passed++
				running = append(running, small.grant)
			}
			if want := map[bool]int{false: 16, true: 0}[inLine]; passed != want {
				t.Errorf("%d passed, want %d", passed, want)
			}
			first.Settle(used(0))
			for _, g := range running {
				g.Settle(used(0))
			}
			synctest.Wait()
			if code := large.code(); code != "" {
				t.Errorf("the large one: %q", code)
			}
			w.Abandon()
		})
	}
}

func TestOnlySoManyRequestsWaitForOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.turnBytes = 1 << 20
		w.restart()
		ctx, cancel := context.WithCancel(ctx)
		mine := func() *key {
			k := w.mint(tokens(1000))
			k.hold(900)
			return k
		}
		k := mine()
		fill := func(k *key, n int) {
			t.Helper()
			for i := range n {
				if code := k.wait(ctx, 200).code(); code != "waits" {
					t.Fatalf("number %d: %q", i, code)
				}
			}
		}
		refused := func(what string, one *waiter) {
			t.Helper()
			if one.code() != record.CodeBudgetHeld || one.took != 0 || one.refusal.RetryAfter <= 0 {
				t.Errorf("%s: %q after %s", what, one.code(), one.took)
			}
		}
		keeps := func(n int64) func(*limiter.Ask) { return func(a *limiter.Ask) { a.Keeps = n } }
		other := mine()
		if code := other.wait(ctx, 200, keeps(1<<20)).code(); code != "waits" {
			t.Fatalf("all that may be kept: %q", code)
		}
		refused("more than may be kept", other.wait(ctx, 200, keeps(1)))
		fill(k, limiter.MaxKeyTurns)
		refused("too many of a key", k.wait(ctx, 200))
		fill(other, limiter.MaxKeyTurns-1)
		for range limiter.MaxTurns/limiter.MaxKeyTurns - 2 {
			fill(mine(), limiter.MaxKeyTurns)
		}
		refused("too many of all", mine().wait(ctx, 200))
		cancel()
		synctest.Wait()
		if n := w.Turns(); n != 0 {
			t.Errorf("%d wait after all have left", n)
		}
		w.Abandon()
	})
}

// TestNobodyWaitsForEverAndNoLimitIsPassed lets clients share what is left, of a
// key and of a role, each fitted to all of that. Time is the bubble's: a call that
// is lost would be told after DefaultTurn that others hold the rest.
func TestNobodyWaitsForEverAndNoLimitIsPassed(t *testing.T) {
	t.Parallel()
	for seed := range uint64(tortureSize(t, 30, 300)) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 7))
				limit := 2000 + random.Int64N(20_000)
				w := &world{t: t, clock: newClock(), disk: storetest.NewDisk(), dir: memoryDir(t)}
				w.shadow = filepath.Join(w.dir, "shadow")
				w.roles = map[string]record.Role{"agents": {Budget: record.RoleBudget{Limit: record.Amounts{record.NoLimit, limit, record.NoLimit, record.NoLimit}}}}
				w.open(w.disk.Open())
				keys := []*key{
					w.mint(func(k *record.Key) { k.Limit[record.Tokens], k.MaxConcurrency = limit, 3 }),
					w.mint(func(k *record.Key) { k.Role = "agents" }),
					w.mint(func(k *record.Key) { k.Role, k.Limit[record.Tokens] = "agents", limit/2 }),
				}
				var mu sync.Mutex
				spent, running := make([]int64, len(keys)), make([]int, len(keys))
				var wg sync.WaitGroup
				for client := range 9 {
					own := rand.New(rand.NewPCG(seed, uint64(100+client)))
					i := client % len(keys)
					wg.Go(func() {
						for {
							least := 1 + own.Int64N(500)
							ask := limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Waits: true, Method: "POST", Path: "/v1/x",
								Fit: func(left record.Amounts) record.Amounts {
									return record.Amounts{record.Tokens: min(max(left[record.Tokens], least), 128_000)}
								}}
							client, leave := context.WithCancel(t.Context())
							if own.IntN(5) == 0 {
								time.AfterFunc(time.Duration(own.IntN(1500))*time.Millisecond, leave)
							}
							live, refusal := w.Find(ctx, keys[i].lookup)
							if refusal != nil {
								t.Error(refusal)
								leave()
								return
							}
							g := new(limiter.Grant)
							refusal = live.Reserve(client, &ask, g)
							left := client.Err() != nil
							leave()
							switch {
							case refusal == nil:
							case refusal.Code == record.CodeTokensExhausted, refusal.Code == record.CodeBudgetTooSmall && own.IntN(10) == 0:
								return
							case left, refusal.Code == record.CodeBudgetTooSmall:
								continue
							case refusal.Code == record.CodeConcurrency:
								time.Sleep(time.Second) // the client's own pace
								continue
							default:
								t.Errorf("client of key %d: %v", i, refusal)
								return
							}
							mu.Lock()
							running[i]++
							if most := 3; i == 0 && running[i] > most {
								t.Errorf("%d run, of %d", running[i], most)
							}
							mu.Unlock()
							time.Sleep(time.Duration(own.IntN(2000)) * time.Millisecond) // its answer
							n := own.Int64N(least + 1)
							mu.Lock()
							running[i]--
							spent[i] += n
							mu.Unlock()
							if own.IntN(8) == 0 {
								mu.Lock()
								spent[i] -= n
								mu.Unlock()
								g.Cancel()
							} else {
								g.Settle(used(n))
							}
						}
					})
				}
				wg.Wait()
				if spent[0] > limit || spent[1]+spent[2] > limit || spent[2] > limit/2 {
					t.Errorf("%v spent of %d", spent, limit)
				}
				for i, k := range keys {
					if v := k.view(); v.Used[record.Tokens] != spent[i] || v.InFlight != 0 {
						t.Errorf("key %d counts %d, and %d were used; %d run", i, v.Used[record.Tokens], spent[i], v.InFlight)
					}
				}
				if n := w.Turns(); n != 0 {
					t.Errorf("%d still wait", n)
				}
				w.Abandon()
			})
		})
	}
}

// TestTheOnlyActivationThatMayComeBackIsWaitedFor of a key that is charged by
// success.
func TestTheOnlyActivationThatMayComeBackIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := w.mint(func(k *record.Key) { k.Limit[record.Activations], k.Charge = 1, record.ChargeSuccess })
		var codes []record.Code
		first := k.hold(0)
		second := k.wait(ctx, 0)
		first.Settle(record.Amounts{}) // it failed
		synctest.Wait()
		third := k.wait(ctx, 0)
		codes = append(codes, second.code(), third.code())
		second.grant.Settle(record.Amounts{record.Activations: 1})
		synctest.Wait()
		if codes = append(codes, third.code()); !slices.Equal(codes, []record.Code{"", "waits", record.CodeActivationsExhausted}) {
			t.Errorf("%q", codes)
		}
		w.Abandon()
	})
}

// TestWhoWaitsIsServedByTheNextWindow, in which nothing is held.
func TestWhoWaitsIsServedByTheNextWindow(t *testing.T) {
	t.Parallel()
	for _, whose := range []string{"key", "role"} {
		t.Run(whose, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				limit := func(k *record.Key) { tokens(1000)(k); k.Renews = record.Daily }
				if whose == "role" {
					budget := record.NoLimits()
					budget[record.Tokens] = 1000
					w.roles = map[string]record.Role{"team": {Budget: record.RoleBudget{Limit: budget, Renews: record.Daily}}}
					if err := w.SetRoles(w.roles); err != nil {
						t.Fatal(err)
					}
					limit = func(k *record.Key) { k.Role = "team" }
				}
				k := w.mint(limit)
				other := k.hold(1000)
				one := k.wait(ctx, 500)
				synctest.Wait()
				if code := one.code(); code != "waits" {
					t.Fatal(code)
				}
				w.clock.advance(24 * time.Hour)
				w.SweepActive()
				synctest.Wait()
				if code := one.code(); code != "" {
					t.Errorf("in the next window: %q", code)
				}
				other.Settle(used(1000))
			})
		})
	}
}
