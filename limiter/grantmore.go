package limiter

import (
	"cmp"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// addGrant puts a grant into a key's record, and revives it when it had run out.
func (l *Limiter) addGrant(b *batch, by Caller, k *Live, key *record.Key, acct *record.Account, add record.Amounts, lifetime time.Duration) error {
	old := key.Clone()
	status, code, err := k.derive(b, key, acct)
	switch {
	case err != nil:
		return err
	case status == record.Revoked:
		return ErrRevoked
	case !key.ReturnedAt.IsZero():
		return ErrReturned
	}
	for kind, n := range add {
		switch {
		case n == 0:
		case key.Limit[kind] == record.NoLimit:
			return record.Invalid(record.Kind(kind).Unit(), "cannot be added: the key has no such limit")
		case key.Limit[kind] > record.MaxAmount-n:
			return record.Invalid(record.Kind(kind).Unit(), "would raise the limit beyond %d", record.MaxAmount)
		default:
			key.Limit[kind] += n
		}
	}
	key.LimitAttempts()
	now := l.clock.Now().UTC()
	if lifetime > 0 {
		switch {
		case code == record.CodeKeyIdle || code == record.CodeKeyExpired && (key.ExpiresAt.IsZero() || now.Before(key.ExpiresAt)):
			// The key was idle, or never used in time: that time starts again.
		case key.ExpiresAt.IsZero():
			return record.Invalid("expires_in", "cannot be added: the key does not expire")
		}
		if !key.ExpiresAt.IsZero() {
			from := key.ExpiresAt
			if now.After(from) {
				from = now
			}
			key.ExpiresAt = from.Add(lifetime)
		}
	}
	if status == record.Exhausted || status == record.Expired {
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
