package limiter

import (
	"context"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// The order in which a request is judged. The client gets the refusal of the first
// rule that says no, which is the first that has to be put right. The order is that
// of docs/keys-and-limits.md, "Which refusal":
//
//	lockdown; status; address                   standing, order[0]
//	what the upstream allows                    the caller's
//	method; path; what may stand for others     order[1:]
//	role configured; anything left              leftover
//	rate; concurrency                           tooOften
//	body; models; what is metered; its price    the caller's, and allowedModels
//	too little left; held by others             tryReserve
//
// Each rule is asked of the key and then of those above it, nearest first, before
// the next one is.
var order = [...]func(*Live, *Ask) *record.Refusal{(*Live).inAddress, (*Live).inMethod, (*Live).inPath, (*Live).inQuery}

// lockOthers locks everything besides the key that its requests are judged by: the
// keys above, nearest first, and then its role. The order is always the same, so there
// is no deadlock. Callers hold the key.
func (k *Live) lockOthers() {
	k.lockAbove()
	if k.role != nil {
		k.role.mu.Lock()
	}
}

func (k *Live) unlockOthers() {
	if k.role != nil {
		k.role.mu.Unlock()
	}
	k.unlockAbove()
}

// upward is the first refusal by the key or by those above it, nearest first.
// Callers hold all of them.
func (k *Live) upward(rule func(*Live, *Ask) *record.Refusal, ask *Ask) *record.Refusal {
	for a := k; a != nil; a = a.parent {
		if refusal := rule(a, ask); refusal != nil {
			return k.said(a, refusal)
		}
	}
	return nil
}

// said is a refusal by the key or by an ancestor, in words for the holder of the key.
func (k *Live) said(a *Live, refusal *record.Refusal) *record.Refusal {
	if a == k {
		return refusal
	}
	return k.key.Below(refusal)
}

// admissible judges what can be judged before a request is read, except budgets and
// pace. Callers hold the key and its ancestors.
func (k *Live) admissible(ask *Ask, now time.Time) *record.Refusal {
	refusal := k.standing(ask, now)
	for i := 0; refusal == nil && i < len(order); i++ {
		refusal = k.upward(order[i], ask)
	}
	return refusal
}

// standing judges status, except budgets: of the key, of the string that the request
// came with, and of the key's ancestors.
func (k *Live) standing(ask *Ask, now time.Time) *record.Refusal {
	key := k.key
	if k.halted() {
		return k.stopped(now)
	}
	if refusal := key.Outdated(ask.String, now); refusal != nil {
		return refusal
	}
	for a := k; a != nil; a = a.parent {
		if refusal := a.stands(now); refusal != nil {
			return k.said(a, refusal)
		}
	}
	return nil
}

// halted reports whether the key was stopped, perhaps in memory only, or is being forgotten.
func (k *Live) halted() bool {
	return k.halt != "" || k.forgetting > 0 || !k.key.SuspendedAt.IsZero() || k.key.EndedStatus == record.Revoked
}

// stands judges the status of one key alone.
func (k *Live) stands(now time.Time) *record.Refusal {
	key := k.key
	switch {
	case k.halted():
		return k.stopped(now)
	case key.EndedStatus == record.Expired || !key.ReturnedAt.IsZero():
		return k.over(now) // even if the clock was set back since
	}
	if code := k.timeUp(now); code != "" {
		return k.timeRefusal(code)
	}
	return nil
}

func (k *Live) inAddress(ask *Ask) *record.Refusal {
	if k.key.Scope.AllowsAddr(ask.Addr) && k.pinAllows(ask.Addr) {
		return nil
	}
	return k.key.Refuse(record.CodeIPNotAllowed, "may not be used from %s", ask.Addr)
}

func (k *Live) inMethod(ask *Ask) *record.Refusal {
	s := &k.key.Scope
	if ask.Own || s.AllowsMethod(ask.Method) {
		return nil
	}
	return k.key.Refuse(record.CodeMethodNotAllowed, "may not use method %s; it is limited to %s", ask.Method, list(s.Methods))
}

func (k *Live) inPath(ask *Ask) *record.Refusal { return AllowsPaths(k.key, ask) }

// AllowsPaths judges every path that a request names.
func AllowsPaths(k *record.Key, ask *Ask) *record.Refusal {
	s := &k.Scope
	switch {
	case ask.Own || len(s.Paths) == 0:
		return nil
	case !s.AllowsPath(ask.Path, ask.Version):
		return k.Refuse(record.CodePathNotAllowed, "may not use path %s; it is limited to %s", ask.Path, list(s.Paths))
	case ask.Elsewhere != "":
		return k.Refuse(record.CodePathNotAllowed, "may not use %s: it names another path, and only some are allowed", ask.Elsewhere)
	case ask.Destination != "" && !s.AllowsPath(ask.Destination, ask.DestinationVersion):
		return k.Refuse(record.CodePathNotAllowed, "may not use path %s as a destination; it is limited to %s", ask.Destination, list(s.Paths))
	}
	return nil
}

// inQuery refuses a parameter by which some servers see another method or path, where
// those are limited.
func (k *Live) inQuery(ask *Ask) *record.Refusal {
	s := &k.key.Scope
	if ask.Override == "" || ask.Own || len(s.Methods) == 0 && len(s.Paths) == 0 {
		return nil
	}
	return k.key.Refuse(record.CodeBadRequest, "may not use the parameter %s: some servers take it for another method, path or header than the one that is checked", ask.Override)
}

// leftover judges whether the budgets of the key and of its role have anything left
// to take. Callers hold both.
func (k *Live) leftover(ask *Ask, now time.Time) *record.Refusal {
	role := k.role
	if role != nil && role.absent {
		return storeRefusal("role " + k.key.Role + " of key " + k.key.ID + " is not configured here any more")
	}
	if ask.Free {
		return nil
	}
	if !k.due(now) {
		if v, kind := k.canDebit(&record.Amounts{}, k.strict()); v == spent {
			k.runOut(kind) // a crash may have come before that was recorded
			return k.outOf(v, kind, &record.Amounts{}, "")
		}
	}
	if role != nil && !role.due(now) {
		if v, kind := role.canDebit(&record.Amounts{}, false); v == spent {
			return k.outOfRole(role, v, kind, &record.Amounts{}, "")
		}
	}
	return nil
}

// inModels judges the models of a request that has been read.
func (k *Live) inModels(ask *Ask) *record.Refusal {
	s := &k.key.Scope
	if len(s.Models) == 0 || ask.Listing || ask.Own {
		return nil
	}
	for _, model := range ask.Models {
		if !s.AllowsModel(model) {
			return k.key.Refuse(record.CodeModelNotAllowed, "may not use model %s; it is limited to %s", model, list(s.Models))
		}
	}
	if !ask.Named {
		return k.key.Refuse(record.CodeModelNotAllowed, "is limited to %s, and the request names no model", list(s.Models))
	}
	return nil
}

// tooOften judges the rate and concurrency of the key and of its ancestors, which also
// count the requests of the keys below them.
func (k *Live) tooOften(ask *Ask, nanos int64) *record.Refusal {
	for a := k; a != nil; a = a.parent {
		if a.key.Rate.IsZero() && !ask.Free {
			continue
		}
		rate, tokens := a.pacer(ask, nanos)
		stated, words := a.key.Rate, "and its children may make %s requests; try again in %s"
		if a == k {
			words = "may make %s requests; try again in %s"
		}
		if stated.IsZero() {
			stated = rate
		}
		if d := tokens.wait(rate, nanos); d > 0 {
			return k.said(a, a.key.Refuse(record.CodeRateLimited, words, stated, roundUp(d)).After(d))
		}
	}
	for a := k; a != nil; a = a.parent {
		if refusal := a.tooMany(ask, nanos); refusal != nil {
			return k.said(a, refusal)
		}
	}
	return nil
}

// unread judges everything about a request that is known before it is read. Callers
// hold the key, its ancestors and its role.
func (k *Live) unread(ask *Ask, now time.Time) *record.Refusal {
	refusal := k.l.lockedDown(k.key)
	if refusal == nil {
		refusal = k.admissible(ask, now)
	}
	if refusal == nil {
		refusal = k.leftover(ask, now)
	}
	if refusal == nil {
		refusal = k.tooOften(ask, now.UnixNano())
	}
	return refusal
}

// Precheck judges what can be judged before the request's body is read. A request
// that passes has taken nothing and must still be reserved. It may have waited for its
// body by then, so everything is judged again as it is at that moment.
func (k *Live) Precheck(ctx context.Context, ask *Ask) *record.Refusal {
	return k.l.inquire(ctx, func(inq *inquiry) (*record.Refusal, parking) { return k.precheck(ask, inq) })
}

// precheck judges a request once, and says which books to look at before refusing it.
func (k *Live) precheck(ask *Ask, inq *inquiry) (refusal *record.Refusal, look parking) {
	now := k.l.clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return nil, look // Reserve finds out what became of it
	}
	k.lockOthers()
	if refusal = k.unread(ask, now); refusal != nil {
		if a, owner := k.restsOn(ask, now); a != nil && k.l.unsure(inq, a, now.UnixNano()) {
			if refusal = k.l.unavailable(); refusal == nil {
				look = k.l.look(a, owner)
			}
			k.unlockOthers()
			return refusal, look
		}
	}
	k.unlockOthers()
	if refusal == nil {
		return nil, look
	}
	k.usedDead(now, refusal, ask.Addr)
	return k.refused(now, refusal), look
}

// restsOn returns the account on which the refusal of an unread request rests, where other
// nodes may know better, and the key that owns it. Callers hold the key, its ancestors and
// its role.
func (k *Live) restsOn(ask *Ask, now time.Time) (*account, *Live) {
	switch {
	case k.l.shared == nil || k.l.lockedDown(k.key) != nil:
		return nil, nil
	case k.admissible(ask, now) != nil:
		if a := k.restsOnUse(now); a != nil {
			return &a.account, a
		}
		return nil, nil
	case ask.Free:
		return nil, nil
	}
	if v, _ := k.canDebit(&record.Amounts{}, k.strict()); v == spent {
		return &k.account, k
	}
	if role := k.role; role != nil {
		if v, _ := role.canDebit(&record.Amounts{}, false); v == spent {
			return role, nil
		}
	}
	return nil, nil
}

// AdmitsModels judges the models of a request that has been read, before its possible
// cost is judged.
func (k *Live) AdmitsModels(ask *Ask) *record.Refusal {
	if k = k.present(); k == nil {
		return nil
	}
	defer k.mu.Unlock()
	k.lockAbove()
	defer k.unlockAbove()
	return k.upward((*Live).inModels, ask)
}

// Refuse records a refusal that was decided elsewhere, and returns it, or one that
// takes precedence: a dead key says so regardless of the request.
func (k *Live) Refuse(ctx context.Context, ask *Ask, refusal *record.Refusal) *record.Refusal {
	return k.l.inquire(ctx, func(inq *inquiry) (*record.Refusal, parking) { return k.precedes(ask, refusal, inq) })
}

// precedes returns the refusal that a client gets, and says which books to look at first.
func (k *Live) precedes(ask *Ask, refusal *record.Refusal, inq *inquiry) (_ *record.Refusal, look parking) {
	now := k.l.clock.Now()
	if k = k.present(); k == nil {
		return refusal, look
	}
	defer k.mu.Unlock()
	k.lockAbove()
	earlier := k.l.lockedDown(k.key)
	if earlier == nil {
		if earlier = k.standing(ask, now); earlier == nil {
			earlier = k.upward((*Live).inAddress, ask)
		}
		if earlier != nil {
			if a := k.restsOnUse(now); a != nil && k.l.unsure(inq, &a.account, now.UnixNano()) {
				if earlier = k.l.unavailable(); earlier == nil {
					look = k.l.look(&a.account, a)
				}
				k.unlockAbove()
				return earlier, look
			}
		}
	}
	k.unlockAbove()
	if earlier != nil {
		refusal = earlier
		k.usedDead(now, refusal, ask.Addr)
	}
	return k.refused(now, refusal), look
}
