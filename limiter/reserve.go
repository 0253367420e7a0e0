package limiter

import (
	"context"
	"errors"
	"time"
)

// defaultFreeRate bounds what costs no activation.
var defaultFreeRate = Rate{N: 60, Per: time.Minute}

// Reserve asks for a request to be admitted: status, scope, rate, concurrency
// and every budget in one atomic step. It returns nil and fills g, or it
// returns why not, and then nothing was taken. On a busy key it touches
// memory only; otherwise it waits for one group commit, or for others to settle
// if ask says so.
func (k *Live) Reserve(ctx context.Context, ask *Ask, g *Grant) *Refusal {
	var t *turn
	defer func() { t.leave() }()
	for {
		refusal, parked, again := k.tryReserve(ask, g, t)
		switch {
		case again: // evicted meanwhile
			t.leave()
			t = nil
			fresh, err := k.l.load(k.key.ID)
			if errors.Is(err, ErrNotFound) { // forgotten meanwhile
				k.mu.Lock()
				k.l.uncache(k)
				k.mu.Unlock()
				return unknownKey()
			}
			if err != nil {
				return storeRefusal("its record could not be read")
			}
			k = fresh
		case parked.turn != nil:
			if t = parked.turn; t.await(ctx) {
				continue
			}
			if stopped := k.l.unavailable(); stopped != nil {
				return stopped
			}
			k.Count(refusal.Code)
			return refusal
		case parked.refill != nil:
			err := k.l.await(ctx, parked.refill)
			parked.at.mu.Lock()
			parked.at.unpark(&parked.bound)
			parked.at.mu.Unlock()
			switch {
			case errors.Is(err, ErrNoSpace):
				return storeRefusal("the server's disk is full")
			case errors.Is(err, errCrowded):
				return storeRefusal("too many requests wait for the server's disk")
			case errors.Is(err, errTooSlow):
				return storeRefusal("the server's disk is too slow")
			case err != nil:
				return storeRefusal("its budget could not be reserved")
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

// tryReserve judges a request once. t is its turn if it waits.
func (k *Live) tryReserve(ask *Ask, g *Grant, t *turn) (refusal *Refusal, p parking, again bool) {
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
	if refusal = k.admissible(ask, now); refusal != nil {
		return k.refused(now, refusal), p, false
	}

	if !ask.Free && k.due(now) {
		p = k.park0(&k.account)
		k.l.renew(&k.account, k, now)
		return nil, p, false
	}
	bound := Amounts{}
	if !ask.Free {
		bound = ask.Bound
		if k.key.Charge == ChargeSuccess {
			bound[Attempts] = bound[Activations]
		}
	}
	// Always the key before those above it, nearest first, and its role last:
	// one order, so no deadlock.
	if k.parent != nil {
		k.lockAbove()
		defer k.unlockAbove()
		if refusal = k.admittedAbove(ask, now); refusal != nil {
			return k.refused(now, refusal), p, false
		}
	}
	role := k.role
	if role != nil {
		role.mu.Lock()
		defer role.mu.Unlock()
		if role.absent {
			return k.refused(now, storeRefusal("role "+k.key.Role+" of key "+k.key.ID+" is not configured here any more")), p, false
		}
		if !ask.Free && role.due(now) {
			p = k.park0(role)
			k.l.renew(role, nil, now)
			return nil, p, false
		}
	}

	if ask.Fit != nil && !ask.Free {
		fitted := ask.Fit(k.left(role))
		bound[Tokens], bound[Nanodollars] = fitted[Tokens], fitted[Nanodollars]
	}
	own, kind := k.judge(&bound, k.strict())
	if own > heldUp {
		if own == spent {
			k.runOut(kind) // a crash came before that was recorded
		}
		return k.refused(now, k.outOf(own, kind, &bound, ask.Help)), p, false
	}
	shared, sharedKind := fits, Kind(0)
	if role != nil && !ask.Free {
		if shared, sharedKind = role.judge(&bound, false); shared > heldUp {
			return k.refused(now, k.outOfRole(role, shared, sharedKind)), p, false
		}
	}
	var short *account // has too little, or others wait for it
	queues := ask.Waits && !ask.Free
	switch {
	case own == heldUp:
		short, refusal = &k.account, k.outOf(own, kind, &bound, "")
	case shared == heldUp:
		short, refusal = role, k.outOfRole(role, shared, sharedKind)
	case queues && k.behind(t):
		short, refusal = &k.account, k.outOfTurn()
	case queues && role != nil && role.behind(t):
		short, refusal = role, k.outOfTurn()
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

	rate, tokens := k.pacer(ask)
	tokens.take(rate, nanos)
	for a := k.parent; a != nil; a = a.parent {
		a.usedBelow(ask, nanos)
	}
	k.claim(ask, nanos)
	k.l.shadow.shade(&k.account)
	k.debit(&bound, nanos)
	if !ask.Free && k.wantsAhead() {
		k.l.askBlock(&k.account, k)
	}
	if role != nil && !ask.Free {
		k.l.shadow.shade(role)
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
	g.listens = ask.Listens
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

// left is what no request holds, of the key's and of its role's budget. Callers
// hold both.
func (k *Live) left(role *account) Amounts {
	var left Amounts
	for i := range left {
		left[i] = maxAmount
		for _, a := range []*account{&k.account, role} {
			if a != nil && a.limit[i] != NoLimit { // its window is the present one
				left[i] = min(left[i], max(a.limit[i]-a.spent[i]-a.held[i], 0))
			}
		}
	}
	return left
}

// Limits are the limits of the key, or of its role where only that has one.
func (k *Live) Limits(key *Key) Amounts {
	limits := key.Limit
	if key.Role == "" {
		return limits
	}
	k.mu.Lock()
	role := k.role
	k.mu.Unlock()
	if role == nil {
		return limits
	}
	role.mu.Lock()
	defer role.mu.Unlock()
	for i, limit := range limits {
		if limit == NoLimit {
			limits[i] = role.limit[i]
		}
	}
	return limits
}

// pacer is the bucket that a request takes from.
func (k *Live) pacer(ask *Ask) (Rate, *bucket) {
	if ask.Free && k.key.Rate.IsZero() {
		return defaultFreeRate, &k.pacing.free
	}
	return k.key.Rate, &k.pacing.rate
}

// tooOften judges rate and concurrency.
func (k *Live) tooOften(ask *Ask, nanos int64) *Refusal {
	rate, tokens := k.pacer(ask)
	if d := tokens.wait(rate, nanos); d > 0 {
		return k.key.refuse(CodeRateLimited, "may make %s requests; try again in %s", rate, roundUp(d)).after(d)
	}
	return k.tooMany(ask)
}

// tooMany judges concurrency. What children run counts, too.
func (k *Live) tooMany(ask *Ask) *Refusal {
	running, words := k.inflight-k.listening, "may run %d requests at a time, and %d are running"
	if ask.Listens {
		running, words = k.listening, "may keep %d event streams open at a time, and %d are open"
	}
	running += int(k.runningBelow(ask.Listens).Load())
	if limit := k.key.MaxConcurrency; limit > 0 && running >= limit {
		return k.key.refuse(CodeConcurrency, words, limit, running).after(time.Second)
	}
	return nil
}

// Precheck judges what can be judged before the request's body is read:
// status, addresses, method and path, rate, and whether anything is left at
// all. A request that passes has taken nothing and must still be reserved.
func (k *Live) Precheck(ask *Ask) *Refusal {
	now := k.l.clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return nil // Reserve finds out what became of it
	}
	refusal := k.l.lockedDown(k.key)
	if refusal == nil {
		refusal = k.allowed(ask, now)
	}
	if refusal == nil && k.parent != nil {
		k.lockAbove()
		refusal = k.admittedAbove(ask, now)
		k.unlockAbove()
	}
	if refusal == nil && !ask.Free && !k.due(now) {
		if v, kind := k.judge(&Amounts{}, k.strict()); v == spent {
			k.runOut(kind)
			refusal = k.outOf(v, kind, &Amounts{}, "")
		}
	}
	if refusal == nil {
		refusal = k.tooOften(ask, now.UnixNano())
	}
	if refusal != nil {
		k.usedDead(now, refusal, ask.Addr)
		return k.refused(now, refusal)
	}
	return nil
}

// admissible judges everything but budgets.
func (k *Live) admissible(ask *Ask, now time.Time) *Refusal {
	if refusal := k.allowed(ask, now); refusal != nil {
		return refusal
	}
	return k.allowedModels(ask)
}

func (k *Live) allowedModels(ask *Ask) *Refusal {
	s := &k.key.Scope
	if len(s.Models) == 0 || ask.Listing || ask.Own {
		return nil
	}
	for _, model := range ask.Models {
		if !s.AllowsModel(model) {
			return k.key.refuse(CodeModelNotAllowed, "may not use model %s; it is limited to %s", model, list(s.Models))
		}
	}
	if !ask.Named {
		return k.key.refuse(CodeModelNotAllowed, "is limited to %s, and the request names no model", list(s.Models))
	}
	return nil
}

// allowed judges status, addresses, method and path.
func (k *Live) allowed(ask *Ask, now time.Time) *Refusal {
	key := k.key
	if k.halt != "" || !key.SuspendedAt.IsZero() || key.EndedStatus == Revoked {
		return k.stopped(now)
	}
	if refusal := key.outdated(ask.String, now); refusal != nil {
		return refusal
	}
	if refusal := k.stands(now); refusal != nil {
		return refusal
	}
	return k.inScope(ask)
}

// stands judges status alone, budgets aside.
func (k *Live) stands(now time.Time) *Refusal {
	key := k.key
	switch {
	case k.halt != "" || !key.SuspendedAt.IsZero() || key.EndedStatus == Revoked:
		return k.stopped(now)
	case key.EndedStatus == Expired || !key.ReturnedAt.IsZero():
		return k.over(now) // also if the clock was set back since
	}
	if code := k.timeUp(now); code != "" {
		return k.timeRefusal(code)
	}
	return nil
}

// inScope judges addresses, method and path.
func (k *Live) inScope(ask *Ask) *Refusal {
	key := k.key
	s := &key.Scope
	switch {
	case !s.AllowsAddr(ask.Addr) || !k.pinAllows(ask.Addr):
		return key.refuse(CodeIPNotAllowed, "may not be used from %s", ask.Addr)
	case ask.Own:
		return nil
	case !s.AllowsMethod(ask.Method):
		return key.refuse(CodeMethodNotAllowed, "may not use method %s; it is limited to %s", ask.Method, list(s.Methods))
	case !s.AllowsPath(ask.Path, ask.Version):
		return key.refuse(CodePathNotAllowed, "may not use path %s; it is limited to %s", ask.Path, list(s.Paths))
	}
	return nil
}

// refused counts a refusal. What an attacker can trigger stays in memory and
// is written at most once an hour.
func (k *Live) refused(now time.Time, r *Refusal) *Refusal {
	k.history.refused(now, r.Code)
	return r
}

// unrecorded reports whether the first use must be on disk before anything is
// forwarded, and is not yet.
func (k *Live) unrecorded() bool {
	return !k.firstDurable && (k.key.Scope.PinIP || k.key.FirstUseWithin > 0)
}

// claim notes the first use.
func (k *Live) claim(ask *Ask, now int64) {
	if k.first == 0 {
		k.first = now
	}
	if k.key.Scope.PinIP && k.pin == "" {
		k.pin = pinOf(ask.Addr)
	}
}
