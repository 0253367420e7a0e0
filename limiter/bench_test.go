package limiter_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// warm is a key whose block has just arrived, on a real store and clock.
func warm(b *testing.B) *limiter.Live {
	b.Helper()
	w := newBadgerWorldWithSystemClock(b)
	k := w.mint(activations(1 << 40))
	for range 10_000 {
		if code := k.use(); code != "" {
			b.Fatal(code)
		}
	}
	live, refusal := w.Find(ctx, k.lookup)
	if refusal != nil {
		b.Fatal(refusal)
	}
	return live
}

// BenchmarkReserveSettle is the hot path of a busy key, from the key in
// memory to the settled request. Beside the mean it reports the median and
// the 99th percentile, because a block that arrives late shows only there.
func BenchmarkReserveSettle(b *testing.B) {
	live := warm(b)
	ask := limiter.Ask{
		Bound:  record.Amounts{record.Activations: 1},
		Method: "POST", Path: "/v1/chat/completions", Addr: netip.MustParseAddr("192.0.2.1"),
	}
	grants := make([]limiter.Grant, b.N)
	took := make([]time.Duration, b.N)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		start := time.Now()
		if r := live.Reserve(context.Background(), &ask, &grants[i]); r != nil {
			b.Fatal(r)
		}
		took[i] = time.Since(start)
		grants[i].Settle(record.Amounts{record.Activations: 1})
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
}

// BenchmarkWithoutLimit is the same of a key that is only counted: the store is
// never waited for, so the mean is what both halves cost.
func BenchmarkWithoutLimit(b *testing.B) {
	w := newBadgerWorldWithSystemClock(b)
	k := w.mint(func(*record.Key) {})
	live, refusal := w.Find(ctx, k.lookup)
	if refusal != nil {
		b.Fatal(refusal)
	}
	ask := limiter.Ask{
		Bound:  record.Amounts{record.Activations: 1},
		Method: "POST", Path: "/v1/chat/completions", Addr: netip.MustParseAddr("192.0.2.1"),
	}
	grants := make([]limiter.Grant, b.N)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if r := live.Reserve(context.Background(), &ask, &grants[i]); r != nil {
			b.Fatal(r)
		}
		grants[i].Settle(record.Amounts{record.Activations: 1})
	}
}

// BenchmarkFind is the way from a key's hash to the key in memory.
func BenchmarkFind(b *testing.B) {
	live := warm(b)
	lookup := live.Key().Lookup
	b.ReportAllocs()
	for b.Loop() {
		if _, r := live.Limiter().Find(ctx, lookup); r != nil {
			b.Fatal(r)
		}
	}
}

// BenchmarkDeadKey is what an exhausted key costs.
func BenchmarkDeadKey(b *testing.B) {
	w := newBadgerWorldWithSystemClock(b)
	k := w.mint(activations(1))
	k.drain(record.CodeActivationsExhausted)
	b.ReportAllocs()
	for b.Loop() {
		if code := k.use(); code != record.CodeActivationsExhausted {
			b.Fatal(code)
		}
	}
}

// BenchmarkUnknownKey is what a key that was never minted costs, in a store
// that has others.
func BenchmarkUnknownKey(b *testing.B) {
	w := newBadgerWorldWithSystemClock(b)
	for range 100 {
		w.mint(activations(1))
	}
	b.ReportAllocs()
	lookup := [32]byte{}
	for b.Loop() {
		lookup[0]++
		if _, r := w.Find(ctx, lookup); r == nil {
			b.Fatal("found")
		}
	}
}
