package limiter_test

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store/storetest"
)

var discard = slog.New(slog.DiscardHandler)

func TestKeyWith1000ActivationsForwardsExactly1000(t *testing.T) {
	t.Parallel()
	w := newBadgerWorld(t)
	k := w.mint(activations(1000))
	var admitted, refused atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for range 30 {
				switch code := k.use(); code {
				case "":
					admitted.Add(1)
				case record.CodeActivationsExhausted:
					refused.Add(1)
				default:
					t.Errorf("refused with %s", code)
				}
			}
		})
	}
	wg.Wait()
	if admitted.Load() != 1000 || refused.Load() != 2000 {
		t.Fatalf("admitted %d and refused %d of 3000, want 1000 and 2000", admitted.Load(), refused.Load())
	}
	if v := k.view(); v.Used[record.Activations] != 1000 || v.Held[record.Activations] != 0 || v.Status != record.Exhausted {
		t.Errorf("used %d, held %d, status %s", v.Used[0], v.Held[0], v.Status)
	}
}

func TestFirstHundredRequestsAtOnceShareFiveActivations(t *testing.T) {
	t.Parallel()
	w := newBadgerWorld(t)
	k := w.mint(activations(5))
	var admitted atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range 100 {
		wg.Go(func() {
			<-start
			if k.use() == "" {
				admitted.Add(1)
			}
		})
	}
	close(start)
	wg.Wait()
	if admitted.Load() != 5 {
		t.Fatalf("admitted %d of 100, want 5", admitted.Load())
	}
}

func TestManyKeysUnderLoadEachForwardExactlyTheirLimit(t *testing.T) {
	t.Parallel()
	w := newBadgerWorld(t)
	const keys, limit = 20, 137
	var all []*key
	for range keys {
		all = append(all, w.mint(activations(limit)))
	}
	var admitted [keys]atomic.Int64
	var wg sync.WaitGroup
	for worker := range 32 {
		wg.Go(func() {
			for i := range keys * limit / 16 {
				n := (i + worker) % keys
				if all[n].use() == "" {
					admitted[n].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for n := range all {
		got := admitted[n].Load() + all[n].drain(record.CodeActivationsExhausted)
		if got != limit {
			t.Errorf("key %d forwarded %d, want %d", n, got, limit)
		}
	}
}

func TestWhatIsCancelledIsNotUsedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	for range 50 {
		g, refusal := k.ask()
		if refusal != nil {
			t.Fatal(refusal)
		}
		g.Cancel()
		g.Cancel()
		g.Settle(record.Amounts{record.Activations: 1}) // too late: nothing
	}
	if n := k.drain(record.CodeActivationsExhausted); n != 10 {
		t.Errorf("after 50 cancelled requests the key forwarded %d, want 10", n)
	}
}

func TestSettlingTwiceCountsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(3))
	g, refusal := k.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	for range 3 {
		g.Settle(record.Amounts{record.Activations: 1})
	}
	if v := k.view(); v.Used[0] != 1 || v.Held[0] != 0 || v.Remaining[0] != 2 || v.InFlight != 0 {
		t.Errorf("used %d held %d remaining %d in flight %d", v.Used[0], v.Held[0], v.Remaining[0], v.InFlight)
	}
}

func TestLastActivationInFlightLeavesNothingForOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(1))
	g, refusal := k.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	if code := k.use(); code != record.CodeActivationsExhausted {
		t.Errorf("second request: %q, want the terminal refusal", code)
	}
	if v := k.view(); !v.EndedAt.IsZero() {
		t.Error("the end is final while a request that may be cancelled runs")
	}
	g.Cancel()
	if code := k.use(); code != "" {
		t.Errorf("after the first was cancelled: %s, want admitted", code)
	}
}

func TestChargeSuccessGivesFailuresBackWithinTwiceTheAttempts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) {
		k.Limit[record.Activations] = 4
		k.Charge = record.ChargeSuccess
	})
	attempts := 0
	for {
		g, refusal := k.ask()
		if refusal != nil {
			if refusal.Code != record.CodeActivationsExhausted {
				t.Fatalf("refused with %s", refusal.Code)
			}
			break
		}
		attempts++
		g.Settle(record.Amounts{}) // dispatched, and failed
	}
	if attempts != 8 {
		t.Errorf("%d failing attempts went out, want 2 × 4", attempts)
	}

	k = w.mint(func(k *record.Key) {
		k.Limit[record.Activations] = 1
		k.Charge = record.ChargeSuccess
	})
	g, refusal := k.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	if code := k.use(); code != record.CodeBudgetHeld {
		t.Errorf("while the only activation may come back: %q, want %s", code, record.CodeBudgetHeld)
	}
	g.Settle(record.Amounts{record.Activations: 1})
	if code := k.use(); code != record.CodeActivationsExhausted {
		t.Errorf("after it was used: %q", code)
	}
}

func TestTokensAreHeldBeforeAndSettledAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.Limit[record.Tokens] = 1000 })
	first, refusal := k.ask(bound(record.Tokens, 600))
	if refusal != nil {
		t.Fatal(refusal)
	}
	for _, test := range []struct {
		bound int64
		want  record.Code
	}{
		{600, record.CodeBudgetHeld},      // fits if the first gives back
		{1001, record.CodeBudgetTooSmall}, // never fits
	} {
		if code := k.use(bound(record.Tokens, test.bound)); code != test.want {
			t.Errorf("a bound of %d while 600 are held: %q, want %s", test.bound, code, test.want)
		}
	}
	first.Settle(record.Amounts{record.Activations: 1, record.Tokens: 100})
	second, refusal := k.ask(bound(record.Tokens, 900))
	if refusal != nil {
		t.Fatal("what the first gave back is not there: ", refusal)
	}
	second.Settle(record.Amounts{record.Activations: 1, record.Tokens: 950}) // more than its bound
	if v := k.view(); v.Used[record.Tokens] != 1050 || v.Remaining[record.Tokens] != 0 || v.Status != record.Exhausted {
		t.Errorf("after an overdraft: used %d, remaining %d, %s", v.Used[1], v.Remaining[1], v.Status)
	}
	if code := k.use(bound(record.Tokens, 1)); code != record.CodeTokensExhausted {
		t.Errorf("after an overdraft: %q", code)
	}
	if err := w.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, stored, err := w.Reserved(k.id); err != nil || stored[record.Tokens] < 1050 {
		t.Errorf("the overdraft is not durable: reserved %d, %v", stored[record.Tokens], err)
	}
}

func TestKeysOfARoleShareItsBudget(t *testing.T) {
	t.Parallel()
	w := &world{t: t, clock: newClock(), disk: storetest.NewDisk(), shadow: t.TempDir() + "/shadow"}
	w.roles = map[string]record.Role{"research": {Budget: record.RoleBudget{Limit: record.Amounts{100, record.NoLimit, record.NoLimit, record.NoLimit}}}}
	w.open(w.disk.Open())
	t.Cleanup(func() { w.Abandon() })
	var keys []*key
	for range 4 {
		keys = append(keys, w.mint(func(k *record.Key) {
			k.Limit[record.Activations] = 60
			k.Role = "research"
		}))
	}
	var total atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 60 {
				switch code := keys[i%4].use(); code {
				case "":
					total.Add(1)
				case record.CodeActivationsExhausted, record.CodeBudgetHeld:
				default:
					t.Errorf("refused with %s", code)
				}
			}
		})
	}
	wg.Wait()
	if total.Load() != 100 {
		t.Errorf("the role's keys forwarded %d together, want 100", total.Load())
	}
	var used int64
	for _, k := range keys {
		used += k.view().Used[record.Activations]
	}
	if used != 100 {
		t.Errorf("the keys count %d, want 100: a refused request must take from no budget", used)
	}
	w.restart()
	if code := keys[0].use(); code != record.CodeActivationsExhausted {
		t.Errorf("after a restart the spent role answers %q", code)
	}
	if err := w.SetRoles(nil); err != nil {
		t.Fatal(err)
	}
	if code := keys[0].use(); code != record.CodeStoreUnavailable {
		t.Errorf("a key whose role vanished answers %q, want 503", code)
	}
}

func TestARefusedRequestTakesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(func(k *record.Key) {
		k.Limit[record.Activations] = 100
		k.Limit[record.Tokens] = 50
		k.MaxConcurrency = 2
		k.Rate = record.Rate{N: 5, Per: time.Minute}
	})
	g, refusal := k.ask(bound(record.Tokens, 10))
	if refusal != nil {
		t.Fatal(refusal)
	}
	before := k.view()
	for _, opts := range [][]func(*limiter.Ask){
		{bound(record.Tokens, 41)}, {bound(record.Tokens, 51)}, {bound(record.Activations, 101)},
	} {
		if code := k.use(opts...); code == "" {
			t.Error("admitted beyond a limit")
		}
	}
	after := k.view()
	if before.Used != after.Used || before.Held != after.Held {
		t.Errorf("refusals changed %v/%v to %v/%v", before.Used, before.Held, after.Used, after.Held)
	}
	g.Settle(record.Amounts{record.Activations: 1, record.Tokens: 10})
	// The rate has 4 of 5 left: refusals did not count against it.
	for i := range 4 {
		if code := k.use(bound(record.Tokens, 1)); code != "" {
			t.Fatalf("request %d: %s", i, code)
		}
	}
	if code := k.use(bound(record.Tokens, 1)); code != record.CodeRateLimited {
		t.Errorf("beyond the rate: %q", code)
	}
}

func TestAWarmReserveDoesNotAllocate(t *testing.T) {
	w := newWorld(t)
	k := w.mint(func(k *record.Key) { k.MaxConcurrency = 10; k.Rate = record.Rate{N: 1_000_000, Per: time.Second} })
	if code := k.use(); code != "" {
		t.Fatal(code)
	}
	live, refusal := w.Find(context.Background(), k.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	ask := limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/"}
	grants := make([]limiter.Grant, 1001)
	n := 0
	allocs := testing.AllocsPerRun(1000, func() {
		if _, r := w.Find(context.Background(), k.lookup); r != nil {
			t.Fatal(r)
		}
		if r := live.Reserve(context.Background(), &ask, &grants[n]); r != nil {
			t.Fatal(r)
		}
		grants[n].Settle(record.Amounts{record.Activations: 1})
		n++
	})
	if allocs != 0 {
		t.Errorf("%v allocations a request, want none", allocs)
	}
}
