package limiter

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"
)

// Ask is one request, as far as limits and scope are concerned.
type Ask struct {
	// Bound is the most that the request can use of each kind. A kind left
	// at zero is not debited.
	Bound Amounts
	// Fit, if not nil, names the bound in tokens and nano-dollars once it is
	// known what is left of each: it may lower what the request can use. It
	// is called under locks, perhaps more than once, and must only compute.
	Fit func(left Amounts) Amounts
	// Free requests take nothing, but need a live key and count against its
	// rate, or 60 a minute when it has none.
	Free bool

	Addr   netip.Addr // the client
	Method string     // as sent
	Path   string     // decoded, in the upstream's own form
	Models []string   // every model the request names; see Named

	// Named says that the request names the model that is to answer, and
	// Listing that it asks for no answer of a model at all. A key that lists
	// models admits no other request.
	Named, Listing bool

	// OnCut is called at most once, from another goroutine, when the key is
	// stopped while the request runs. It must not block.
	OnCut func(*Refusal)
}

// Grant is an admitted request. Whoever holds it must call Settle or Cancel
// once; calls after the first do nothing. The caller provides the memory, so
// that admitting costs no allocation; a Grant must not be copied or reused.
type Grant struct {
	k         *Live
	key       *Key
	role      *account
	bound     Amounts
	epoch     int64 // of the key's account
	roleEpoch int64
	remaining Amounts
	free      bool
	began     int64
	kinds     TokenKinds
	onCut     func(*Refusal)
	cut       atomic.Pointer[Refusal]
	done      atomic.Bool

	prev, next *Grant
}

// Key returns the record that the request was admitted under.
func (g *Grant) Key() *Key { return g.key }

// Remaining returns what was left of each limit after this hold; NoLimit
// where there is none.
func (g *Grant) Remaining() Amounts { return g.remaining }

// Cut returns why the request must end, or nil while it may go on.
func (g *Grant) Cut() *Refusal { return g.cut.Load() }

// defaultFreeRate bounds what costs no activation.
var defaultFreeRate = Rate{N: 60, Per: time.Minute}

// Reserve asks for a request to be admitted: status, scope, rate, concurrency
// and every budget in one atomic step. It returns nil and fills g, or it
// returns why not, and then nothing was taken. On a busy key it touches
// memory only; otherwise it waits for one group commit.
func (k *Live) Reserve(ctx context.Context, ask *Ask, g *Grant) *Refusal {
	for {
		refusal, parked, again := k.tryReserve(ask, g)
		switch {
		case again: // evicted meanwhile
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
			k.l.cacheLookup(fresh)
			k = fresh
		case parked.refill != nil:
			var err error
			patience := time.NewTimer(maxWait)
			select {
			case <-parked.refill.done:
				err = parked.refill.err
			case <-ctx.Done():
				err = ctx.Err()
			case <-patience.C:
				err = errTooSlow
			}
			patience.Stop()
			parked.at.mu.Lock()
			parked.at.unpark(&parked.bound)
			parked.at.mu.Unlock()
			switch {
			case errors.Is(err, ErrNoSpace):
				return storeRefusal("the server's disk is full")
			case errors.Is(err, errTooSlow):
				return storeRefusal("the server's disk is too slow")
			case err != nil:
				return storeRefusal("its budget could not be reserved")
			}
		default:
			return refusal
		}
	}
}

// maxWait bounds how long a request waits for the store. What waits is bounded
// by it, too: one change an account, however many requests wait for that.
const maxWait = 5 * time.Second

var errTooSlow = errors.New("the store did not answer in time")

// parking is where a caller waits for a block.
type parking struct {
	refill *refill
	at     *account
	bound  Amounts
}

func (k *Live) tryReserve(ask *Ask, g *Grant) (refusal *Refusal, p parking, again bool) {
	now := k.l.clock.Now()
	nanos := now.UnixNano()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return nil, p, true
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
	// Always the key before its role: one order, so no deadlock.
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
	if own > wait {
		return k.refused(now, k.outOf(own, kind, &bound)), p, false
	}
	if k.unrecorded() {
		own = wait
	}
	shared := fits
	if role != nil && !ask.Free {
		if shared, kind = role.judge(&bound, false); shared > wait {
			return k.refused(now, k.outOfRole(role, shared, kind)), p, false
		}
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
	k.claim(ask, nanos)
	k.debit(&bound, nanos)
	if !ask.Free && k.wantsAhead() {
		k.l.askBlock(&k.account, k)
	}
	if role != nil && !ask.Free {
		role.debit(&bound, nanos)
		if role.wantsAhead() {
			k.l.askBlock(role, nil)
		}
	}
	k.addr = k.addrText(ask.Addr)
	k.l.markActive(k)
	g.k, g.key, g.role, g.bound, g.free, g.began, g.onCut = k, k.key, role, bound, ask.Free, nanos, ask.OnCut
	g.epoch = k.epoch
	if role != nil {
		g.roleEpoch = role.epoch
	}
	g.remaining = k.remaining()
	k.link(g)
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
		return defaultFreeRate, &k.freeRate
	}
	return k.key.Rate, &k.rate
}

// tooOften judges rate and concurrency.
func (k *Live) tooOften(ask *Ask, nanos int64) *Refusal {
	rate, tokens := k.pacer(ask)
	if d := tokens.wait(rate, nanos); d > 0 {
		return k.key.refuse(CodeRateLimited, "may make %s requests; try again in %s", rate, roundUp(d)).after(d)
	}
	if limit := k.key.MaxConcurrency; limit > 0 && k.inflight >= limit {
		return k.key.refuse(CodeConcurrency, "may run %d requests at a time, and %d are running", limit, k.inflight).after(time.Second)
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
	refusal := k.allowed(ask, now)
	if refusal == nil && !ask.Free && !k.due(now) {
		if v, kind := k.judge(&Amounts{}, k.strict()); v == spent {
			refusal = k.outOf(v, kind, &Amounts{})
		}
	}
	if refusal == nil {
		refusal = k.tooOften(ask, now.UnixNano())
	}
	if refusal != nil {
		return k.refused(now, refusal)
	}
	return nil
}

// admissible judges everything but budgets.
func (k *Live) admissible(ask *Ask, now time.Time) *Refusal {
	if refusal := k.allowed(ask, now); refusal != nil {
		return refusal
	}
	s := &k.key.Scope
	if len(s.Models) == 0 || ask.Listing {
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
	if code := k.timeUp(now); code != "" {
		return k.timeRefusal(code)
	}
	s := &key.Scope
	switch {
	case !s.AllowsAddr(ask.Addr) || !k.pinAllows(ask.Addr):
		return key.refuse(CodeIPNotAllowed, "may not be used from %s", ask.Addr)
	case !s.AllowsMethod(ask.Method):
		return key.refuse(CodeMethodNotAllowed, "may not use method %s; it is limited to %s", ask.Method, list(s.Methods))
	case !s.AllowsPath(ask.Path):
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

// park0 registers a caller that waits for an account's next window.
func (k *Live) park0(a *account) parking {
	return parking{refill: a.park(&Amounts{}), at: a}
}

// park registers a caller that needs a block and asks for one.
func (l *Limiter) park(a *account, k *Live, ask *Ask, bound *Amounts, now int64) parking {
	if k != nil {
		k.claim(ask, now)
		l.markActive(k)
	}
	p := parking{refill: a.park(bound), at: a, bound: *bound}
	l.askBlock(a, k)
	return p
}

// askBlock asks the committer for the next block of an account, and to write
// what it knows of the key's use along with it. Callers hold the account.
func (l *Limiter) askBlock(a *account, k *Live) {
	if a.asked {
		return
	}
	a.asked = true
	if a.slot == nil {
		a.slot = l.shadow.take(a.id, a.lineage, a.taken())
	}
	var granted, counted Amounts
	l.committer.submit(change{
		apply: func(b *batch) error {
			rec, err := readAccount(b, a)
			if err != nil {
				return err
			}
			a.mu.Lock()
			for i := range granted {
				granted[i] = a.want(Kind(i), rec.Limit[i], rec.Reserved[i])
				rec.Reserved[i] += granted[i]
			}
			a.note(&rec)
			a.mu.Unlock()
			counted = rec.counted()
			return b.setAccount(a.id, a.forRole, &rec)
		},
		done: func(err error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			if err == nil {
				for i := range granted {
					a.reserved[i] += granted[i]
				}
				a.counted = counted
				a.firstDurable = a.firstDurable || a.first != 0
			} else {
				l.log.Error("reserving budget failed", "error", err)
			}
			a.answer(err)
		},
	})
}

// readAccount reads an account's record; a role's is made on first use, and
// its limit is what the configuration says.
func readAccount(r Reader, a *account) (accountRecord, error) {
	b, err := r.Get(accountKey(a.id))
	if a.forRole {
		rec := accountRecord{}
		switch {
		case err == nil:
			if rec, err = decodeAccount(b); err != nil {
				return rec, err
			}
		case err != ErrNotFound:
			return rec, err
		}
		a.mu.Lock()
		rec.Limit = a.limit
		a.mu.Unlock()
		return rec, nil
	}
	if err != nil {
		return accountRecord{}, err
	}
	return decodeAccount(b)
}

// note puts into a record what rides along with any commit of the account.
func (a *account) note(rec *accountRecord) {
	for i, limit := range rec.Limit {
		if limit == NoLimit {
			// Nothing is reserved where nothing is limited: what was used
			// stands here instead, for when a limit is set later.
			rec.Reserved[i] = a.spent[i]
			a.reserved[i] = a.spent[i]
		}
	}
	rec.Settled = a.spent
	rec.First, rec.Last, rec.Pin, rec.Addr = a.first, a.last, a.pin, a.addr
	rec.Past, rec.Kinds = a.past, a.kinds
	if rec.Epoch == 0 {
		rec.Epoch = a.epoch // a role's first
	}
}

// Settle ends the request with what it used. Kinds it was not asked for may
// be given too; more than the bound is debited all the same.
func (g *Grant) Settle(used Amounts) {
	if g.bound[Attempts] > 0 {
		used[Attempts] = g.bound[Attempts]
	}
	g.finish(used)
}

// Measured says what kinds of tokens the request used, for reports. It must be
// called before Settle.
func (g *Grant) Measured(kinds TokenKinds) { g.kinds = kinds }

// Cancel ends a request that never reached the upstream: everything goes
// back.
func (g *Grant) Cancel() { g.finish(Amounts{}) }

func (g *Grant) finish(used Amounts) {
	if g.done.Swap(true) {
		return
	}
	if g.free {
		used = Amounts{}
	}
	k := g.k
	k.mu.Lock()
	k.unlink(g)
	k.settle(g.epoch, &g.bound, &used)
	if !g.free {
		k.tellThresholds()
		k.kinds.add(g.kinds)
		k.history.used(g.began, &used, &g.kinds)
	}
	if k.overdrawn() {
		k.l.askBlock(&k.account, k)
	}
	if role := g.role; role != nil && !g.free {
		role.mu.Lock()
		role.settle(g.roleEpoch, &g.bound, &used)
		if role.overdrawn() {
			k.l.askBlock(role, nil)
		}
		role.mu.Unlock()
	}
	if k.inflight == 0 && !k.ending && k.key.EndedStatus == "" && k.halt == "" && k.renews == "" {
		if v, kind := k.judge(&Amounts{}, k.strict()); v == spent {
			k.ending = true
			k.l.finalEnd(k, Exhausted, exhaustedCode[kind])
		}
	}
	k.mu.Unlock()
}

func (k *Live) link(g *Grant) {
	k.inflight++
	k.l.holds.Add(1)
	if g.next = k.grants; g.next != nil {
		g.next.prev = g
	}
	k.grants = g
}

func (k *Live) unlink(g *Grant) {
	k.inflight--
	k.l.holds.Add(-1)
	if g.next != nil {
		g.next.prev = g.prev
	}
	if g.prev != nil {
		g.prev.next = g.next
	} else {
		k.grants = g.next
	}
	g.prev, g.next = nil, nil
}

// cut ends every running request of the key and returns how many there were.
// Callers must not hold the key.
func (k *Live) cut(r *Refusal) int {
	k.mu.Lock()
	var ends []func(*Refusal)
	n := 0
	for g := k.grants; g != nil; g = g.next {
		if !g.cut.CompareAndSwap(nil, r) {
			continue
		}
		n++
		if g.onCut != nil {
			ends = append(ends, g.onCut)
		}
	}
	k.mu.Unlock()
	for _, end := range ends {
		end(r)
	}
	return n
}
