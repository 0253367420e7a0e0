package limiter_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// call is one call of a history: reserve, cancel, settle, grant, revoke, expire.
type call struct {
	what string
	n    int64 // of a grant
}

// budget is a key as it should be: one thing after another.
type budget struct {
	limit, taken     int64
	revoked, expired bool
}

// oneByOne says what each call must answer if there were no other at a time.
func oneByOne(limit int64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return budget{limit: limit} },
		Step: func(state, input, output any) (bool, any) {
			b, in, out := state.(budget), input.(call), output.(record.Code)
			switch in.what {
			case "reserve":
				if out == record.CodeStoreUnavailable {
					return true, b // a machine that stood still for seconds; nothing was taken
				}
				want := record.Code("")
				switch {
				case b.revoked:
					want = record.CodeKeyRevoked
				case b.expired:
					want = record.CodeKeyExpired
				case b.taken >= b.limit:
					want = record.CodeActivationsExhausted
				default:
					b.taken++
				}
				return out == want, b
			case "cancel":
				b.taken--
			case "settle":
			case "grant":
				if b.revoked != (out == record.CodeKeyRevoked) {
					return false, b
				}
				if !b.revoked {
					b.limit += in.n
				}
			case "revoke":
				b.revoked = true
			case "expire":
				b.expired = true
			}
			return true, b
		},
		Equal: func(a, b any) bool { return a == b },
	}
}

// TestHistoriesAreLinearizable lets clients and an operator use a key at once,
// and asks whether what they were told could have come about one call at a time.
func TestHistoriesAreLinearizable(t *testing.T) {
	t.Parallel()
	n := tortureSize(t, 20, 100)
	calls := 0
	for range n {
		seed := uint64(time.Now().UnixNano())
		random := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t)
		limit := 1 + random.Int64N(30)
		k := w.mint(func(k *record.Key) {
			k.Limit[record.Activations], k.ExpiresAt = limit, w.clock.time().Add(time.Hour)
		})
		var clock atomic.Int64
		var mu sync.Mutex
		var history []porcupine.Operation
		note := func(client int, what call, do func() record.Code) record.Code {
			began := clock.Add(1)
			out := do()
			mu.Lock()
			defer mu.Unlock()
			history = append(history, porcupine.Operation{ClientId: client, Input: what, Call: began, Output: out, Return: clock.Add(1)})
			return out
		}
		var wg sync.WaitGroup
		for client := range 5 {
			own := rand.New(rand.NewPCG(seed, uint64(10+client)))
			wg.Go(func() {
				for range 4 + own.IntN(8) {
					var g *limiter.Grant
					code := note(client, call{what: "reserve"}, func() record.Code {
						var refusal *record.Refusal
						if g, refusal = k.ask(); refusal != nil {
							return refusal.Code
						}
						return ""
					})
					if code != "" {
						continue
					}
					if own.IntN(3) == 0 {
						note(client, call{what: "cancel"}, func() record.Code { g.Cancel(); return "" })
					} else {
						note(client, call{what: "settle"}, func() record.Code { g.Settle(record.Amounts{record.Activations: 1}); return "" })
					}
				}
			})
		}
		last := random.IntN(3)
		grants := random.IntN(4)
		wg.Go(func() {
			for i := range grants {
				more := 1 + int64(i)*3
				note(5, call{what: "grant", n: more}, func() record.Code {
					_, err := w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: more})
					if errors.Is(err, limiter.ErrRevoked) {
						return record.CodeKeyRevoked
					}
					if err != nil {
						t.Error(err)
					}
					return ""
				})
			}
			switch last {
			case 0:
				note(5, call{what: "revoke"}, func() record.Code {
					if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
						t.Error(err)
					}
					return ""
				})
				note(5, call{what: "grant", n: 5}, func() record.Code {
					if _, err := w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 5}); errors.Is(err, limiter.ErrRevoked) {
						return record.CodeKeyRevoked
					}
					return ""
				})
			case 1:
				note(5, call{what: "expire"}, func() record.Code { w.clock.advance(time.Hour); return "" })
			}
		})
		wg.Wait()
		calls += len(history)
		switch porcupine.CheckOperationsTimeout(oneByOne(limit), history, patience) {
		case porcupine.Illegal:
			for _, o := range history {
				t.Logf("client %d, %d to %d: %+v: %q", o.ClientId, o.Call, o.Return, o.Input, o.Output)
			}
			t.Fatalf("seed %d: this could not have come about one call at a time", seed)
		case porcupine.Unknown:
			t.Errorf("seed %d: not decided in a minute", seed)
		}
		w.Abandon()
	}
	t.Logf("%d histories, %d calls: all linearizable", n, calls)
}
