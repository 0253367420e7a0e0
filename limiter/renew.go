package limiter

import (
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// due reports whether a new window has begun that the account is not yet in. A clock
// that goes back begins none.
func (a *account) due(now time.Time) bool {
	return a.renews != "" && a.renews.Epoch(now) > a.epoch
}

// astray reports whether the account is in a window that has not begun yet, because
// the clock had run ahead and was repaired.
func (a *account) astray(now time.Time) bool {
	return a.renews != "" && a.epoch > now.Unix()
}

// realign takes an account that is astray back into the present window, together with
// its use: it renews with the next window, and gets nothing before that. A block or a
// window that is on its way comes first. Callers hold the account.
func (l *Limiter) realign(a *account, k *Live, now time.Time) {
	if l.shared != nil || a.asked || !a.astray(now) {
		return // nodes that share a store have its clock, which no repair sets back
	}
	a.asked = true
	from, epoch := a.epoch, a.renews.Epoch(now)
	l.committer.Submit(func(b *batch) error {
		rec, err := readAccount(b, a)
		if err != nil || rec.Epoch != from {
			return err
		}
		rec.Epoch = epoch
		return b.setAccount(a.id, a.forRole, &rec)
	}, func(err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if err != nil {
			l.complain("taking a budget back into the present window failed", err)
		} else {
			a.moveTo(k, epoch)
		}
		a.answer(err)
	})
}

// moveTo assigns another window to an account and to its requests in flight. Those of a
// role are not known by key, so the budget they hold counts as spent. Nothing but the
// window changes in the budget. Callers hold the account.
func (a *account) moveTo(k *Live, epoch int64) {
	from := a.epoch
	a.epoch = epoch
	if k == nil {
		a.spent.Add(a.held)
		a.held = record.Amounts{}
		return
	}
	for g := k.grants; g != nil; g = g.next {
		if g.epoch == from { // otherwise it holds nothing of this window
			g.epoch = epoch
		}
	}
}

// renew moves the account into the present window. The new epoch is durable before
// anything of it is used; no job has to run at midnight. Callers hold the account. k
// is the key that owns it; nil for a role.
//
// Requests in flight were admitted in the old window, and settle there: see
// [account.settle]. The old window's remaining budget is gone.
func (l *Limiter) renew(a *account, k *Live, now time.Time) {
	if a.asked {
		return // the caller asks again after the block or window on its way
	}
	a.asked = true
	epoch := a.renews.Epoch(now)
	var rec record.Account
	var own record.Part
	var recorded record.Amounts // what this node had spent according to the record of the old window
	var begun bool              // the account is in the window already, in the same lineage
	l.committer.SubmitRows(l.rows(a), func(b *batch) (err error) {
		if rec, own, err = b.books(a); err != nil {
			return err
		}
		if err := a.wentBack(&rec, &own); err != nil {
			return err
		}
		a.mu.Lock()
		former, past, spent := a.lineage, a.past, a.spent
		used := usage{a.first, a.last, a.pin, a.addr}
		a.noting = true
		a.mu.Unlock()
		if begun = rec.Lineage == former && rec.Epoch >= epoch; begun {
			return nil
		}
		used.write(b.node, &rec)
		own.Past, recorded = past, record.Amounts{}
		if rec.Lineage == former {
			own.Settled = spent
			if err := b.setOwn(a.id, &rec, &own); err != nil {
				return err
			}
			endWindow(&rec, &own, epoch)
			b.mark.Set(now) // otherwise a clock set back after a crash would begin it again
		} else { // another node has begun the window, and has counted what was recorded
			was, err := readPart(b, record.PartKey(a.id, b.node))
			if err != nil {
				return err
			}
			recorded = was.Of(former).Settled
			for i := range recorded { // more, if this node was taken for gone
				recorded[i] = min(recorded[i], spent[i])
			}
			own.Past.Add(spent.Minus(recorded))
		}
		return b.setBooks(a, &rec, &own)
	}, func(err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		defer func() { l.realign(a, k, l.clock.Now()) }() // the clock may have been repaired meanwhile
		a.noting = false
		if err != nil {
			l.complain("renewing a budget failed", err)
			a.answer(err)
			return
		}
		if begun { // what is reserved and held stays
			if rec.Epoch != 0 && rec.Epoch != a.epoch {
				a.moveTo(k, rec.Epoch)
			}
			l.lookedAt(a, k, &rec, &own)
			a.answer(nil)
			return
		}
		for i := range a.past {
			a.past[i] = more(a.past[i], a.spent[i]-recorded[i])
		}
		a.epoch, a.lineage, a.counted = rec.Epoch, rec.Lineage, durable(&own)
		a.reserved, a.spent, a.held = record.Amounts{}, record.Amounts{}, record.Amounts{}
		a.given, a.others = record.Amounts{}, record.Part{}
		a.relimit()
		l.shadow.Release(a.slot)
		a.slot = nil
		if k != nil {
			a.shade(l.shadow) // its history of the old window may not be saved
			l.markActive(k)
		}
		l.lookedAt(a, k, &rec, &own)
		if k != nil {
			k.setMarks()
		}
		a.answer(nil)
		a.call(0)
	})
}

// endWindow moves what all nodes have spent in the ending window into the past, and
// begins another, in which nothing is reserved or given away.
func endWindow(rec *record.Account, own *record.Part, epoch int64) {
	for i := range rec.Past {
		own.Past[i] = more(own.Past[i], own.Settled[i])
		rec.Past[i] = more(rec.Past[i], rec.Settled[i]-own.Settled[i]) // of the others; setOwn adds this node's
	}
	rec.Reserved, rec.Settled, rec.Epoch = record.Amounts{}, record.Amounts{}, epoch
	rec.Given = record.Amounts{} // it was carved out of the old window
	rec.Lineage++                // what the shadow remembers is about the old window
	*own = own.Of(rec.Lineage)
}

// setRenewal applies what the configuration says about a role. A role that has never
// renewed begins with the present window, and its use so far stays used.
func (a *account) setRenewal(r record.Renewal, now time.Time) {
	a.renews = r
	if epoch := r.Epoch(now); a.epoch == 0 && epoch != 0 {
		a.moveTo(nil, epoch)
	}
}
