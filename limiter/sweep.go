package limiter

import (
	"maps"
	"time"

	"github.com/till-proxy/till/limiter/record"
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

// sweepLoop does the work that must not wait: ending requests that run past their time,
// and giving back unused budget.
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

// upkeepLoop does the work that may take minutes in a large store, or wait for its disk.
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
			l.redoTokenStops()
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

// cutOverdue cuts requests that run past the time of their key, of a key above it, or of the
// string that they came with. It writes nothing.
func (l *Limiter) cutOverdue(now time.Time) {
	for _, k := range l.everyActive() {
		k.mu.Lock()
		runs := k.inflight+k.turns > 0
		if !runs && k.below.Load() == 0 {
			k.mu.Unlock()
			continue
		}
		var over *record.Refusal
		if code := k.timeUp(now); code != "" && k.key.EndedStatus == "" && k.halt == "" {
			over = k.timeRefusal(code)
		} else if runs {
			_, over = k.fromAbove(now)
		}
		rotated := runs && len(k.key.Former) > 0
		k.mu.Unlock()
		if over != nil {
			k.cut(over)
		}
		if rotated {
			k.cutReplaced(now)
		}
	}
}

// CutOverdue does for a closed Limiter what its sweeper did before: running requests go on
// until another Limiter takes them over, and may run past their time meanwhile.
func (l *Limiter) CutOverdue() {
	if l.closed.Load() {
		l.cutOverdue(l.clock.Now())
	}
}

// sweepActive cuts requests that run past their time, records that keys have expired, gives
// back unused blocks, and saves statistics.
func (l *Limiter) sweepActive() {
	now := l.clock.Now()
	nanos := now.UnixNano()
	l.cutOverdue(now)
	var later []*Live
	for _, k := range l.everyActive() {
		k.mu.Lock()
		if k.gone { // and one of its requests, or of those below it, has ended since
			l.retire(k)
			k.mu.Unlock()
			continue
		}
		if code := k.timeUp(now); code != "" && k.key.EndedStatus == "" && k.halt == "" && k.inflight == 0 && !k.ending {
			k.ending = true
			l.endByItself(k, record.Expired, code)
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
		if l.committer.Backlog() >= maxAside {
			later = append(later, k)
		} else {
			l.tidy(k, nanos)
		}
		k.mu.Unlock()
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

// tidy gives back what an idle key does not use, and saves statistics. Callers
// hold the key.
func (l *Limiter) tidy(k *Live, nanos int64) {
	idle := k.quiet() && nanos-k.last >= int64(idleBlock)
	dirty := k.dirty()
	switch {
	case k.pending > 0: // look again when that is done
	case idle && (k.unsettled() || k.slot != nil || dirty):
		l.save(&k.account, k, true)
	case idle && k.unsaved == nil && len(k.graceEnds) == 0:
		l.retire(k)
	case dirty && nanos-k.savedAt >= int64(k.saveEvery()):
		l.save(&k.account, k, false)
	}
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
		if k.history.dirty() && !k.active && k.pending == 0 && l.committer.Backlog() < maxAside && nanos-k.savedAt >= int64(saveRefusals) {
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
	l.realignAll(now) // those that a repair of the clock has missed: they were being read, or the store was full
	if l.shared != nil {
		l.forgetSharedHours(l.everyLive(), now)
	}
}

// sweepAdmin saves what is pending about callers, and prunes records that are too old.
func (l *Limiter) sweepAdmin() {
	try := func(what string, do func() error) {
		if err := do(); err != nil {
			l.log.Error(what, "error", err)
		}
	}
	l.attempts.Sweep()
	try("saving when admin tokens were used last", l.tokens.SaveUses)
	if !l.leads() {
		return
	}
	try("forgetting old idempotency keys", l.pruneOnces)
	try("pruning the audit log", l.pruneAudit)
	if l.shared == nil {
		return
	}
	try("sweeping the outbox", l.outbox.Sweep)
	try("adding up what nodes that are gone have counted", l.foldShares)
}
