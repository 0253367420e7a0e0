package limiter

import "github.com/till-proxy/till/limiter/record"

// present holds the key, or the one that has replaced it in memory: reading a request may
// take long, and a key that was evicted meanwhile follows no change. nil: the key could not
// be read, and Reserve finds out why.
func (k *Live) present() *Live {
	k.mu.Lock()
	for k.gone {
		k.mu.Unlock()
		fresh, err := k.l.load(k.key.ID)
		if err != nil {
			return nil
		}
		k = fresh
		k.mu.Lock()
	}
	return k
}

// Terms returns the terms in force now.
func (k *Live) Terms() Terms {
	if k = k.present(); k == nil {
		return Terms{known: true}
	}
	defer k.mu.Unlock()
	k.lockOthers()
	defer k.unlockOthers()
	return k.terms()
}

// terms needs the key, those above it and its role to be held.
func (k *Live) terms() Terms {
	t := Terms{known: true}
	t.KeepBound, t.CountOnly = k.key.KeepBound, k.key.CountOnly
	for a := k; a != nil; a = a.parent {
		t.Models = t.Models || len(a.key.Scope.Models) > 0
		if most := a.key.MaxRequestSpend; most > 0 && (t.MaxRequestSpend == 0 || most < t.MaxRequestSpend) {
			t.MaxRequestSpend = most
		}
		t.KeepBound, t.CountOnly = a.key.KeepBound, a.key.CountOnly
	}
	t.Tokens, t.Dollars = k.limit[record.Tokens] != record.NoLimit, k.limit[record.Nanodollars] != record.NoLimit
	if k.role != nil {
		t.Tokens = t.Tokens || k.role.limit[record.Tokens] != record.NoLimit
		t.Dollars = t.Dollars || k.role.limit[record.Nanodollars] != record.NoLimit
	}
	return t
}

// cover reports whether a request that was read under these terms was read at least as
// closely as those in force demand.
func (t Terms) cover(now Terms) bool {
	if now.Models && !t.Models || now.Tokens && !t.Tokens || now.Dollars && !t.Dollars {
		return false
	}
	if !now.Tokens && !now.Dollars {
		return true // nothing else matters then
	}
	return t.KeepBound == now.KeepBound && (now.CountOnly || !t.CountOnly) &&
		(now.MaxRequestSpend == 0 || t.MaxRequestSpend > 0 && t.MaxRequestSpend <= now.MaxRequestSpend)
}

// moved reports whether the terms under which the request was read no longer suffice.
// Callers hold the key, its ancestors and its role.
func (k *Live) moved(ask *Ask) bool {
	return ask.Terms.known && !ask.Own && !ask.Terms.cover(k.terms())
}

// asParents lets a view of a child show what its ancestors decide at each use.
// Callers hold the key, and none above it.
func (k *Live) asParents(v *View) {
	for a := k.parent; a != nil; a = a.parent {
		above := a.Key()
		v.KeepBound, v.CountOnly = above.KeepBound, above.CountOnly
		v.SelfRevoke = v.SelfRevoke && above.SelfRevoke
	}
}
