package limiter

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// Grant is an admitted request. Its holder must call Settle, SettleBound or Cancel
// once; calls after the first do nothing. The caller provides the memory, so that
// admitting costs no allocation; a Grant must not be copied or reused.
type Grant struct {
	k         atomic.Pointer[Live] // changes when its store is opened again
	key       *record.Key
	role      *account
	bound     record.Amounts
	epoch     int64 // of the key's account
	roleEpoch int64
	number    int64 // of the string that the request came with
	remaining record.Amounts
	free      bool
	listens   bool
	counted   bool // some limit on concurrent requests counts it
	placed    bool // it has a place
	began     int64
	waited    time.Duration
	kinds     record.TokenKinds
	onCut     func(*record.Refusal)
	cut       atomic.Pointer[record.Refusal]
	done      atomic.Bool

	prev, next *Grant
}

// Key returns the record that the request was admitted under.
func (g *Grant) Key() *record.Key { return g.key }

// Remaining returns what was left of each limit after this hold, or after it was
// refunded; NoLimit where there is none.
func (g *Grant) Remaining() record.Amounts { return g.remaining }

// Waited returns how long the request waited for others to settle.
func (g *Grant) Waited() time.Duration { return g.waited }

// Cut returns why the request must end, or nil while it may go on.
func (g *Grant) Cut() *record.Refusal { return g.cut.Load() }

// Settle ends the request with what it used. Kinds that its bound left out may be
// given, too; more than the bound is debited all the same.
func (g *Grant) Settle(used record.Amounts) {
	if g.bound[record.Attempts] > 0 {
		used[record.Attempts] = g.bound[record.Attempts]
	}
	g.finish(used)
}

// SettleBound ends a request whose use nobody knows: all that it held is spent.
func (g *Grant) SettleBound() { g.finish(g.bound) }

// Measured says what kinds of tokens the request used, for reports. It must be
// called before Settle.
func (g *Grant) Measured(kinds record.TokenKinds) {
	for _, n := range kinds.All() {
		*n = min(*n, maxUse)
	}
	g.kinds = kinds
}

// Cancel ends a request that never reached the upstream: its hold is refunded.
func (g *Grant) Cancel() { g.finish(record.Amounts{}) }

func (g *Grant) finish(used record.Amounts) {
	if g.done.Swap(true) {
		return
	}
	if g.free {
		used = record.Amounts{}
	}
	for i, n := range used {
		used[i] = min(n, maxUse)
	}
	k := g.lock()
	at := k.l.clock.Now()
	now := at.UnixNano()
	k.unlink(g)
	k.leave(g)
	k.used(now)
	k.settle(g.epoch, &g.bound, &used)
	if used == (record.Amounts{}) {
		g.remaining = k.leftAt(at)
	}
	if !g.free {
		k.emitThresholds()
		k.remember(g, used)
	}
	if k.overdrawn() {
		k.l.askBlock(&k.account, k)
	}
	if role := g.role; role != nil && !g.free {
		role.mu.Lock()
		role.used(now)
		role.settle(g.roleEpoch, &g.bound, &used)
		if role.overdrawn() {
			k.l.askBlock(role, nil)
		}
		role.mu.Unlock()
	}
	for a := k.parent; a != nil; a = a.parent {
		a.endedBelow(now)
	}
	k.endIfSpent()
	k.mu.Unlock()
}

// remember puts what a request has used into the key's history. Callers hold the key.
func (k *Live) remember(g *Grant, used record.Amounts) {
	if booked(g.epoch) {
		used = beyond(&used, &g.bound)
		g.kinds = record.TokenKinds{Unmeasured: used[record.Tokens]}
	}
	k.kinds.Add(g.kinds)
	k.history.used(g.began, &used, &g.kinds)
}

// lock locks the key, wherever it is by now, and returns it.
func (g *Grant) lock() *Live {
	for {
		k := g.k.Load()
		k.mu.Lock()
		if g.k.Load() == k {
			return k
		}
		k.mu.Unlock()
	}
}

// endIfSpent records the end of a key that has nothing left. Callers hold the
// key.
func (k *Live) endIfSpent() {
	if k.inflight > k.free {
		return
	}
	if v, kind := k.canDebit(&record.Amounts{}, k.strict()); v == spent {
		k.runOut(kind)
	}
}

// runOut records the end of a key that has nothing left, once no request in flight
// and no child can give anything back. Callers hold the key.
func (k *Live) runOut(kind record.Kind) {
	if k.inflight == k.free && k.children == 0 && !k.ending && k.key.EndedStatus == "" && k.halt == "" && k.renews == "" {
		k.ending = true
		k.l.endByItself(k, record.Exhausted, kind.Exhausted())
	}
}

func (k *Live) link(g *Grant) {
	k.runs(g, 1)
	if g.next = k.grants; g.next != nil {
		g.next.prev = g
	}
	k.grants = g
}

// runs notes that n more requests of the kind of g are in flight.
func (k *Live) runs(g *Grant, n int) {
	k.inflight += n
	if g.free {
		k.free += n
	}
	k.l.holds.Add(int64(n))
}

func (k *Live) unlink(g *Grant) {
	k.runs(g, -1)
	if g.next != nil {
		g.next.prev = g.prev
	}
	if g.prev != nil {
		g.prev.next = g.next
	} else {
		k.grants = g.next
	}
	g.prev, g.next = nil, nil
}

// cut ends every running request of the key and of its children, and returns
// how many there were. Callers must not hold the key.
func (k *Live) cut(r *record.Refusal) int {
	n := k.cutWhere(r, func(*Grant) bool { return true })
	k.mu.Lock()
	kids := slices.Collect(maps.Values(k.kids))
	k.mu.Unlock()
	for _, kid := range kids {
		n += kid.cut(kid.Key().Below(r))
	}
	return n
}

// cutWhere cuts the running requests for which picked returns true.
func (k *Live) cutWhere(r *record.Refusal, picked func(*Grant) bool) int {
	k.mu.Lock()
	var ends []func(*record.Refusal)
	n := 0
	for g := k.grants; g != nil; g = g.next {
		if !picked(g) || !g.cut.CompareAndSwap(nil, r) {
			continue
		}
		n++
		if g.onCut != nil {
			ends = append(ends, g.onCut)
		}
	}
	k.callAll()
	k.mu.Unlock()
	for _, end := range ends {
		end(r)
	}
	return n
}
