package limiter

import (
	"cmp"
	"errors"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
)

// dirty reports whether only memory knows what the key did, or what it counts as used.
func (k *Live) dirty() bool { return k.history.dirty() || k.savedAt < k.last || k.leftOpen }

// saveEvery is how often the statistics of a busy key are saved: well within its idle
// timeout, where other nodes judge by them whether it is idle.
func (k *Live) saveEvery() time.Duration {
	if k.l.shared != nil && k.key.IdleTimeout > 0 {
		return min(saveEvery, k.key.IdleTimeout/3)
	}
	return saveEvery
}

// save writes what memory knows about an account, gives back unused reservations, and
// reserves an overdraft that could not be reserved before, for example because the disk
// was full. Callers hold the account.
func (l *Limiter) save(a *account, k *Live, giveBack bool) {
	var free record.Amounts
	if giveBack && !a.asked {
		free, _ = a.unused()
	}
	for i, n := range free {
		a.reserved[i] -= n // no request may use it from here on
	}
	noted := record.Part{Settled: a.spent, Past: a.past, Kinds: a.kinds}
	used := usage{a.first, a.last, a.pin, a.addr}
	lineage, epoch := a.lineage, a.epoch
	var hours []Bucket
	var seen *Seen
	var id string
	a.savedAt = l.clock.Now().UnixNano()
	if k != nil {
		hours, seen, id = k.history.take(), k.seen.take(), k.key.ID
	}
	booked := a.spent
	booked.Add(a.past)
	var wrote struct{ raised, unlimited, settled record.Amounts }
	var stored record.Account
	var own record.Part
	a.pending++
	l.committer.SubmitRows(l.rowsOfUse(a, id, hours, seen), func(b *batch) (err error) {
		wrote.raised, wrote.unlimited, wrote.settled = record.Amounts{}, record.NoLimits(), noted.Settled
		if stored, own, err = b.books(a); err != nil {
			return err
		}
		if err := a.wentBack(&stored, &own); err != nil {
			return err
		}
		own.Kinds, own.Booked = noted.Kinds, booked
		used.write(b.node, &stored)
		// Otherwise the window that this is about is over, and what it left is gone.
		if stored.Lineage == lineage {
			stored.Epoch, own.Past = cmp.Or(stored.Epoch, epoch), noted.Past
			for i, n := range free {
				own.Reserved[i] -= n
			}
			a.mu.Lock()
			wrote.unlimited = a.noteUnlimited(&stored, &own)
			if !a.asked { // otherwise the block on its way holds it
				wrote.raised = a.cover(&stored, &own)
			}
			a.mu.Unlock()
			settle(&stored, &own, noted.Settled)
			wrote.settled = own.Settled
		}
		return errors.Join(b.setBooks(a, &stored, &own), writeHours(b, id, hours), writeSeen(b, id, seen))
	}, func(err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.pending--
		if err != nil {
			l.complain("saving what a key used failed", err)
			for i, n := range free { // it was not given back
				a.reserved[i] += n
			}
			if k != nil {
				k.notBooked(booking{hours, booked})
				k.seen.dirty = k.seen.dirty || seen != nil
			}
			return
		}
		a.counted, a.leftOpen = durable(&own), false
		a.reserved.Add(wrote.raised)
		a.noted(wrote.unlimited)
		a.firstDurable, a.pinDurable = a.firstDurable || used.first != 0, a.pinDurable || stored.Pin != ""
		// Only the shadow knows of any use since this was written.
		written := a.spent == wrote.settled && a.past == noted.Past && a.last == used.last
		l.lookedAt(a, k, &stored, &own)
		if giveBack && written && !a.unsettled() && !a.asked && a.held == (record.Amounts{}) {
			l.shadow.Release(a.slot)
			a.slot = nil
		}
	})
}

// notBooked keeps what could not be saved. Callers hold the key.
func (k *Live) notBooked(b booking) {
	if k.l.Failed() == nil {
		k.history.putBack(b.hours)
	} else if len(b.hours) > 0 {
		k.history.unsure = append(k.history.unsure, b)
	}
}

// saveAll asks the committer to write everything that only memory knows, and gives
// back what no running request could use. It waits for a store that has fallen
// behind, and holds no account meanwhile.
func (l *Limiter) saveAll() error {
	patience := time.NewTimer(l.committer.Patience())
	defer patience.Stop()
	for _, k := range l.everyLive() {
		if !l.committer.Room(maxAside, patience.C) {
			return commit.ErrBusy
		}
		k.mu.Lock()
		if !k.gone && (k.unsettled() || k.slot != nil || k.dirty()) {
			l.save(&k.account, k, k.quiet())
		}
		k.mu.Unlock()
	}
	for _, a := range l.everyRole() {
		a.mu.Lock()
		if a.unsettled() || a.slot != nil || a.savedAt < a.last {
			l.save(a, nil, a.held == (record.Amounts{}) && a.parked == 0)
		}
		a.mu.Unlock()
	}
	return l.tokens.SaveUses()
}

func nanosOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
