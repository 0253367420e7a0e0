package limiter

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Rotate gives a key another string. The previous one works for the grace, and no
// earlier string works for longer. It returns how many running requests were cut
// because they came with a string that no longer works. The caller who gets the
// string must have been able to mint the key: see couldMint.
func (l *Limiter) Rotate(by Caller, id string, next record.Issue, grace time.Duration) (View, int, error) {
	if grace < 0 || grace > record.MaxGrace {
		return View{}, 0, record.Invalid("grace", "must be from 0 to %d days, got %s", int(record.MaxGrace/(24*time.Hour)), grace)
	}
	k, err := l.reach(by, record.KeysRotate, id)
	if err != nil {
		return View{}, 0, err
	}
	var key *record.Key
	err = l.committer.Do(func(b *batch) error {
		old, acct, err := record.ReadKey(b, id)
		if err != nil {
			return err
		}
		if status, _, err := k.derive(b, old, &acct); err != nil || status == record.Revoked {
			return cmp.Or(err, ErrRevoked)
		}
		if err := l.couldMint(by, old); err != nil {
			return err
		}
		sealed := old.Custody == record.CustodySealed
		if sealed == next.Box.Salt.IsZero() || sealed == next.Box.SealKey.IsZero() {
			return record.Invalid("upstream_key", "belongs to the rotation of a sealed key, and of no other")
		}
		if _, err := b.Get(record.LookupKey(next.Lookup)); !errors.Is(err, store.ErrNotFound) {
			return errors.Join(errors.New("this key string is taken"), err)
		}
		now := l.clock.Now().UTC()
		if key, err = old.Rotated(next, now, grace); err != nil {
			return err
		}
		if sealed {
			if last := key.Former[len(key.Former)-1]; !last.SealKey.IsZero() {
				salt, there, err := store.Find(b, record.SaltKey(id))
				if there { // otherwise the store is a copy without salts
					err = b.Set(record.FormerSaltKey(id, last.Number), slices.Clone(salt))
				}
				if err != nil {
					return err
				}
			}
			if err := b.Set(record.SaltKey(id), []byte(next.Box.Salt.Reveal())); err != nil {
				return err
			}
		}
		return writeKey(b, old, key, &acct, by.entry(audit.ActKeyRotate, id, record.Changes(old, key)))
	}, func() {
		l.follow(key, func(k *Live) {
			if !next.Box.Salt.IsZero() {
				k.salts.add(key.Rotations, next.Box.Salt)
			}
		})
	})
	if err != nil {
		return View{}, 0, l.noted(by, err)
	}
	cut := k.cutReplaced(l.clock.Now())
	l.log.Info("key rotated", "key_id", id, "grace", grace, "requests_cut", cut, "by", by.Name)
	if grace > 0 { // the former string still works
		view, err := l.viewNow(id)
		return view, cut, err
	}
	view, err := l.viewFelt(id)
	return view, cut, err
}

// Rotating returns a key that the caller may rotate, for the code that makes its new
// string.
func (l *Limiter) Rotating(by Caller, id string) (*record.Key, error) {
	k, err := l.reach(by, record.KeysRotate, id)
	if err != nil {
		return nil, err
	}
	key := k.Key()
	if k.revoked() {
		return nil, ErrRevoked
	}
	return key, l.noted(by, l.couldMint(by, key))
}
