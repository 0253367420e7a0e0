package limiter

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// edit runs fn on a copy of a key's record and its account, inside the
// committer, and writes both, with an entry in the audit log if the record has
// changed. fn makes the change and must not have other effects. after runs on the
// key in memory once the change is durable.
func (l *Limiter) edit(by Caller, action, id string, fn func(key *record.Key, acct *record.Account) error, after func(k *Live)) error {
	return l.editIn(by, action, id, func(_ *batch, key *record.Key, acct *record.Account) error { return fn(key, acct) }, after)
}

// editIn is edit for a change that needs the transaction, too.
func (l *Limiter) editIn(by Caller, action, id string, fn func(b *batch, key *record.Key, acct *record.Account) error, after func(k *Live)) error {
	return l.rewrite(id, func(b *batch, old, key *record.Key, acct *record.Account) error {
		if err := fn(b, key, acct); err != nil {
			return err
		}
		acct.Limit = key.Limit
		if reflect.DeepEqual(key, old) {
			return writeKey(b, old, key, acct, nil)
		}
		key.Version++
		return writeKey(b, old, key, acct, by.entry(action, id, record.Changes(old, key)))
	}, after)
}

// Change lets fn edit a copy of a live key: name, labels, owner, purpose,
// scope, limits, expiry. The rest stays as it is. Only the name and the labels of
// a dead key may change; otherwise the error is ErrDead. ifVersion, unless 0, must
// be the key's version; otherwise it is ErrVersion. Each of the checks sees the outcome,
// including what ceilings have filled in, and may refuse it.
func (l *Limiter) Change(ctx context.Context, by Caller, id string, ifVersion int64, fn func(*record.Key) error, checks ...func(old, key *record.Key) error) (View, error) {
	k, err := l.reach(by, record.KeysUpdate, id)
	if err != nil {
		return View{}, err
	}
	if k.Key().Delegate { // budget that is reserved and unused does not count as the family's
		if _, err := l.giveBack(ctx, k); err != nil {
			return View{}, err
		}
	}
	var epoch int64
	var taken record.Amounts
	var switched [record.NumKinds]bool
	err = l.editIn(by, audit.ActKeyUpdate, id, func(b *batch, key *record.Key, acct *record.Account) (err error) {
		if ifVersion != 0 && ifVersion != key.Version {
			return fmt.Errorf("%w: it is at version %d, not %d", ErrVersion, key.Version, ifVersion)
		}
		epoch = 0 // this may run more than once
		old := *key
		changed := key.Clone()
		if err := fn(changed); err != nil {
			return err
		}
		key.Choose(changed, record.Always)
		settled := *key
		key.Choose(changed, record.WhileAlive)
		if err := l.ceilings(by, &old, key); err != nil {
			return err
		}
		if err := key.Validate(); err != nil {
			return err
		}
		if key.MaxRequestSpend != old.MaxRequestSpend || key.Limit[record.Nanodollars] != old.Limit[record.Nanodollars] {
			if err := l.meterable(key, false); err != nil {
				return err
			}
		}
		for _, check := range checks {
			if err := check(&old, key); err != nil {
				return err
			}
		}
		if key.Widens(&old) {
			if err := l.couldMint(by, key); err != nil {
				return err
			}
		}
		key.LimitAttempts()
		window := acct
		if key.Renews == old.Renews && key.Renews.Epoch(l.clock.Now()) > acct.Epoch {
			window = new(record.Account) // a new window begins with the next request
		}
		if err := key.KeepsFamily(b, &old, window); err != nil {
			return err
		}
		if key.Renews != old.Renews {
			// The first renewal is the next one: what was used stays used.
			acct.Epoch = max(acct.Epoch, key.Renews.Epoch(l.clock.Now()))
			epoch = acct.Epoch
		}
		status, _, err := k.derive(b, &old, acct)
		if err != nil {
			return err
		}
		live := !status.Ended() || status == record.Exhausted && old.Renews != ""
		if !live && !reflect.DeepEqual(*key, settled) {
			return ErrDead
		}
		if !key.ExpiresAt.Equal(old.ExpiresAt) && !key.ExpiresAt.IsZero() && !key.ExpiresAt.After(l.clock.Now()) {
			return record.Invalid("expires_at", "must be in the future, got %s; to end the key, revoke it", record.Stamp(key.ExpiresAt))
		}
		taken, switched, err = k.switchLimits(b, &old.Limit, &key.Limit, acct)
		return err
	}, func(k *Live) {
		for i, n := range taken {
			if switched[i] {
				k.reserved[i] = n
			}
		}
		if epoch > k.epoch {
			k.moveTo(k, epoch) // nothing is reserved in the new window
		}
	})
	if err != nil {
		return View{}, l.noted(by, err)
	}
	l.log.Info("key changed", "key_id", id, "by", by.Name)
	return l.viewFelt(id)
}

// switchLimits records what is used and held of each kind that gains or loses its limit,
// because without one nothing is reserved. Memory follows.
func (k *Live) switchLimits(b *batch, old, limit *record.Amounts, rec *record.Account) (taken record.Amounts, switched [record.NumKinds]bool, err error) {
	own, err := b.own(k.id, rec)
	if err != nil {
		return taken, switched, err
	}
	k.mu.Lock()
	taken = k.taken()
	for i := range limit {
		if (old[i] == record.NoLimit) != (limit[i] == record.NoLimit) && !k.gone && k.lineage == rec.Lineage {
			own.Reserved[i], switched[i] = taken[i], true
		}
	}
	k.mu.Unlock()
	if switched != [record.NumKinds]bool{} {
		err = b.setOwn(k.id, rec, &own)
	}
	return taken, switched, err
}

// derive is the status that the key would have if these were its record and its
// account, which a transaction has read.
func (k *Live) derive(b *batch, key *record.Key, acct *record.Account) (record.Status, record.Code, error) {
	own, err := b.own(k.id, acct)
	if err != nil {
		return "", "", err
	}
	now := k.l.clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	current, renews, known := k.key, k.renews, k.joint
	defer func() {
		k.key, k.renews, k.joint = current, renews, known
		k.relimit()
	}()
	k.key, k.renews = key, key.Renews
	if b.node != "" {
		k.adopt(acct, &own)
	}
	k.setWhole(key.Limit)
	status, code := k.status(now)
	return status, code, nil
}

// More is what a grant adds to a key. Zero adds nothing.
type More struct {
	Activations int64
	Tokens      int64
	Nanodollars int64
	// Lifetime is added to the expiry, counted from now if that has passed.
	Lifetime time.Duration
}

// GrantMore raises the limits of a key, and revives it when it was exhausted
// or had expired. A revoked key stays revoked: ErrRevoked.
func (l *Limiter) GrantMore(ctx context.Context, by Caller, id string, more More) (View, error) {
	add := record.Amounts{record.Activations: more.Activations, record.Tokens: more.Tokens, record.Nanodollars: more.Nanodollars}
	if add == (record.Amounts{}) && more.Lifetime == 0 {
		return View{}, record.Invalid("grant:", "set at least one of activations, tokens, spend_usd, expires_in")
	}
	for kind, n := range add {
		if n < 0 || n > record.MaxAmount {
			return View{}, record.Invalid(record.Kind(kind).Unit(), "must be from 1 to %d, got %d", record.MaxAmount, n)
		}
	}
	if more.Lifetime < 0 {
		return View{}, record.Invalid("expires_in", "must not be negative, got %s", more.Lifetime)
	}
	k, err := l.reach(by, record.KeysUpdate, id)
	if err != nil {
		return View{}, err
	}
	if k.Key().Parent != "" {
		err = l.grantChild(ctx, by, k, add, more.Lifetime)
	} else {
		err = l.editIn(by, audit.ActKeyGrant, id, func(b *batch, key *record.Key, acct *record.Account) error {
			return l.addGrant(b, by, k, key, acct, add, more.Lifetime)
		}, func(k *Live) { k.ending = false })
	}
	if err != nil {
		return View{}, l.noted(by, err)
	}
	l.log.Info("key granted more", "key_id", id, "activations", more.Activations, "lifetime", more.Lifetime, "by", by.Name)
	return l.viewFelt(id)
}

// Suspend stops a key until it is resumed, and cuts its running requests. It takes
// effect in memory at once; an error says that it could not be made durable. Where
// nodes share the store, it waits for the others to do the same.
func (l *Limiter) Suspend(by Caller, id string) (View, error) {
	k, err := l.reach(by, record.KeysRevoke, id)
	if err != nil {
		return View{}, err
	}
	stop := l.stopper(by)
	k.mu.Lock()
	if k.halt == record.CodeKeySuspended && !stop.Above(k.haltBy) {
		stop = k.haltBy // the first suspension stands, as in the record
	}
	k.haltBy = stop
	k.mu.Unlock()
	_, err = l.halt(by, k, record.CodeKeySuspended, func(b *batch, old, key *record.Key, acct *record.Account, at time.Time) error {
		switch {
		case old.EndedStatus == record.Revoked:
			return ErrRevoked
		case old.SuspendedAt.IsZero():
			key.SuspendedAt, key.SuspendedBy = at, stop
			if err := b.emit(event.Event{Name: event.KeySuspended, Key: key, Code: record.CodeKeySuspended, By: by.Name}); err != nil {
				return err
			}
		case stop.Above(old.SuspendedBy):
			key.SuspendedBy = stop // whoever suspended it first may not lift this suspension
		default:
			return nil
		}
		key.Version++
		return writeKey(b, old, key, acct, by.stopEntry(audit.ActKeySuspend, id, record.Changes(old, key)))
	})
	if err != nil {
		return View{}, err
	}
	return l.viewFelt(id)
}

// Resume ends a suspension, if it is the caller's to end; see mayLift. A key that
// was not suspended stays as it is.
func (l *Limiter) Resume(by Caller, id string) (View, error) {
	k, err := l.reach(by, record.KeysRevoke, id)
	if err != nil {
		return View{}, err
	}
	var halted bool
	var stop record.Stopper
	err = l.edit(by, audit.ActKeyResume, id, func(key *record.Key, _ *record.Account) (err error) {
		if key.EndedStatus == record.Revoked {
			return ErrRevoked
		}
		if halted, stop, err = l.mayResume(by, k, key); err != nil {
			return err
		}
		key.SuspendedAt, key.SuspendedBy = time.Time{}, record.Stopper{}
		return nil
	}, func(k *Live) {
		if halted && k.halt == record.CodeKeySuspended && k.haltBy == stop { // no later suspension
			k.halt, k.unsaved = "", nil
		}
	})
	if err != nil {
		return View{}, l.noted(by, err)
	}
	l.log.Info("key resumed", "key_id", id, "by", by.Name)
	return l.viewFelt(id)
}

// Revoke ends a key for ever, cuts its running requests and returns how many there
// were. It takes effect in memory at once; an error says that it could not be made
// durable. Revoking twice changes nothing. Where nodes share the store, it waits for
// the others to do the same.
func (l *Limiter) Revoke(ctx context.Context, by Caller, id, reason string) (View, int, error) {
	if err := record.ValidText("reason", reason); err != nil {
		return View{}, 0, err
	}
	if reason = token.Scrub(reason); reason == "" {
		reason = "revoked by " + by.Name
	}
	k, err := l.reach(by, record.KeysRevoke, id)
	if err != nil {
		return View{}, 0, err
	}
	cut, err := l.halt(by, k, record.CodeKeyRevoked, revoking(by, audit.ActKeyRevoke, reason))
	if err != nil {
		return View{}, cut, err
	}
	l.windUpNow(ctx, by, id)
	view, err := l.viewFelt(id)
	return view, cut, err
}
