package limiter

import (
	"context"
	"errors"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// defaultFreeRate bounds requests that cost no activation.
var defaultFreeRate = record.Rate{N: 60, Per: time.Minute}

// Reserve asks for a request to be admitted: it judges status, scope, rate,
// concurrency and every budget in one atomic step. It returns nil and fills g, or it
// returns why not, and has then taken nothing. On a busy key it touches memory only;
// otherwise it waits for one group commit, or for other requests to settle if ask says
// so.
func (k *Live) Reserve(ctx context.Context, ask *Ask, g *Grant) *record.Refusal {
	var t *turn
	defer func() { t.leave() }()
	var inquiry inquiry
	for {
		refusal, parked, again := k.tryReserve(ask, g, t, &inquiry)
		switch {
		case again: // evicted meanwhile
			t.leave()
			t = nil
			fresh, err := k.l.load(k.key.ID)
			if errors.Is(err, store.ErrNotFound) { // forgotten meanwhile
				k.mu.Lock()
				k.l.uncache(k)
				k.mu.Unlock()
				return record.UnknownKey()
			}
			if err != nil {
				return storeRefusal("its record could not be read")
			}
			k = fresh
		case parked.refine:
			inquiry.again = ask.Refine()
		case parked.recall != nil:
			if err := k.l.gather(ctx, parked.recall); err != nil {
				return storeRefusal("its budget could not be asked back from other nodes")
			}
		case parked.turn != nil:
			if t = parked.turn; t.await(ctx) {
				inquiry.refined = false
				continue
			}
			if stopped := k.l.unavailable(); stopped != nil {
				return stopped
			}
			k.Count(refusal.Code)
			return refusal
		case parked.refill != nil:
			inquiry.refined = false
			if refusal := k.l.awaitBooks(ctx, &parked); refusal != nil {
				k.giveUp()
				return refusal
			}
		default:
			if refusal != nil {
				k.mu.Lock()
				k.usedDead(k.l.clock.Now(), refusal, ask.Addr)
				k.mu.Unlock()
			}
			return refusal
		}
	}
}

// tryReserve judges a request once. t is its turn if it waits, and inq what it has
// found out about other nodes.
func (k *Live) tryReserve(ask *Ask, g *Grant, t *turn, inq *inquiry) (refusal *record.Refusal, p parking, again bool) {
	now := k.l.clock.Now()
	nanos := now.UnixNano()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return nil, p, true
	}
	if refusal = k.l.lockedDown(k.key); refusal != nil {
		return k.refused(now, refusal), p, false
	}
	if refusal = k.l.unavailable(); refusal != nil {
		return refusal, p, false
	}
	k.lockOthers()
	defer k.unlockOthers()
	role := k.role
	refusal = k.admissible(ask, now)
	// An address that the key itself is bound to is learnt with its block; see unrecorded.
	if a := k.restsOnUse(now); a != nil && (refusal != nil || a != k) && k.l.unsure(inq, &a.account, nanos) {
		return nil, k.l.look(&a.account, a), false
	}
	if refusal != nil {
		return k.refused(now, refusal), p, false
	}
	if role != nil && role.absent {
		return k.refused(now, k.leftover(ask, now)), p, false
	}
	switch {
	case ask.Free:
	case k.due(now):
		p = k.park0(&k.account)
		k.l.renew(&k.account, k, now)
		return nil, p, false
	case role != nil && role.due(now):
		p = k.park0(role)
		k.l.renew(role, nil, now)
		return nil, p, false
	}
	if k.moved(ask) {
		return k.hasMoved(), p, false
	}
	if refusal = k.upward((*Live).inModels, ask); refusal != nil {
		return k.refused(now, refusal), p, false
	}

	bound := record.Amounts{}
	if !ask.Free {
		bound = ask.Bound
		if k.key.Charge == record.ChargeSuccess {
			bound[record.Attempts] = bound[record.Activations]
		}
	}
	if ask.Fit != nil && !ask.Free {
		fitted := ask.Fit(k.left(role))
		bound[record.Tokens], bound[record.Nanodollars] = fitted[record.Tokens], fitted[record.Nanodollars]
	}
	own, kind := k.canDebit(&bound, k.strict())
	if own >= heldUp && k.l.unsure(inq, &k.account, nanos) {
		return nil, k.l.look(&k.account, k), false
	}
	if inq.refines(ask, own) {
		return nil, parking{refine: true}, false
	}
	if own > heldUp {
		if own == spent {
			k.runOut(kind) // a crash came before that was recorded
		}
		if own == tooBig && inq.again != nil {
			return k.refused(now, inq.again), p, false
		}
		return k.refused(now, k.outOf(own, kind, &bound, ask.Help)), p, false
	}
	shared, sharedKind := fits, record.Kind(0)
	if role != nil && !ask.Free {
		shared, sharedKind = role.canDebit(&bound, false)
		if shared >= heldUp && k.l.unsure(inq, role, nanos) {
			return nil, k.l.look(role, nil), false
		}
		if inq.refines(ask, shared) {
			return nil, parking{refine: true}, false
		}
		if shared == tooBig && inq.again != nil {
			return k.refused(now, inq.again), p, false
		}
		if shared > heldUp {
			return k.refused(now, k.outOfRole(role, shared, sharedKind, &bound, ask.Help)), p, false
		}
	}
	var short *account // has too little, or others wait for it
	queues := ask.Waits && !ask.Free
	switch {
	case own == heldUp:
		short, refusal = &k.account, k.outOf(own, kind, &bound, "")
	case shared == heldUp:
		short, refusal = role, k.outOfRole(role, shared, sharedKind, &bound, "")
	case queues && k.behind(t):
		short, refusal = &k.account, k.outOfTurn()
	case queues && role != nil && role.behind(t):
		short, refusal = role, k.outOfTurn()
	}
	if short != nil && k.l.recalls(inq, short) {
		return nil, parking{recall: short}, false
	}
	if short != nil {
		if p.turn = k.lineUp(short, ask, t); p.turn == nil {
			k.refused(now, refusal)
		}
		return refusal, p, false
	}
	if k.unrecorded() {
		own = wait
	}
	if refusal = k.tooOften(ask, nanos); refusal != nil {
		return k.refused(now, refusal), p, false
	}

	switch {
	case own == wait:
		return nil, k.l.park(&k.account, k, ask, &bound, nanos), false
	case shared == wait:
		return nil, k.l.park(role, nil, ask, &bound, nanos), false
	}

	rate, tokens := k.pacer(ask, nanos)
	tokens.take(rate, nanos)
	for a := k.parent; a != nil; a = a.parent {
		a.usedBelow(ask, nanos)
	}
	k.claim(ask, nanos)
	k.account.shade(k.l.shadow)
	k.debit(&bound, nanos)
	if !ask.Free && k.wantsAhead() {
		k.l.askBlock(&k.account, k)
	}
	if role != nil && !ask.Free {
		role.shade(k.l.shadow)
		role.debit(&bound, nanos)
		if role.wantsAhead() {
			k.l.askBlock(role, nil)
		}
	}
	k.addr = k.addrText(ask.Addr)
	if !ask.Free {
		k.seen.note(ask)
	}
	k.l.markActive(k)
	g.k.Store(k)
	g.key, g.role, g.bound, g.free, g.began, g.onCut = k.key, role, bound, ask.Free, nanos, ask.OnCut
	k.enter(g, ask)
	g.epoch, g.number = k.epoch, ask.String
	if role != nil {
		g.roleEpoch = role.epoch
	}
	g.remaining = k.remaining()
	k.link(g)
	if !ask.Free || t != nil {
		k.pass(t)
		if role != nil {
			role.pass(t)
		}
	}
	if t != nil {
		g.waited = time.Since(t.began)
	}
	return nil, p, false
}

// left is what is left of the key's budget and of its role's, less what requests hold.
// Callers hold both.
func (k *Live) left(role *account) record.Amounts {
	var left record.Amounts
	for i := range left {
		left[i] = record.MaxAmount
		for _, a := range []*account{&k.account, role} {
			if a != nil && a.limit[i] != record.NoLimit { // its window is the present one
				left[i] = min(left[i], max(a.limit[i]-a.spent[i]-a.held[i], 0))
			}
		}
	}
	return left
}

// pacer is the bucket that a request of the key, or of one below it, takes from.
func (k *Live) pacer(ask *Ask, nanos int64) (record.Rate, *bucket) {
	if ask.Free && k.key.Rate.IsZero() {
		return defaultFreeRate, &k.pacing.free
	}
	return k.rate(nanos), &k.pacing.rate
}

// rate is the key's rate on this node. Callers hold the key.
func (k *Live) rate(nanos int64) record.Rate {
	r := k.key.Rate
	r.N = k.portion(r.N, nanos)
	return r
}

// refused counts a refusal. What an attacker can trigger stays in memory and
// is written at most once an hour.
func (k *Live) refused(now time.Time, r *record.Refusal) *record.Refusal {
	k.history.refused(now, r.Code)
	return r
}

// unrecorded reports whether the first use, or the address that the key is bound to, has
// yet to be written to disk, which must happen before anything is forwarded. A key may be
// bound long after its first use: it was changed, or its children were used first.
func (k *Live) unrecorded() bool {
	return k.key.Scope.PinIP && !k.pinDurable || k.key.FirstUseWithin > 0 && !k.firstDurable
}

// claim records the first use.
func (k *Live) claim(ask *Ask, now int64) {
	if k.first == 0 {
		k.first = now
	}
	if k.key.Scope.PinIP && k.pin == "" {
		k.pin = pinOf(ask.Addr)
	}
}

// unclaim forgets a first use that could not be recorded: nothing of it was admitted.
// Callers hold the key.
func (k *Live) unclaim() {
	if !k.firstDurable && k.last == 0 {
		k.first = 0
	}
	if !k.pinDurable {
		k.pin = ""
	}
}

// giveUp is unclaim for a request that no longer waits, unless another one waits or runs, or
// its claim is being written.
func (k *Live) giveUp() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.parked == 0 && k.inflight == 0 && k.pending == 0 && !k.noting {
		k.unclaim()
	}
}
