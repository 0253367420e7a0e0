package limiter_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// balance holds the store's books together: of each key, what its children have
// and what it gave back is what it has given, and that and what is reserved is
// not more than its limit.
func (w *world) balance(t interface{ Fatalf(string, ...any) }) {
	books, err := w.Books()
	if err != nil {
		t.Fatalf("reading the books: %v", err)
	}
	for id, b := range books {
		given := b.Returned
		for _, c := range books {
			if c.Key.Parent != id || c.Key.CarvedLineage != b.Lineage {
				continue
			}
			for kind := range given {
				given[kind] += c.Key.CarvedNow[kind] - c.Returned[kind]
			}
		}
		if given != b.Given {
			t.Fatalf("key %s says it has given %v, and its children and its parent have %v", id, b.Given, given)
		}
		for kind, limit := range b.Key.Limit {
			limit = max(limit, b.Key.Carved[kind]) // a change may have lowered a child's
			if limit != record.NoLimit && b.Reserved[kind]+b.Given[kind] > limit {
				t.Fatalf("key %s has reserved %v and given %v of %v", id, b.Reserved, b.Given, b.Key.Limit)
			}
		}
		for _, child := range b.Children {
			if c := books[child]; c == nil || c.Key.Parent != id || !c.Key.ReturnedAt.IsZero() {
				t.Fatalf("key %s lists %s as its child", id, child)
			}
		}
	}
}

// member is a key of a tree, with what is known of it beside the limiter.
type member struct {
	*key
	running []*limiter.Grant
	lowered bool
}

// TestTheBooksOfATreeBalance drives a tree of keys through requests, mints,
// grants, revocations, expiries, renewals, clean stops, kills, power cuts and
// commits that fail, and looks into the store after each: children's grants,
// what a parent has left, and what it spent are its grant, and no more is ever
// forwarded in all than the root was given.
func TestTheBooksOfATreeBalance(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		defer func() { w.Abandon() }()
		n := rapid.Int64Range(1, 300).Draw(rt, "limit")
		renews := rapid.IntRange(0, 3).Draw(rt, "renews") == 0
		root := &member{key: w.mint(delegating(activations(n), func(k *record.Key) {
			if renews {
				k.Renews = record.Daily
			}
		}))}
		keys := []*member{root}
		granted, forwarded, lost := n, int64(0), int64(0) // over all windows
		exact, windows := true, int64(1)
		day := w.Now().YearDay()
		pick := func(rt *rapid.T) *member { return keys[rapid.IntRange(0, len(keys)-1).Draw(rt, "key")] }
		crash := func() {
			for _, k := range keys {
				lost += int64(len(k.running))
				k.running = nil
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"request": func(rt *rapid.T) {
				k := pick(rt)
				for range rapid.IntRange(1, 20).Draw(rt, "times") {
					if g, refusal := k.ask(); refusal == nil {
						k.running = append(k.running, g)
					}
				}
			},
			"end": func(rt *rapid.T) {
				k := pick(rt)
				for len(k.running) > 0 && rapid.Bool().Draw(rt, "more") {
					g := k.running[0]
					k.running = k.running[1:]
					if rapid.Bool().Draw(rt, "dispatched") {
						g.Settle(record.Amounts{1})
						forwarded++
					} else {
						g.Cancel()
					}
				}
			},
			"mint": func(rt *rapid.T) {
				p := pick(rt)
				c, err := p.child(func(k *record.Key) {
					k.Limit[record.Activations] = rapid.Int64Range(0, 100).Draw(rt, "grant")
					k.Delegate = true
					if rapid.Bool().Draw(rt, "expires") {
						k.ExpiresAt = w.Now().Add(time.Duration(rapid.IntRange(1, 3000).Draw(rt, "seconds")) * time.Second)
						if at := p.view().ExpiresAt; !at.IsZero() && k.ExpiresAt.After(at) {
							k.ExpiresAt = at
						}
					}
				})
				if err == nil {
					forwarded++ // the mint itself
					keys = append(keys, &member{key: c})
				}
			},
			"grant": func(rt *rapid.T) {
				k, more := pick(rt), rapid.Int64Range(1, 20).Draw(rt, "more")
				_, err := w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: more})
				if err == nil && k == root {
					granted += more * windows // of all windows, at most
					n += more
				}
			},
			"lower": func(rt *rapid.T) {
				k := pick(rt)
				if k == root {
					return
				}
				_, err := w.Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error {
					v, err := w.Get(limiter.Operator, k.id)
					if err != nil {
						return err
					}
					if memory, err := w.ReservedHere(k.id); err != nil || v.Limit[0]-1 < memory[0]+v.Delegated[0] {
						return errors.Join(limiter.ErrAlive, err)
					}
					key.Limit[0]--
					return nil
				})
				k.lowered = k.lowered || err == nil
				if err != nil && !errors.Is(err, limiter.ErrAlive) && !errors.Is(err, limiter.ErrDead) {
					rt.Fatal(err)
				}
			},
			"revoke": func(rt *rapid.T) {
				if k := pick(rt); k != root || rapid.IntRange(0, 9).Draw(rt, "root") == 0 {
					if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
						rt.Fatal(err)
					}
				}
			},
			"time": func(rt *rapid.T) {
				w.clock.advance(time.Duration(rapid.IntRange(0, 40000).Draw(rt, "ms")) * time.Millisecond)
				w.SweepActive()
				w.SweepDue()
			},
			"hours": func(rt *rapid.T) {
				w.clock.advance(5 * time.Hour)
				for range 3 {
					w.SweepActive()
					if err := w.Ping(ctx); err != nil {
						rt.Fatal(err)
					}
				}
				w.SweepDue()
				w.SweepIdle()
				if now := w.Now().YearDay(); now != day && renews {
					day = now
					windows++
					granted += n
				}
			},
			"restart": func(rt *rapid.T) {
				crash() // what runs at a stop counts as used
				w.restart()
			},
			"kill": func(rt *rapid.T) {
				power := rapid.Bool().Draw(rt, "power")
				crash()
				w.kill(power)
				exact = exact && !power
			},
			"failing disk": func(rt *rapid.T) {
				w.disk.FailAt(rapid.IntRange(1, 4).Draw(rt, "commit"), rapid.Bool().Draw(rt, "reached"))
				k := pick(rt)
				switch rapid.IntRange(0, 2).Draw(rt, "what") {
				case 0:
					_, _, err := w.Revoke(ctx, limiter.Operator, k.id, "")
					_ = err // it may have failed or not
				case 1:
					c, err := k.child(func(k *record.Key) { k.Limit[record.Activations] = 3 })
					if err == nil {
						forwarded++
						keys = append(keys, &member{key: c})
					} else {
						lost++
					}
				case 2:
					w.SweepDue()
				}
				crash()
				w.disk.Heal()
				w.kill(true)
				exact = false
			},
			"": func(rt *rapid.T) {
				w.balance(rt)
				w.agree(rt)
				running := int64(0)
				for _, k := range keys {
					running += int64(len(k.running))
					v := k.view()
					sum := v.Used[0] + v.Held[0] + v.Remaining[0] + v.Delegated[0] + v.Returned[0]
					if sum != v.Limit[0] && !k.lowered || sum > max(v.Limit[0], v.Carved[0]) {
						rt.Fatalf("key %s: used %d + held %d + remaining %d + delegated %d + returned %d are not its %d", k.id,
							v.Used[0], v.Held[0], v.Remaining[0], v.Delegated[0], v.Returned[0], v.Limit[0])
					}
				}
				if forwarded+running > granted {
					rt.Fatalf("%d forwarded and %d running of %d", forwarded, running, granted)
				}
			},
		})
		if renews {
			return
		}
		// In the end all of it is used up, but for what crashes took, and what
		// was left in keys that nobody lives above.
		for _, k := range keys {
			for _, g := range k.running {
				g.Settle(record.Amounts{1})
				forwarded++
			}
			k.running = nil
		}
		for _, k := range keys[1:] {
			if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
				rt.Fatal(err)
			}
		}
		w.settle()
		w.balance(rt)
		if root.view().Status == record.Revoked {
			return
		}
		for root.use() == "" {
			forwarded++
		}
		if exact && forwarded+lost != granted || forwarded > granted {
			rt.Fatalf("forwarded %d and lost %d of %d (exactly: %t)", forwarded, lost, granted, exact)
		}
	})
}
