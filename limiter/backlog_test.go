package limiter_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
)

// hang lets no commit through until the returned function is called.
func (w *world) hang() (release func()) {
	gate := make(chan struct{})
	begun := make(chan struct{}, 1)
	w.disk.BeforeCommit(func(int) {
		select {
		case begun <- struct{}{}:
		default:
		}
		<-gate
	})
	go func() { _, _ = w.RepairClock(limiter.Operator) }() // something to hang in
	<-begun
	return sync.OnceFunc(func() {
		w.disk.BeforeCommit(nil)
		close(gate)
	})
}

func TestAnAdministrativeCallOnAStoreThatHangsEndsAndIsNotDoneLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // time passes only while all wait
		w := newWorld(t)
		k := w.mint(activations(5))
		release := w.hang()
		began := time.Now()
		_, err := w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 7})
		if took := time.Since(began); !errors.Is(err, commit.ErrBusy) || took != patience {
			t.Errorf("after %s: %v, want ErrBusy after %s", took, err, patience)
		}
		release()
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		if n := k.drain(record.CodeActivationsExhausted); n != 5 {
			t.Errorf("%d forwarded, want 5: the grant was said not to be done", n)
		}
		w.Abandon()
	})
}

func TestACallThatTheStoreHasBegunSaysThatItsOutcomeIsNotKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := w.mint(activations(5))
		gate := make(chan struct{})
		w.disk.BeforeCommit(func(int) { <-gate })
		_, err := w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 7})
		if !errors.Is(err, commit.ErrOutcome) {
			t.Errorf("%v, want ErrOutcome", err)
		}
		w.disk.BeforeCommit(nil)
		close(gate)
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		if n := k.drain(record.CodeActivationsExhausted); n != 12 {
			t.Errorf("%d forwarded, want 12: it was done after all", n)
		}
		w.Abandon()
	})
}

// TestOnlySoManyRequestsWaitForTheStore lets twice as many come as may wait:
// the others are refused at once, and nothing is kept of them.
func TestOnlySoManyRequestsWaitForTheStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const keys = 100
	var all []*key
	for range keys {
		all = append(all, w.mint(activations(1_000_000)))
	}
	release := w.hang()
	defer release()
	var mu sync.Mutex
	said := map[string]int{}
	var wg sync.WaitGroup
	refused := make(chan struct{}, 2*limiter.MaxWaiting)
	for i := range 2 * limiter.MaxWaiting {
		wg.Go(func() {
			g, refusal := all[i%keys].ask()
			message := ""
			if refusal != nil {
				message = refusal.Message
				if refusal.Code != record.CodeStoreUnavailable || refusal.RetryAfter <= 0 {
					t.Errorf("%+v", refusal)
				}
				refused <- struct{}{}
			} else {
				g.Cancel()
			}
			mu.Lock()
			said[message]++
			mu.Unlock()
		})
	}
	for range limiter.MaxWaiting {
		<-refused // while the store hangs
	}
	if n := w.Backlog(); n > keys+10 {
		t.Errorf("%d changes wait for the store, want about one a key", n)
	}
	release()
	wg.Wait()
	crowded := 0
	for message, n := range said {
		if message != "" {
			crowded += n
		}
	}
	if crowded < limiter.MaxWaiting {
		t.Errorf("%d refused: %v", crowded, said)
	}
	if n := w.Stats().Holds; n != 0 {
		t.Errorf("%d requests in flight", n)
	}
}

func TestKeysThatWereNotUsedLatelyMakeRoom(t *testing.T) {
	t.Parallel()
	w := newBadgerWorld(t)
	keys := w.MintMany(200, func(_ int, k *record.Key) { activations(5)(k) })
	for _, k := range keys {
		k.use()
	}
	running, refusal := keys[0].ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	for range 3 {
		w.clock.advance(30 * time.Second)
		w.SweepActive()
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
	}
	keys[1].use()
	w.ShrinkTo(100)
	if n := w.Loaded(); n > 100 {
		t.Errorf("%d keys are in memory, want at most 100", n)
	}
	for _, k := range keys[:2] {
		if !w.InMemory(k.id) {
			t.Error("a key in use is not in memory")
		}
	}
	running.Settle(record.Amounts{record.Activations: 1})
	for i, k := range keys[2:] {
		if n := k.drain(record.CodeActivationsExhausted); n != 4 {
			t.Fatalf("key %d: %d forwarded after it was out of memory, want 4", i, n)
		}
	}
}

func TestAStoreThatHangsIsSaidNotToAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	release := w.hang()
	defer release()
	deadline := time.Now().Add(patience)
	err := w.Trouble(ctx)
	for ; err == nil && time.Now().Before(deadline); err = w.Trouble(ctx) {
		time.Sleep(10 * time.Millisecond) // between two looks
	}
	if err == nil || !strings.Contains(err.Error(), "has not answered for") {
		t.Errorf("while it hangs: %v", err)
	}
	release()
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.Trouble(ctx); err != nil {
		t.Errorf("when it answers: %v", err)
	}
}
