package limiter

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// A store that failed is closed and opened again by another Limiter. What the former
// one had in memory is still true, and only this process knows it: running requests
// go on under their new keys, where they settle and can be cut; keys whose stop could
// not be made durable stay stopped; no use or refund in the meantime is lost.

// inherit takes over what former, which is closed, had in memory. l is not in use
// yet.
func (l *Limiter) inherit(former *Limiter) error {
	for _, j := range former.jobs.running() {
		if j.number.Load() == 0 { // the store knows the others
			successor := newJob(j.snapshot())
			successor.done = j.done // for callers that wait
			successor.ready.Store(true)
			l.jobs.list = append(l.jobs.list, successor)
		}
	}
	l.forfeited.Add(former.forfeited.Load())
	l.inheritTokenStops(former)
	defer l.redoTokenStops()
	former.liveMu.Lock()
	l.pacings = maps.Clone(former.pacings)
	former.liveMu.Unlock()
	var from, to []*Live
	// Children come before their parents, as wherever both are locked.
	all := former.everyLive()
	slices.SortFunc(all, deeperFirst)
	for _, k := range all {
		k.mu.Lock()
		carries := k.active || k.inflight > 0 || k.halt != "" || len(k.graceEnds) > 0 || k.history.dirty() || len(k.history.unsure) > 0
		id, owed := k.key.ID, k.unsaved != nil || len(k.graceEnds) > 0
		k.mu.Unlock()
		if !carries {
			continue
		}
		successor, err := l.load(id)
		if l.leaveOut("going on with what runs", id, err) {
			k.cut(storeRefusal("its record could not be read"))
			if owed {
				l.log.Error("what was stopped could not be made durable", "key_id", id, "error", err)
			}
			continue
		}
		if errors.Is(err, store.ErrNotFound) { // its mint was not acknowledged, or another node has forgotten it
			k.cut(record.UnknownKey())
			continue
		}
		if err != nil {
			return err
		}
		from, to = append(from, k), append(to, successor)
	}
	formerRoles := make(map[record.AccountID]*account)
	for _, a := range former.everyRole() {
		formerRoles[a.id] = a
	}
	roles := l.everyRole()

	// A request that settles does so before all of this or after it.
	for _, k := range from {
		k.mu.Lock()
	}
	removed := former.removed.Load() // the removal has counted what is not believed; see of
	how := trust{believed: former.believed() && !removed, least: former.contradicted.Load() && !removed, booked: removed}
	moved := make(map[*account]successor)
	for _, a := range roles {
		old := formerRoles[a.id]
		if old == nil {
			continue
		}
		old.mu.Lock()
		a.mu.Lock()
		how := how.of(a, old)
		moved[old] = successor{a, how}
		l.inheritAccount(a, nil, old, how)
		a.mu.Unlock()
		old.mu.Unlock()
	}
	for i, k := range from {
		to[i].inherit(k, how, moved)
	}
	for _, k := range from {
		k.mu.Unlock()
	}
	now := l.clock.Now()
	for _, k := range to {
		k.mu.Lock()
		why := k.stands(now)
		k.mu.Unlock()
		if l.shared != nil { // another node may have stopped it meanwhile
			l.cutWhatMayNotRun(k, why, now)
		}
		if r := l.lockedDown(k.key); r != nil { // whoever set it may have looked where the requests had been
			k.cut(r)
		}
		if err := l.redoStop(k); err != nil { // it holds in memory
			l.log.Error("what was stopped could still not be made durable", "key_id", k.key.ID, "error", err)
		}
	}
	return nil
}

// believed reports whether memory may go on from what this Limiter knew about use. A store
// that was in doubt may have misled it: then only its running requests and its stops are
// believed.
func (l *Limiter) believed() bool { return !errors.Is(l.committer.Cause(), store.ErrDoubt) }

// ledger has the accounts of a closed limiter.
type ledger map[record.AccountID]*account

// ledger has the accounts whose spending is believed. It is nil only if the limiter is.
func (l *Limiter) ledger() ledger {
	if l == nil {
		return nil
	}
	all := make(ledger)
	if !l.believed() {
		return all
	}
	for _, k := range l.everyLive() {
		all[k.account.id] = &k.account
	}
	for _, a := range l.everyRole() {
		all[a.id] = a
	}
	return all
}

// spent is what the ended requests of an account have used, if that is known. Its other
// requests run.
func (all ledger) spent(id record.AccountID, lineage uint64) (spent record.Amounts, known bool) {
	a := all[id]
	if a == nil {
		return spent, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.spent, a.lineage == lineage
}

// successor is the account in memory that follows another.
type successor struct {
	*account
	how trust // in what the former one held
}

// trust says how far a former limiter's knowledge of its accounts is believed.
type trust struct {
	believed bool // it is what was used, and is held
	booked   bool // a removal may have counted what was reserved, and put what was used into the history
	least    bool // at least as much was used, including all that is held: the store's own word is in doubt, too
}

// of is how far the knowledge of one account is believed. A removal that was refused, because
// the node had come back, has not counted the parts that it had not reached: what was taken
// from them is still reserved, and more where the answer to a commit was lost. Of a folded part
// nothing is reserved except what answers have cost beyond it. Both accounts are held.
func (t trust) of(a, old *account) trust {
	if !t.booked || a.lineage != old.lineage {
		return t
	}
	kept := false
	for i, n := range old.taken() {
		if a.limit[i] == record.NoLimit || old.limit[i] == record.NoLimit {
			continue
		}
		if a.reserved[i] < min(n, old.reserved[i]) {
			return t
		}
		kept = kept || a.reserved[i] > 0
	}
	if !kept {
		return t
	}
	return trust{believed: true}
}

// inheritAccount takes over the books of the same account. Both are held. They are of the
// same budget while their lineages agree; otherwise a new window had begun just
// before, in which nothing was used. k is the key that owns it; nil for a role.
func (l *Limiter) inheritAccount(a *account, k *Live, old *account, how trust) {
	a.first = cmp.Or(a.first, old.first)
	if a.pin == "" {
		a.pin = old.pin
	}
	a.last, a.addr = max(a.last, old.last), old.addr
	a.pace, a.mean = old.pace, old.mean
	switch {
	case a.lineage != old.lineage:
		return
	case how.believed:
		if k != nil {
			l.forfeited.Add(-a.forfeits()) // as it was no crash
		}
		a.spent, a.held, a.past, a.kinds = old.spent, old.held, old.past, old.kinds
	case how.least:
		for i, n := range old.taken() {
			a.spent[i], a.past[i] = max(a.spent[i], n), max(a.past[i], old.past[i])
		}
	case how.booked: // answers may have cost more than was reserved
		for i, n := range old.taken() {
			if a.limit[i] != record.NoLimit {
				a.spent[i] = more(a.spent[i], max(0, n-old.reserved[i]))
			}
		}
	default:
		return
	}
	if a.unsettled() || a.held != (record.Amounts{}) || !a.recorded() {
		a.shade(l.shadow)
	}
	if !how.believed && a.overdrawn() {
		l.askBlock(a, k) // other nodes have to know
	}
}

// inherit takes over a key. The former one is held, and this one is not known to
// others yet.
func (k *Live) inherit(old *Live, how trust, roles map[*account]successor) {
	k.mu.Lock()
	defer k.mu.Unlock()
	how = how.of(&k.account, &old.account)
	k.l.inheritAccount(&k.account, k, &old.account, how)
	for g := old.grants; g != nil; g = g.next {
		g.move(old, k)
		g.k.Store(k)
		g.epoch = inherited(g.epoch, &old.account, &k.account, how)
		if role := g.role; role != nil {
			next := roles[role]
			if g.role = next.account; g.role != nil {
				g.roleEpoch = inherited(g.roleEpoch, role, g.role, next.how)
			}
		}
	}
	k.grants, k.inflight, k.free = old.grants, old.inflight, old.free
	k.l.holds.Add(int64(k.inflight))
	old.l.holds.Add(-int64(k.inflight))
	for a, was := k.parent, old.parent; a != nil && was != nil; a, was = a.parent, was.parent {
		a.below.Add(int64(k.inflight))
		was.below.Add(-int64(k.inflight))
	}
	old.grants, old.inflight, old.free, old.held = nil, 0, 0, record.Amounts{}

	k.halt, k.haltBy, k.unsaved = old.halt, old.haltBy, old.unsaved
	k.graceEnds = old.graceEnds
	k.key = k.withGraceEnds(k.key)
	if old.revocation == nil {
		k.revocation = nil // it was judged, and did not match
	}
	rest := old.history.unbooked(k.booked)
	for i := range rest {
		if how.booked {
			rest[i] = Bucket{Start: rest[i].Start, Refusals: rest[i].Refusals}
		}
	}
	k.history.putBack(rest)
	k.pacing = old.pacing
	k.lastAddr = old.lastAddr
	if k.halt != record.CodeKeyRevoked && k.key.EndedStatus != record.Revoked {
		k.kept.Store(old.kept.Load())
	}
	k.setMarks()
	k.l.markActive(k)
}

// inherited is the window to which a request belongs from now on: the present one if
// the request was in that, and the books were carried over with what it holds.
func inherited(epoch int64, from, to *account, how trust) int64 {
	past := epoch != from.epoch || to.lineage != from.lineage
	switch {
	case epoch < noEpoch:
		return epoch
	case past && how.booked && epoch == from.epoch:
		return bookedPast
	case past:
		return noEpoch
	case how.believed:
		return to.epoch
	case how.booked:
		return bookedEpoch
	}
	return spentEpoch
}

const (
	// noEpoch is the window of no account: requests that settle there belong to one that is over.
	noEpoch = -1 - iota
	// spentEpoch is the window of requests whose bound counts as spent, as the books were
	// not carried over with what they hold.
	spentEpoch
	// bookedEpoch is that of requests whose bound, as far as it was reserved, a removal has
	// counted as spent and put into the history.
	bookedEpoch
	// bookedPast is that of requests with such a bound in a window that is over.
	bookedPast
)

// booked reports whether a removal has put the bounds of a window's requests into the history.
func booked(epoch int64) bool { return epoch <= bookedEpoch }
