package limiter

import (
	"errors"
	"fmt"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
)

// The errors of administrative calls. A call about a key that does not exist gets
// ErrNotFound.
var (
	// ErrVersion says that the key is not at the version the caller named.
	ErrVersion = errors.New("the key has changed since it was read")
	// ErrDead says that only the name and labels of an ended key can change.
	ErrDead = errors.New("the key has ended: only its name and labels can change; grant more to revive it")
	// ErrAlive says that a key must have ended to be forgotten.
	ErrAlive = errors.New("the key has not ended: revoke it first")
	// ErrFamily says that a key cannot be forgotten yet because of its children
	// or its parent.
	ErrFamily = errors.New("the budget of child keys has not gone back to where it came from yet: try again within a minute")
	// ErrInUse says that a key cannot be forgotten yet because another node may still
	// use it.
	ErrInUse = errors.New("requests of the key may still run on another node, or what they used is not written yet: try again in a moment")
	// ErrRevoked says that a revoked key stays revoked.
	ErrRevoked = errors.New("the key was revoked, which cannot be undone: mint another")
)

// writeKey writes a key in place of old (nil for a new one), with everything
// that must agree with it: its account, the time index, the tally, and the entry
// of the audit log (nil: none). The same write ends a key with a pending revocation.
func writeKey(b *batch, old, key *record.Key, acct *record.Account, entry *act) error {
	revocation, err := b.pending(old, key)
	if err != nil {
		return err
	}
	latest, err := b.revocations.latest(b.Transaction)
	if err != nil {
		return err
	}
	key.Judged = max(key.Judged, latest)
	children := false
	if key.Delegate && key.EndedStatus != "" {
		n, err := record.CountChildren(b, key.ID)
		if err != nil {
			return err
		}
		children = n > 0
	}
	key.Due = key.DueAt(record.FromNanos(acct.Last), acct.First != 0, children)
	var from record.Status
	if old != nil {
		from = old.Recorded()
		if old.Due != 0 && old.Due != key.Due {
			if err := b.Delete(record.DueKey(old.Due, key.ID)); err != nil {
				return err
			}
		}
	}
	if key.Due != 0 {
		if err := b.Set(record.DueKey(key.Due, key.ID), nil); err != nil {
			return err
		}
	}
	if err := writeStrings(b, old, key); err != nil {
		return err
	}
	account, err := record.KeyAccount(key.ID)
	if err != nil {
		return err
	}
	acct.Version = key.Version
	if err := b.setAccount(account, false, acct); err != nil {
		return err
	}
	if err := record.SetJSON(b, record.RecordKey(key.ID), key); err != nil {
		return err
	}
	if err := b.count(from, key.Recorded()); err != nil {
		return err
	}
	if err := b.index(old, key); err != nil {
		return err
	}
	if entry != nil {
		if err := b.audit(entry); err != nil {
			return err
		}
	}
	if revocation != nil {
		return b.endKey(key.Clone(), key, acct, revocation.ending(b.clock.Now()))
	}
	return nil
}

// rewrite runs write inside the committer, with a key's record, a copy of it and its
// account. write changes the copy, writes it if necessary, and must have no other
// effects. after runs on the key in memory once that is durable.
func (l *Limiter) rewrite(id string, write func(b *batch, old, key *record.Key, acct *record.Account) error, after func(k *Live)) error {
	var key *record.Key
	return l.committer.Do(func(b *batch) error {
		old, acct, err := record.ReadKey(b, id)
		if err != nil {
			return err
		}
		key = old.Clone()
		return write(b, old, key, &acct)
	}, func() { l.follow(key, after) })
}

// reach returns a key on which the caller has the permission.
func (l *Limiter) reach(by Caller, p record.Permission, id string) (*Live, error) {
	if err := l.authorise(by, p, nil); err != nil {
		return nil, err
	}
	k, err := l.load(id)
	if err != nil {
		return nil, err
	}
	if err := l.authorise(by, p, k.Key()); err != nil {
		return nil, err
	}
	if by.holder != "" && p == record.KeysRevoke && !k.View().SelfRevoke {
		return nil, fmt.Errorf("%w: the key may not be revoked by its holder", ErrForbidden)
	}
	return k, nil
}

// viewNow is the key after an act on it. The act is done even if the key cannot be read,
// and repeating it would do it twice.
func (l *Limiter) viewNow(id string) (View, error) {
	k, err := l.load(id)
	if err != nil {
		return View{}, fmt.Errorf("%w: %w", commit.ErrOutcome, err)
	}
	return k.View(), nil
}

// viewFelt is viewNow after an act that has to take effect on every node.
func (l *Limiter) viewFelt(id string) (View, error) {
	pending := l.Pending()
	v, err := l.viewNow(id)
	v.Pending = pending
	return v, err
}

// Get returns one key.
func (l *Limiter) Get(by Caller, id string) (View, error) {
	k, err := l.reach(by, record.KeysRead, id)
	if err != nil {
		return View{}, err
	}
	return k.View(), nil
}
