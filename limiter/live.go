package limiter

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Live is a key in memory: its record, its account, and the requests it has
// in flight. There is never more than one Live of a key, because only one
// may own its blocks.
type Live struct {
	account // the key's own budget; its mutex guards all of Live

	l    *Limiter
	key  *record.Key // replaced, never changed
	role *account    // the role's shared budget, or nil

	parent   *Live            // of a child key; nil once its remaining budget went back
	kids     map[string]*Live // children in memory, by id
	children int              // children whose remaining budget has not come back
	// How many requests of the keys below are in flight, and how many wait; see turns.
	below, turnsBelow atomic.Int64
	places            places // see MaxConcurrency

	// halt is set while a revocation or suspension holds in memory, which is
	// before it is durable; unsaved tries again to make it durable.
	halt       record.Code
	haltBy     record.Stopper // of a suspension
	revocation *job           // the pending revocation that it matched, which will end it
	unsaved    func(*Limiter) error
	graceEnds  []graceEnd          // which are not durable yet
	forgetting int                 // calls that are about to remove it: no request may begin
	kept       atomic.Pointer[any] // see Keep
	// salts are kept for a sealed key's boxes, until it is revoked.
	salts salts
	gone  bool // evicted: ask the Limiter for the key again

	dead     afterDeath
	active   bool // listed in cache.active
	ending   bool // its final end is on its way to the store
	inflight int
	free     int    // those of them that take nothing
	turns    int    // requests that wait for others to settle
	grants   *Grant // requests in flight, linked

	marks [record.NumKinds]int64 // see setMarks

	pacing   pacing
	history  history
	seen     seenBy
	lastAddr netip.Addr
}

// Key returns the record as it stands now.
func (k *Live) Key() *record.Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.key
}

// Keep holds what the caller worked out from the key, such as its opened box, for as
// long as the key is in memory and not revoked.
func (k *Live) Keep(v any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.gone && k.halt != record.CodeKeyRevoked && k.key.EndedStatus != record.Revoked {
		k.kept.Store(&v)
	}
}

// Kept returns what was kept last, or nil.
func (k *Live) Kept() any {
	if v := k.kept.Load(); v != nil {
		return *v
	}
	return nil
}

// View returns the key with its use on all nodes, as far as they have reported it.
func (k *Live) View() View {
	if k.l.shared != nil {
		v, err := store.Read(k.l.store, k.viewIn)
		if err == nil {
			return v
		}
		k.l.complain("what other nodes have used of a key could not be read", err, "key_id", k.Key().ID)
	}
	now := k.l.clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.view(now)
}

// viewIn is the view of a key in memory, with its use on other nodes according to the
// store.
func (k *Live) viewIn(r store.Reader) (View, error) {
	var rec record.Account
	var own record.Part
	if k.l.shared != nil {
		var err error
		if rec, own, err = booksOf(r, k.l.node(), k.id); err != nil {
			return View{}, err
		}
	}
	now := k.l.clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.l.shared != nil {
		known := k.joint
		defer func() {
			k.joint = known
			k.relimit()
		}()
		k.adopt(&rec, &own)
	}
	return k.view(now), nil
}

func (k *Live) view(now time.Time) View {
	v := View{
		Key: *k.key, Used: k.spent, Held: k.held, Remaining: k.remaining(),
		InFlight: k.inflight, LastAddr: k.addr, Past: k.past, Kinds: k.kinds,
		FirstUsedAt: record.FromNanos(k.first), LastUsedAt: k.lastUsed(now),
		Delegated: k.given.Minus(k.back), Returned: k.back, Children: k.children,
		Unsalted: k.unsalted(),
	}
	v.Used.Add(k.others.Settled)
	for i := range v.Remaining {
		if v.Remaining[i] != record.NoLimit {
			v.Remaining[i] += k.lent(record.Kind(i))
		}
	}
	v.Past.Add(k.others.Past)
	v.Kinds.Add(k.others.Kinds)
	if k.due(now) {
		for i, n := range v.Used {
			v.Past[i] += n
		}
		v.Used, v.Held, v.Remaining, v.Delegated = record.Amounts{}, record.Amounts{}, k.key.Limit, record.Amounts{}
	}
	if k.halt == record.CodeKeySuspended {
		v.SuspendedBy = k.haltBy
	}
	v.RenewsAt = k.renews.Next(now)
	v.Status, _ = k.status(now)
	if v.Status == record.Active || v.Status == record.Exhausted {
		if status, _ := k.fromAbove(now); status != "" {
			v.Status = status
		}
	}
	k.asParents(&v)
	return v
}

// status derives the key's status now, and the code that a request would be refused
// with. A key with nothing left counts as exhausted even before that is final.
func (k *Live) status(now time.Time) (record.Status, record.Code) {
	switch {
	case k.halt == record.CodeKeyRevoked || k.key.EndedStatus == record.Revoked:
		return record.Revoked, record.CodeKeyRevoked
	case k.halt == record.CodeKeySuspended || !k.key.SuspendedAt.IsZero():
		return record.Suspended, record.CodeKeySuspended
	}
	if ended := k.key.EndedStatus; ended != "" {
		return ended, k.endedCode() // until more is granted, whatever the time
	}
	if code := k.timeUp(now); code != "" {
		return record.Expired, code
	}
	if k.due(now) {
		return record.Active, "" // its use belongs to a past window
	}
	if v, kind := k.canDebit(&record.Amounts{}, k.strict()); v == spent {
		return record.Exhausted, kind.Exhausted()
	}
	return record.Active, ""
}

// revoked reports whether the key was revoked, perhaps in memory only.
func (k *Live) revoked() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.halt == record.CodeKeyRevoked || k.key.EndedStatus == record.Revoked
}

// timeUp says by which rule the key's time is over, or "".
func (k *Live) timeUp(now time.Time) record.Code {
	key := k.key
	switch {
	case !key.ExpiresAt.IsZero() && !now.Before(key.ExpiresAt):
		return record.CodeKeyExpired
	case key.FirstUseWithin > 0 && k.first == 0 && now.Sub(key.CreatedAt) >= key.FirstUseWithin:
		return record.CodeKeyExpired
	case key.IdleTimeout > 0 && now.Sub(k.idleSince(now)) >= key.IdleTimeout:
		return record.CodeKeyIdle
	}
	return ""
}

// inUse reports whether a request of the key, or of a child, is running.
func (k *Live) inUse() bool { return k.inflight > 0 || k.below.Load() > 0 }

// lastUsed is when the key was last used: now, while one of its requests is running.
func (k *Live) lastUsed(now time.Time) time.Time {
	if k.inUse() {
		return now
	}
	return record.FromNanos(k.last)
}

// idleSince is when the key was last used, made or revived: now, while a request of
// the key or of a child waits to be admitted.
func (k *Live) idleSince(now time.Time) time.Time {
	if k.turns > 0 || k.parked > 0 || k.turnsBelow.Load() > 0 {
		return now
	}
	if used := k.lastUsed(now); used.After(k.key.RevivedAt) && used.After(k.key.CreatedAt) {
		return used
	}
	if k.key.RevivedAt.After(k.key.CreatedAt) {
		return k.key.RevivedAt
	}
	return k.key.CreatedAt
}

// strict reports whether no outcome of the answer can refund an admitted activation.
// See [account.canDebit].
func (k *Live) strict() bool { return k.key.Charge != record.ChargeSuccess }

// Count adds a refusal that was decided outside the limiter to the key's
// history.
func (k *Live) Count(code record.Code) {
	now := k.l.clock.Now()
	k.mu.Lock()
	k.history.refused(now, code)
	k.mu.Unlock()
}

// Touch admits a question about the key itself. It works for dead keys and
// takes nothing, but honours the key's addresses and 60 questions a minute.
func (k *Live) Touch(ctx context.Context, addr netip.Addr) *record.Refusal {
	return k.l.inquire(ctx, func(inq *inquiry) (*record.Refusal, parking) { return k.touch(addr, inq) })
}

// touch judges a question once, and says which books to look at first: another node may
// know to which address a key is bound.
func (k *Live) touch(addr netip.Addr, inq *inquiry) (_ *record.Refusal, look parking) {
	now := k.l.clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lockAbove()
	if a := k.restsOnUse(now); a != nil && !k.gone && k.l.unsure(inq, &a.account, now.UnixNano()) && k.l.unavailable() == nil {
		look = k.l.look(&a.account, a)
	}
	k.unlockAbove()
	if look.refill != nil {
		return nil, look
	}
	if refusal := k.admitsAddr(addr); refusal != nil {
		return refusal, look
	}
	if d := k.pacing.self.wait(defaultFreeRate, now.UnixNano()); d > 0 {
		return k.key.Refuse(record.CodeRateLimited, "was asked about more than %s", defaultFreeRate).After(d), look
	}
	k.pacing.self.take(defaultFreeRate, now.UnixNano())
	return nil, look
}

// pinOf is what pin_ip binds a key to: the address, or its /64 in IPv6, where
// one host changes its address within the network at will.
func pinOf(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}

func (k *Live) pinAllows(addr netip.Addr) bool {
	return !k.key.Scope.PinIP || k.pin == "" || k.pin == pinOf(addr)
}
