package limiter_test

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// tokens makes a key of so many.
func tokens(n int64) func(*record.Key) {
	return func(k *record.Key) { k.Limit[record.Tokens] = n }
}

// used is a request that used so many tokens.
func used(n int64) record.Amounts {
	return record.Amounts{record.Activations: 1, record.Tokens: n}
}

// waiter is a request that may wait for others.
type waiter struct {
	grant   *limiter.Grant
	refusal *record.Refusal
	took    time.Duration
	over    atomic.Bool
}

// wait asks for a request of so many tokens that may wait, and lets it come to
// where it does.
func (k *key) wait(ctx context.Context, n int64, opts ...func(*limiter.Ask)) *waiter {
	k.w.t.Helper()
	a := limiter.Ask{
		Bound: record.Amounts{record.Activations: 1, record.Tokens: n}, Waits: true,
		Method: "POST", Path: "/v1/chat/completions", Addr: netip.MustParseAddr("192.0.2.1"),
	}
	for _, opt := range opts {
		opt(&a)
	}
	live, refusal := k.w.Find(ctx, k.lookup)
	if refusal != nil {
		k.w.t.Fatal(refusal)
	}
	w := &waiter{grant: new(limiter.Grant)}
	began := time.Now()
	go func() {
		w.refusal = live.Reserve(ctx, &a, w.grant)
		w.took = time.Since(began)
		w.over.Store(true)
	}()
	synctest.Wait()
	return w
}

// code is what became of the request.
func (w *waiter) code() record.Code {
	switch {
	case !w.over.Load():
		return "waits"
	case w.refusal != nil:
		return w.refusal.Code
	}
	return ""
}

// hold is a request that others wait for.
func (k *key) hold(n int64) *limiter.Grant {
	k.w.t.Helper()
	g, refusal := k.ask(bound(record.Tokens, n))
	if refusal != nil {
		k.w.t.Fatal(refusal)
	}
	return g
}
