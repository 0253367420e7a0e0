package limiter

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// A key has one string at a time, and those it had before, by number: the
// first is 0, and each rotation adds one. The record and the budget are the
// same for all of them, so it does not matter which one a request came with.
//
// A former string works until its grace ends. It stays known after that, so
// that whoever still uses it is told; its salt does not.
const (
	// MaxGrace bounds how long a former string works.
	MaxGrace = 30 * 24 * time.Hour
	// maxFormer is how many former strings are known. Older ones are as
	// unknown as any other.
	maxFormer = 16
)

// The actions on a key's strings, in the audit log.
const (
	ActKeyRotate   = "key.rotate"
	ActKeyEndGrace = "key.end_grace"
)

// Former is a string that a key had before it was rotated.
type Former struct {
	Lookup token.Lookup `json:"lookup"`
	Number int64        `json:"number"`
	Until  time.Time    `json:"until"` // it works before that
	// SealKey and Origins are what its box was made with, if it has one, for
	// as long as its salt is there.
	SealKey token.SealKeyID `json:"seal_key,omitzero"`
	Origins []string        `json:"origins,omitempty"`
	// Fingerprint names the credential in that box.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// works reports whether the string is in its grace.
func (f *Former) works(now time.Time) bool { return now.Before(f.Until) }

// Box is what opens the box of one string of a sealed key.
type Box struct {
	SealKey token.SealKeyID
	Origins []string
	Salt    token.Secret
}

// Issue is the string that a rotation gives a key.
type Issue struct {
	Lookup token.Lookup
	// Of a sealed key: the box that was made for this lookup, and what names the
	// credential in it.
	Box         Box
	Fingerprint string
}

// Rotate gives a key another string. The one it had works for the grace, and
// so does no string before it for longer. It returns how many running requests
// were cut because they came with a string that works no more. Whoever gets the
// string could have minted the key: see couldMint.
func (l *Limiter) Rotate(_ context.Context, by Caller, id string, next Issue, grace time.Duration) (View, int, error) {
	if grace < 0 || grace > MaxGrace {
		return View{}, 0, invalid("grace", "must be from 0 to %d days, got %s", int(MaxGrace/(24*time.Hour)), grace)
	}
	k, err := l.reach(by, KeysRotate, id)
	if err != nil {
		return View{}, 0, err
	}
	var old, key *Key
	err = l.committer.do(func(b *batch) error {
		var acct accountRecord
		if old, acct, err = readKey(b, id); err != nil {
			return err
		}
		if status, _ := k.derive(old); status == Revoked {
			return ErrRevoked
		}
		if err := l.couldMint(by, old); err != nil {
			return err
		}
		sealed := old.Custody == CustodySealed
		if sealed == next.Box.Salt.IsZero() || sealed == next.Box.SealKey.IsZero() {
			return invalid("upstream_key", "belongs to the rotation of a sealed key, and of no other")
		}
		if _, err := b.Get(lookupKey(next.Lookup)); !errors.Is(err, store.ErrNotFound) {
			return errors.Join(errors.New("this key string is taken"), err)
		}
		now := l.clock.Now().UTC()
		if key, err = old.rotated(next, now, grace); err != nil {
			return err
		}
		if sealed {
			if last := key.Former[len(key.Former)-1]; !last.SealKey.IsZero() {
				salt, err := b.Get(saltKey(id))
				switch {
				case err == nil:
					err = b.Set(formerSaltKey(id, last.Number), slices.Clone(salt))
				case errors.Is(err, store.ErrNotFound): // a copy of a store, without salts
					err = nil
				}
				if err != nil {
					return err
				}
			}
			if err := b.Set(saltKey(id), []byte(next.Box.Salt.Reveal())); err != nil {
				return err
			}
		}
		return writeKey(b, old, key, &acct, by.entry(ActKeyRotate, id, changes(old, key)))
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
	view, err := l.viewNow(id)
	return view, cut, err
}

// Rotating returns a key that the caller may rotate, for who has to make the
// string.
func (l *Limiter) Rotating(by Caller, id string) (*Key, error) {
	k, err := l.reach(by, KeysRotate, id)
	if err != nil {
		return nil, err
	}
	key := k.Key()
	if status, _ := k.derive(key); status == Revoked {
		return nil, ErrRevoked
	}
	return key, l.noted(by, l.couldMint(by, key))
}

// rotated is the key with its next string.
func (k *Key) rotated(next Issue, now time.Time, grace time.Duration) (*Key, error) {
	key := k.clone()
	last := Former{Lookup: key.Lookup, Number: key.Rotations, Until: now.Add(grace)}
	if grace > 0 {
		last.SealKey, last.Origins, last.Fingerprint = key.SealKey, key.Origins, key.Fingerprint
	}
	for i := range key.Former {
		key.Former[i].limit(last.Until, now)
	}
	key.Former = append(key.Former, last)
	if n := len(key.Former) - maxFormer; n > 0 {
		if key.Former[n-1].works(now) {
			return nil, invalid("grace", "would let more than %d earlier strings of key %s work at once: rotate it with a grace of 0, which ends them", maxFormer, k.ID)
		}
		key.Former = slices.Clone(key.Former[n:])
	}
	key.Version++
	key.Rotations++
	key.RotatedAt = now
	key.Lookup, key.SealKey, key.Origins = next.Lookup, next.Box.SealKey, next.Box.Origins
	key.Fingerprint = next.Fingerprint
	return key, nil
}

// limit lets a former string work until then at most.
func (f *Former) limit(until, now time.Time) {
	if until.Before(f.Until) {
		f.Until = until
	}
	if !f.works(now) {
		f.SealKey, f.Origins, f.Fingerprint = token.SealKeyID{}, nil, "" // its salt goes
	}
}

// EndGrace ends the grace of one former string at once, and what runs with it.
// It reports whether the string was in its grace.
func (l *Limiter) EndGrace(_ context.Context, by Caller, id string, lookup token.Lookup) (bool, error) {
	k, err := l.reach(by, KeysRevoke, id)
	if err != nil {
		return false, err
	}
	return l.endGrace(k, by, lookup)
}

func (l *Limiter) endGrace(k *Live, by Caller, lookup token.Lookup) (bool, error) {
	id, ended := k.Key().ID, false
	err := l.edit(by, ActKeyEndGrace, id, func(key *Key, _ *accountRecord) error {
		now := l.clock.Now().UTC()
		i := slices.IndexFunc(key.Former, func(f Former) bool { return f.Lookup == lookup })
		if ended = i >= 0 && key.Former[i].works(now); ended {
			key.Former[i].limit(now, now)
		}
		return nil
	}, nil)
	if err != nil || !ended {
		return false, err
	}
	cut := k.cutReplaced(l.clock.Now())
	l.log.Info("the grace of a key's former string was ended", "key_id", id, "requests_cut", cut, "by", by.Name)
	return true, nil
}
