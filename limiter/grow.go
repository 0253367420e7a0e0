package limiter

import (
	"cmp"
	"time"
)

// grow puts a grant into a key's record, and revives it when it had run out.
func (l *Limiter) grow(by Caller, k *Live, key *Key, acct *accountRecord, add Amounts, lifetime time.Duration) error {
	old := key.clone()
	status, code := k.derive(key)
	switch {
	case status == Revoked:
		return ErrRevoked
	case !key.ReturnedAt.IsZero():
		return ErrReturned
	}
	for kind, n := range add {
		switch {
		case n == 0:
		case key.Limit[kind] == NoLimit:
			return invalid(kinds[kind].unit, "cannot be added: the key has no such limit")
		case key.Limit[kind] > maxAmount-n:
			return invalid(kinds[kind].unit, "would raise the limit beyond %d", maxAmount)
		default:
			key.Limit[kind] += n
		}
	}
	key.attempts()
	now := l.clock.Now().UTC()
	if lifetime > 0 {
		switch {
		case code == CodeKeyIdle || code == CodeKeyExpired && (key.ExpiresAt.IsZero() || now.Before(key.ExpiresAt)):
			// Idle, or never used in time: reviving starts that time anew.
		case key.ExpiresAt.IsZero():
			return invalid("expires_in", "cannot be added: the key does not expire")
		}
		if !key.ExpiresAt.IsZero() {
			from := key.ExpiresAt
			if now.After(from) {
				from = now
			}
			key.ExpiresAt = from.Add(lifetime)
		}
	}
	if status == Exhausted || status == Expired {
		key.RevivedAt = now
		if key.FirstUseWithin > 0 && acct.First == 0 {
			key.FirstUseWithin = now.Sub(key.CreatedAt) + key.FirstUseWithin
		}
	}
	key.EndedAt, key.EndedStatus, key.EndedReason = time.Time{}, "", ""
	if err := l.ceilings(by, old, key); err != nil {
		return err
	}
	return cmp.Or(l.couldMint(by, key), key.Validate())
}
