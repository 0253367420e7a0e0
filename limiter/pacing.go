package limiter

import (
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// bucket is the state of one Rate by the generic cell rate algorithm (ITU-T
// I.371): one number, the time at which the bucket would be full again.
type bucket struct{ full int64 }

// wait returns how long it takes until the bucket has room for one more: 0 if it
// has room now. It takes nothing.
func (b *bucket) wait(r record.Rate, now int64) time.Duration {
	if r.IsZero() {
		return 0
	}
	b.bound(r, now)
	spacing := int64(r.Per) / r.N
	if d := max(b.full, now) + spacing - now - int64(r.Per); d > 0 {
		return time.Duration(d)
	}
	return 0
}

// take uses up one place.
func (b *bucket) take(r record.Rate, now int64) {
	if !r.IsZero() {
		b.bound(r, now)
		b.full = max(b.full, now) + int64(r.Per)/r.N
	}
}

// bound lets the bucket lack no more than an empty one does, in case it was taken from at
// another rate, or by a clock that had run ahead.
func (b *bucket) bound(r record.Rate, now int64) {
	if !r.IsZero() {
		b.full = min(b.full, now+int64(r.Per))
	}
}

// pacing is the state of all rates of a key. It outlives the key's stay in memory
// until all its buckets are full again: otherwise a client that waits until the key
// is evicted would get full ones.
type pacing struct {
	rate, free, self bucket
	mints            bucket // see mayMint
}

// bound bounds all buckets of a key with that rate.
func (p *pacing) bound(r record.Rate, now int64) {
	p.rate.bound(r, now)
	p.free.bound(defaultFreeRate, now)
	p.self.bound(defaultFreeRate, now)
	p.mints.bound(mintRate, now)
}

// full reports whether all buckets are full again.
func (p *pacing) full(now int64) bool {
	return max(p.rate.full, p.free.full, p.self.full, p.mints.full) <= now
}
