package limiter

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// These are how often the sweeper looks, and what it waits for. None of it decides
// whether a request is admitted: that is judged on each request.
const (
	sweepEvery   = time.Second
	dueEvery     = 10 * time.Second
	evictEvery   = time.Minute
	idleBlock    = 2 * time.Second  // unused budget goes back to the store
	saveEvery    = 10 * time.Second // statistics of busy keys
	saveRefusals = time.Hour        // statistics that an attacker can cause
	evictAfter   = 10 * time.Minute
)

// sweepLoop does what must not wait: ending what runs past its time, and giving
// back what is not used.
func (l *Limiter) sweepLoop() {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-sweep.C:
			l.sweepActive()
			l.shrink(maxLive)
		}
	}
}

// upkeepLoop does what may take minutes in a large store, or wait for its disk.
func (l *Limiter) upkeepLoop() {
	due := time.NewTicker(dueEvery)
	evict := time.NewTicker(evictEvery)
	head := time.NewTicker(headEvery)
	defer due.Stop()
	defer evict.Stop()
	defer head.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-due.C:
			l.redoStops()
			l.lockdown.remind()
			l.sweepDue()
		case <-evict.C:
			l.sweepIdle()
			l.sweepEnded()
			l.sweepAdmin()
			l.sweepStale()
		case <-l.retained:
			l.sweepEnded()
			l.sweepAdmin()
		case <-head.C:
			l.LogAuditHead()
		}
	}
}

// sweepActive cuts what runs past its key's time, gives back blocks that are
// not used, and saves statistics.
func (l *Limiter) sweepActive() {
	now := l.clock.Now()
	nanos := now.UnixNano()
	var later []*Live
	for _, k := range l.everyActive() {
		k.mu.Lock()
		if k.gone {
			k.mu.Unlock()
			continue
		}
		var over *record.Refusal
		if code := k.timeUp(now); code != "" && k.key.EndedStatus == "" && k.halt == "" {
			over = k.timeRefusal(code)
			if k.inflight == 0 && !k.ending {
				k.ending = true
				l.endByItself(k, record.Expired, code)
			}
		} else if k.inflight+k.turns > 0 {
			_, over = k.fromAbove(now)
		}
		if k.key.IdleTimeout > 0 && k.inUse() {
			k.used(nanos) // so that it is saved, in case the end is not recorded
		}
		if l.shared != nil && len(k.line) > 0 {
			l.askBlock(&k.account, k) // other nodes may have given back
		}
		if k.due(now) {
			k.call(0) // a new window holds nothing that those in line would have to wait for
		}
		if l.crowded() {
			later = append(later, k)
		} else {
			l.tidy(k, nanos)
		}
		rotated := k.inflight+k.turns > 0 && len(k.key.Former) > 0
		k.mu.Unlock()
		if over != nil {
			k.cut(over)
		}
		if rotated {
			k.cutReplaced(now)
		}
	}
	deadline := time.NewTimer(sweepEvery)
	defer deadline.Stop()
	for _, k := range later { // as far as it goes; the rest at the next sweep
		if !l.committer.Room(maxAside, deadline.C) {
			break
		}
		k.mu.Lock()
		if !k.gone {
			l.tidy(k, nanos)
		}
		k.mu.Unlock()
	}
	for _, a := range l.everyRole() {
		a.mu.Lock()
		if a.due(now) {
			a.call(0)
		}
		switch idle := a.held == (record.Amounts{}) && a.parked == 0 && !a.asked && nanos-a.last >= int64(idleBlock); {
		case a.pending > 0:
		case idle && (a.unsettled() || a.slot != nil):
			l.save(a, nil, true)
		case l.shared != nil && len(a.line) > 0:
			l.askBlock(a, nil)
		case a.savedAt < a.last && nanos-a.savedAt >= int64(saveEvery):
			l.save(a, nil, false)
		}
		a.mu.Unlock()
	}
}

// quiet reports whether no request of a key, or of a child, runs or waits.
func (k *Live) quiet() bool {
	return !k.inUse() && k.turns == 0 && k.parked == 0 && !k.asked
}

// dirty reports whether only memory knows what the key did.
func (k *Live) dirty() bool { return k.history.dirty() || k.savedAt < k.last }

// saveEvery is how often the statistics of a busy key are saved: where other nodes
// judge by them whether it is idle, that is well within the time for which it may be.
func (k *Live) saveEvery() time.Duration {
	if k.l.shared != nil && k.key.IdleTimeout > 0 {
		return min(saveEvery, k.key.IdleTimeout/3)
	}
	return saveEvery
}

// tidy gives back what an idle key does not use, and saves statistics. Callers
// hold the key.
func (l *Limiter) tidy(k *Live, nanos int64) {
	idle := k.quiet() && nanos-k.last >= int64(idleBlock)
	dirty := k.dirty()
	switch {
	case k.pending > 0: // look again when that is done
	case idle && (k.unsettled() || k.slot != nil || dirty):
		l.save(&k.account, k, true)
	case idle && k.unsaved == nil:
		l.retire(k)
	case dirty && nanos-k.savedAt >= int64(k.saveEvery()):
		l.save(&k.account, k, false)
	}
}

// save writes what memory knows about an account, gives back what is reserved
// and unused, and reserves an overdraft that could not be before, as on a full
// disk. Callers hold the account.
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
		a.counted = durable(&own)
		a.reserved.Add(wrote.raised)
		a.noted(wrote.unlimited)
		a.firstDurable, a.pinDurable = a.firstDurable || used.first != 0, a.pinDurable || stored.Pin != ""
		// What was used since it was written is known to the shadow alone.
		written := a.spent == wrote.settled && a.past == noted.Past && a.last == used.last
		l.lookedAt(a, k, &stored, &own)
		if giveBack && written && !a.unsettled() && !a.asked && a.held == (record.Amounts{}) {
			l.shadow.Release(a.slot)
			a.slot = nil
		}
	})
}

// rowsOfUse are what saving the use of an account touches.
func (l *Limiter) rowsOfUse(a *account, id string, hours []Bucket, seen *Seen) store.Rows {
	rows := l.rows(a)
	if l.shared == nil {
		return rows
	}
	for i := range hours {
		rows.Read = append(rows.Read, record.HourKey(id, hours[i].Start.Unix()))
	}
	if seen != nil {
		rows.Read = append(rows.Read, seenKey(id))
	}
	return rows
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
// behind, and holds nothing meanwhile.
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

// sweepIdle drops keys from memory that have not been used for a while, and saves the
// refusals of those that were only refused.
func (l *Limiter) sweepIdle() {
	now := l.clock.Now()
	nanos := now.UnixNano()
	l.liveMu.Lock()
	maps.DeleteFunc(l.pacings, func(_ record.AccountID, p pacing) bool { return p.full(nanos) })
	l.liveMu.Unlock()
	for _, k := range l.everyLive() {
		k.mu.Lock()
		if k.history.dirty() && !k.active && k.pending == 0 && !l.crowded() && nanos-k.savedAt >= int64(saveRefusals) {
			l.save(&k.account, k, false)
		}
		k.sweepDead(now)
		id := k.key.ID
		old := nanos-max(k.last, k.savedAt) >= int64(evictAfter) && !k.dead.recent(nanos)
		k.mu.Unlock()
		if old {
			l.evict(id)
		}
	}
	if l.shared != nil {
		l.forgetSharedHours(l.everyLive(), now)
	}
}

func (l *Limiter) markActive(k *Live) {
	if k.active {
		return
	}
	k.active = true
	l.activeMu.Lock()
	l.active[k] = struct{}{}
	l.activeMu.Unlock()
}

// retire takes a key off the list of active ones. Callers hold the key.
func (l *Limiter) retire(k *Live) {
	k.active = false
	l.activeMu.Lock()
	delete(l.active, k)
	l.activeMu.Unlock()
}

func (l *Limiter) everyActive() []*Live {
	l.activeMu.Lock()
	defer l.activeMu.Unlock()
	keys := make([]*Live, 0, len(l.active))
	for k := range l.active {
		keys = append(keys, k)
	}
	return keys
}

// everyLive lists the keys in memory. One that is just being read is left out,
// because it holds nothing yet.
func (l *Limiter) everyLive() []*Live {
	l.liveMu.Lock()
	defer l.liveMu.Unlock()
	keys := make([]*Live, 0, len(l.live))
	for _, e := range l.live {
		if k := e.peek(); k != nil {
			keys = append(keys, k)
		}
	}
	return keys
}

func (l *Limiter) everyRole() []*account {
	l.rolesMu.Lock()
	defer l.rolesMu.Unlock()
	accounts := make([]*account, 0, len(l.roles))
	for _, a := range l.roles {
		accounts = append(accounts, a)
	}
	return accounts
}

// cacheLookup remembers the way to a key, by one of its strings.
func (l *Limiter) cacheLookup(k *Live, lookup token.Lookup) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone || !slices.Contains(k.key.Lookups(), lookup) {
		return
	}
	shard := &l.lookups[lookup[0]%lookupShards]
	shard.mu.Lock()
	shard.m[lookup] = k
	shard.mu.Unlock()
}

// uncache forgets the ways to a key. Callers hold the key.
func (l *Limiter) uncache(k *Live) {
	for _, lookup := range k.key.Lookups() {
		l.uncacheLookup(k, lookup)
	}
}

// uncacheFormer forgets the ways to a key that its next record no longer knows.
// Callers hold the key.
func (l *Limiter) uncacheFormer(k *Live, next *record.Key) {
	if k.key.Rotations == next.Rotations {
		return
	}
	known := next.Lookups()
	for _, lookup := range k.key.Lookups() {
		if !slices.Contains(known, lookup) {
			l.uncacheLookup(k, lookup)
		}
	}
}

func (l *Limiter) uncacheLookup(k *Live, lookup token.Lookup) {
	shard := &l.lookups[lookup[0]%lookupShards]
	shard.mu.Lock()
	if shard.m[lookup] == k {
		delete(shard.m, lookup)
	}
	shard.mu.Unlock()
}

// sweepAdmin saves what is pending about callers, and prunes what is too old.
func (l *Limiter) sweepAdmin() {
	l.attempts.Sweep()
	if err := l.tokens.SaveUses(); err != nil {
		l.log.Error("saving when admin tokens were used last", "error", err)
	}
	if !l.leads() {
		return
	}
	if err := l.pruneOnces(); err != nil {
		l.log.Error("forgetting old idempotency keys", "error", err)
	}
	if err := l.pruneAudit(); err != nil {
		l.log.Error("pruning the audit log", "error", err)
	}
	if l.shared == nil {
		return
	}
	if err := l.outbox.Sweep(); err != nil {
		l.log.Error("sweeping the outbox", "error", err)
	}
	if err := l.foldShares(); err != nil {
		l.log.Error("adding up what nodes that are gone have counted", "error", err)
	}
}
