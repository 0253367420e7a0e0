package limiter_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestAFullDiskRefusesAndForfeitsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, fresh := w.mint(activations(100)), w.mint(activations(10))
	forwarded := int64(0)
	for range 30 {
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		forwarded++
	}
	w.disk.Fill()
	for range 200 { // what is reserved may still be used
		if k.use() == "" {
			forwarded++
		}
	}
	_, refusal := fresh.ask()
	if err := w.Trouble(ctx); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("the state of the store: %v", err)
	}
	if refusal == nil || refusal.Code != record.CodeStoreUnavailable || !strings.Contains(refusal.Message, "disk is full") || refusal.RetryAfter <= 0 {
		t.Errorf("a key without a block: %v", refusal)
	}
	if _, _, err := w.Revoke(ctx, limiter.Operator, fresh.id, ""); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("revoking: %v", err)
	}
	if code := fresh.use(); code != record.CodeKeyRevoked {
		t.Errorf("after a revocation that is not yet durable: %q", code)
	}
	for range 3 { // giving back fails, too
		w.clock.advance(10 * time.Second)
		w.SweepActive()
		if err := w.Failed(); err != nil {
			t.Fatalf("a full disk is taken for a failed one: %v", err)
		}
	}
	if err := w.Ping(ctx); !errors.Is(err, store.ErrNoSpace) { // and no commit runs that may take its time
		t.Errorf("what the store answers then: %v", err)
	}
	w.disk.Heal()
	if err := w.Trouble(ctx); err != nil {
		t.Errorf("with space again, and nobody has asked for any: %v", err)
	}
	if forwarded += k.drain(record.CodeActivationsExhausted); forwarded != 100 {
		t.Errorf("%d forwarded of 100", forwarded)
	}
	w.agree(t)
}

// TestARequestThatTheStoreDidNotTakeIsNoFirstUse: nothing of it was forwarded, so it binds
// the key to no address, and is no use in time.
func TestARequestThatTheStoreDidNotTakeIsNoFirstUse(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		set   func(*record.Key)
		later time.Duration
		want  record.Code
	}{
		"it is bound to an address":     {func(k *record.Key) { k.Scope.PinIP = true }, 0, ""},
		"it has to be used in time":     {func(k *record.Key) { k.FirstUseWithin = time.Hour }, 0, ""},
		"it had to be used in time":     {func(k *record.Key) { k.FirstUseWithin = time.Hour }, 2 * time.Hour, record.CodeKeyExpired},
		"it has been for a while, both": {func(k *record.Key) { k.FirstUseWithin, k.Scope.PinIP = time.Hour, true }, 30 * time.Minute, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			k := w.mint(func(k *record.Key) { k.Limit[record.Activations] = 10; test.set(k) })
			w.disk.Fill()
			if code := k.use(from("192.0.2.1")); code != record.CodeStoreUnavailable {
				t.Fatal(code)
			}
			w.disk.Heal()
			w.clock.advance(test.later)
			w.SweepActive()
			if err := w.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			if code := k.use(from("192.0.2.2")); code != test.want {
				t.Errorf("from another address, later: %q, want %q", code, test.want)
			}
			if code := k.use(from("192.0.2.1")); test.want == "" && k.view().Scope.PinIP && code != record.CodeIPNotAllowed {
				t.Errorf("from the first address: %q", code)
			}
		})
	}
}

func TestARequestWaitsForASlowStoreOnlySoLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // time passes only while all wait
		w := newWorld(t)
		k := w.mint(activations(10))
		hold := make(chan struct{})
		w.disk.BeforeCommit(func(int) { <-hold })
		began := time.Now()
		_, refusal := k.ask()
		if waited := time.Since(began); refusal == nil || refusal.Code != record.CodeStoreUnavailable || refusal.RetryAfter <= 0 || waited != patience {
			t.Errorf("after %s: %v", waited, refusal)
		}
		close(hold)
		if n := k.drain(record.CodeActivationsExhausted); n != 10 {
			t.Errorf("%d of 10 afterwards", n)
		}
		w.Abandon()
	})
}

// TestAStoreThatCannotBeWrittenDoesNotFillTheLog: it may be on the same disk.
func TestAStoreThatCannotBeWrittenDoesNotFillTheLog(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(d *storetest.Disk){
		"full": (*storetest.Disk).Fill, "failing": func(d *storetest.Disk) { d.FailAt(1, false) },
	} {
		w := newWorld(t)
		var log bytes.Buffer
		w.Abandon()
		l, err := limiter.Open(limiter.Options{
			Patience: patience,
			Store:    w.disk.Open(), Disk: w.beside(), Shadow: w.shadow, Anchor: w.anchor, Clock: w.clock,
			Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		if err != nil {
			t.Fatal(err)
		}
		w.Limiter = l
		var keys []*key
		for range 20 {
			keys = append(keys, w.mint(activations(1000)))
			keys[len(keys)-1].use()
		}
		fault(w.disk)
		for range 10 {
			for _, k := range keys {
				for range 20 {
					k.use()
				}
			}
			w.clock.advance(10 * time.Second)
			w.SweepActive()
		}
		_ = w.Ping(ctx)
		w.Abandon()
		if n := strings.Count(log.String(), "\n"); n < 1 || n > 20 {
			t.Errorf("%s: %d lines in the log, such as\n%.2000s", name, n, log.String())
		}
	}
}
