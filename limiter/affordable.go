package limiter

import (
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// Remaining returns what is left of the key's own limits after what its requests hold, and
// NoLimit where it has none. works says that the key can be used, its limits aside: neither
// it nor a key above it was stopped, and their time is not over.
func (k *Live) Remaining() (left record.Amounts, works bool) {
	now := k.l.clock.Now()
	if k = k.present(); k == nil {
		return record.NoLimits(), false
	}
	defer k.mu.Unlock()
	status, _ := k.status(now)
	above, _ := k.fromAbove(now)
	return k.leftAt(now), (status == record.Active || status == record.Exhausted) && above == ""
}

// leftAt is what is left of the key's own limits after what its requests hold. Callers
// hold the key.
func (k *Live) leftAt(now time.Time) record.Amounts {
	if k.due(now) {
		return k.key.Limit // what was used belongs to a past window
	}
	return k.remaining()
}

// Left returns how much of the key's and its role's budget no request holds, and what
// would be left if all requests, including those of other nodes, gave back what they
// hold. Nothing is taken, so both may have changed a moment later.
func (k *Live) Left() (now, later record.Amounts) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.role != nil {
		k.role.mu.Lock()
		defer k.role.mu.Unlock()
	}
	now = k.left(k.role)
	for i := range later {
		later[i] = record.MaxAmount
		for _, a := range []*account{&k.account, k.role} {
			if a != nil && a.limit[i] != record.NoLimit {
				later[i] = min(later[i], max(a.limit[i]-a.spent[i]+a.lent(record.Kind(i)), 0))
			}
		}
	}
	return now, later
}

// MayProbe reports whether the upstream may be asked about a request before its
// budget is reserved. It may where the request could be refused only for what it uses,
// and at most 60 times a minute for a key and those below it together, as often as keys
// without a rate may make free requests. later says that it has only been asked too often.
func (k *Live) MayProbe(ask *Ask) (may, later bool) {
	now := k.l.clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone || k.l.unavailable() != nil {
		return false, false
	}
	k.lockOthers()
	defer k.unlockOthers()
	if k.unread(ask, now) != nil || k.moved(ask) || k.upward((*Live).inModels, ask) != nil || !k.affords(ask, now) {
		return false, false
	}
	for a := k; a != nil; a = a.parent {
		if a.pacing.free.wait(defaultFreeRate, now.UnixNano()) > 0 {
			return false, true
		}
	}
	for a := k; a != nil; a = a.parent {
		a.pacing.free.take(defaultFreeRate, now.UnixNano())
	}
	return true, false
}

// affords reports whether enough is left of what does not depend on the request's input:
// an activation of the key and one of its role. A held activation may come back, and the
// request waits for it. Callers hold the key and the role.
func (k *Live) affords(ask *Ask, now time.Time) bool {
	bound := ask.Bound
	if k.key.Charge == record.ChargeSuccess {
		bound[record.Attempts] = bound[record.Activations]
	}
	if v, _ := k.canDebit(&bound, k.strict()); v > heldUp && !k.due(now) {
		return false
	}
	if k.role == nil {
		return true
	}
	v, _ := k.role.canDebit(&bound, false)
	return v <= heldUp || k.role.due(now)
}
