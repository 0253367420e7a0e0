package limiter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// windUp finishes the end of a key: its children end with it, if it was revoked or
// has expired, and a child's remaining budget goes back to its nearest living ancestor.
// It may be cut off at any point and run again; the time index holds the key until it is
// done. A stop cuts it off between two children, with ErrClosed. by is the caller who
// ended the key.
func (l *Limiter) windUp(ctx context.Context, by Caller, id string) error {
	k, err := l.load(id)
	if err != nil {
		return err
	}
	key := k.Key()
	if key.EndedStatus == "" {
		return nil
	}
	if key.Delegate {
		children, err := store.Read(l.store, func(r store.Reader) ([]string, error) { return record.ChildrenOf(r, id) })
		if err != nil {
			return err
		}
		for _, child := range children {
			if l.stopping() {
				return store.ErrClosed
			}
			if key.EndedStatus != record.Exhausted {
				err = l.endWith(by, child, key)
			}
			if err == nil {
				err = l.windUp(ctx, by, child)
			}
			if err != nil && !l.leaveOut("ending child keys", child, err) {
				return err
			}
		}
	}
	if key.Attached() {
		err = l.returnRest(ctx, k)
	} else if key.Due != 0 {
		err = l.edit(by, audit.ActKeyRevoke, id, func(*record.Key, *record.Account) error { return nil }, nil) // what is due is judged again
	}
	return err
}

// windUpNow is windUp without waiting for the sweeper. After a stop, the sweeper goes on with it.
func (l *Limiter) windUpNow(ctx context.Context, by Caller, id string) {
	if err := l.windUp(ctx, by, id); err != nil && !errors.Is(err, errInFlight) && !errors.Is(err, store.ErrClosed) {
		l.log.Warn("ending child keys, or returning what one left, is tried again soon", "key_id", id, "error", err)
	}
}

// endWith ends a child whose parent was revoked or has expired.
func (l *Limiter) endWith(by Caller, id string, parent *record.Key) error {
	k, err := l.load(id)
	if err != nil {
		return err
	}
	if parent.EndedStatus == record.Revoked {
		_, err := l.halt(by, k, record.CodeKeyRevoked, revoking(by, audit.ActKeyRevoke, "its parent key "+parent.ID+" was revoked"))
		return err
	}
	end := ownEnd(record.Expired, record.CodeKeyExpired, l.clock.Now())
	end.by, end.reason = by, "its parent key "+parent.ID+" has expired"
	k.cut(k.Key().Refuse(end.code, "has ended: %s", end.reason))
	return l.rewrite(id, func(b *batch, old, key *record.Key, acct *record.Account) error {
		if old.EndedStatus != "" {
			return nil
		}
		return b.endKey(old, key, acct, end)
	}, nil)
}

// errInFlight says that a child has requests in flight, which may use what it
// has left.
var errInFlight = errors.New("requests of the child key are in flight")

// returnRest gives an ended child's remaining budget to its nearest living ancestor, or
// otherwise to one that a grant could revive. The child stays ended for ever, so that
// no budget exists twice.
func (l *Limiter) returnRest(ctx context.Context, k *Live) error {
	quiet, err := l.giveBack(ctx, k)
	if err != nil {
		return err
	}
	if !quiet {
		return errInFlight
	}
	err = l.moveRestOf(k)
	for n := 0; errors.Is(err, errElsewhere) && n < maxRecalls; n++ {
		if err := l.gather(ctx, &k.account); err != nil {
			return err
		}
		err = l.moveRestOf(k)
	}
	return err
}

// errElsewhere is errInFlight on another node.
var errElsewhere = fmt.Errorf("%w on another node", errInFlight)

// moveRestOf writes the return of a key's remaining budget.
func (l *Limiter) moveRestOf(k *Live) error {
	id := k.Key().ID
	var changed []ancestor
	var key *record.Key
	var acct record.Account
	return l.committer.DoPatiently(func(b *batch) error {
		changed, key = nil, nil
		old, rec, err := record.ReadKey(b, id)
		if err != nil {
			return err
		}
		if acct = rec; old.EndedStatus == "" || !old.Attached() {
			return nil // it lives again, or it is done
		}
		switch children, err := record.CountChildren(b, id); {
		case err != nil:
			return err
		case children > 0:
			return errInFlight // a child's requests, or the key waits for a child
		}
		key = old.Clone()
		key.ReturnedAt = l.clock.Now().UTC()
		key.Version++
		if out, err := l.reservedElsewhere(b, k.id, acct.Lineage); err != nil || out {
			return cmp.Or(err, errElsewhere)
		}
		above, err := k.above(b, key)
		if err != nil {
			return err
		}
		changed = moveRest(key, &acct, above)
		for i := range changed {
			h := &changed[i]
			if err := b.setAccount(h.account, false, &h.acct); err != nil {
				return err
			}
		}
		if err := b.Delete(record.ChildKey(key.Parent, id)); err != nil {
			return err
		}
		return writeKey(b, old, key, &acct, itself.entry(audit.ActKeyReturn, id, returned(&acct, changed)))
	}, func() {
		if key == nil {
			return
		}
		l.follow(key, nil)
		l.givenTo(id, &acct, 0)
		for i := range changed {
			l.givenTo(changed[i].key.ID, &changed[i].acct, 0)
		}
		l.lost(key.Parent)
	})
}

// ancestor is a key above one that returns its remaining budget, with its account as
// it is then.
type ancestor struct {
	key     *record.Key
	account record.AccountID
	acct    record.Account
	lives   bool // a request could use what it gets
	revives bool // a grant could let it live
}

// above reads a child's ancestors, nearest first.
func (k *Live) above(b *batch, key *record.Key) ([]ancestor, error) {
	var all []ancestor
	for a := k.parent; a != nil; a = a.parent {
		var h ancestor
		var err error
		if h.key, h.acct, err = record.ReadKey(b, key.Parent); err != nil {
			return nil, err
		}
		if h.account, err = record.KeyAccount(key.Parent); err != nil {
			return nil, err
		}
		status, _, err := a.derive(b, h.key, &h.acct)
		if err != nil {
			return nil, err
		}
		h.lives = h.key.EndedStatus == "" && status != record.Expired && status != record.Revoked
		h.revives = status != record.Revoked && h.key.ReturnedAt.IsZero()
		all, key = append(all, h), h.key
	}
	return all, nil
}

// moveRest moves a child's remaining budget out of its account, through those of dead
// ancestors, into that of the nearest living one, and returns the ancestors that
// changed. Amounts carved in an earlier window of a renewing budget are gone.
func moveRest(key *record.Key, acct *record.Account, above []ancestor) []ancestor {
	to := slices.IndexFunc(above, func(h ancestor) bool { return h.lives })
	if to < 0 {
		to = slices.IndexFunc(above, func(h ancestor) bool { return h.revives })
	}
	rest := key.Carved.Minus(acct.Given).Minus(acct.Reserved)
	at, from := key, acct
	for i := range to + 1 {
		h := &above[i]
		for kind := range rest {
			credit := at.CarvedNow[kind] - from.Returned[kind]
			if !at.CarvedFrom(&h.acct) {
				credit = 0
			}
			rest[kind] = max(min(rest[kind], credit, h.acct.Given[kind]), 0)
		}
		at, from = h.key, &h.acct
	}
	if to < 0 {
		return nil
	}
	acct.Given.Add(rest)
	acct.Returned.Add(rest)
	for i := range to {
		above[i].acct.Returned.Add(rest)
	}
	above[to].acct.Given = above[to].acct.Given.Minus(rest)
	return above[:to+1]
}

// returned is what the audit log says of a remaining budget that went back.
func returned(acct *record.Account, to []ancestor) map[string]record.Delta {
	d := make(map[string]record.Delta)
	if len(to) == 0 {
		return d
	}
	d["returned_to"] = record.Delta{Before: nil, After: to[len(to)-1].key.ID}
	for _, kind := range record.LimitKinds {
		if n := acct.Returned[kind]; n != 0 {
			d["returned_"+record.Kind(kind).Unit()] = record.Delta{Before: nil, After: kind.Value(n)}
		}
	}
	return d
}

// lost records in memory that a child of the key is gone for good.
func (c *cache) lost(id string) {
	k := c.inMemory(id)
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.children--
	k.endIfSpent() // nothing will come back to it
}
