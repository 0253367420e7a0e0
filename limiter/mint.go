package limiter

import (
	"context"
	"errors"
	"fmt"

	"github.com/oklog/ulid/v2"

	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// Birth is what a mint needs besides the key's own fields.
type Birth struct {
	// Lookup is the hash of the key's string. The caller has made the
	// string; the limiter never sees it.
	Lookup token.Lookup
	// Salt is that of a sealed key's box.
	Salt token.Secret
	// Unlimited must be said for a key that nothing ends.
	Unlimited bool
	// Unmetered says that the upstream does not tell what requests use, so
	// tokens and dollars cannot be limited there.
	Unmetered bool
}

// Mint makes a key from spec.
func (l *Limiter) Mint(_ context.Context, by Caller, spec *Key, birth Birth) (View, error) {
	if err := l.authorise(by, KeysCreate, nil); err != nil {
		return View{}, err
	}
	spec = spec.clone()
	if by.Role != OperatorRole {
		if spec.Role != "" && spec.Role != by.Role {
			return View{}, fmt.Errorf("%w: keys of your token have the role %s, not %q", ErrForbidden, by.Role, spec.Role)
		}
		spec.Role = by.Role
	}
	key, err := l.newborn(by, by, spec, birth)
	if err != nil {
		return View{}, l.noted(by, err)
	}
	if key.Role != "" {
		a, err := l.role(key.Role)
		if err != nil {
			return View{}, err
		}
		a.mu.Lock()
		absent := a.absent
		a.mu.Unlock()
		if absent {
			return View{}, invalid("role", "must name a configured role, got %q", key.Role)
		}
	}
	acct := accountRecord{Limit: key.Limit, Lineage: 1, Epoch: key.Renews.epoch(key.CreatedAt)}
	err = l.committer.do(func(b *batch) error { return writeNew(b, by, key, &acct, birth) }, nil)
	if err != nil {
		return View{}, fmt.Errorf("minting: %w", err)
	}
	l.log.Info("key minted", "key_id", key.ID, "name", key.Name, "upstream", key.Upstream, "by", by.Name)
	// It comes into memory when it is used: who mints many uses few at once.
	k := &Live{l: l, key: key}
	k.restore(&acct)
	return k.view(l.clock.Now()), nil
}

// newborn is a key as a mint asks for it, as far as it can be judged by itself.
// under is the caller whose ceilings bind it besides those of its own role.
func (l *Limiter) newborn(by, under Caller, spec *Key, birth Birth) (*Key, error) {
	key := spec.clone()
	now := l.clock.Now().UTC()
	id, err := ulid.New(ulid.Timestamp(now), ulid.DefaultEntropy())
	if err != nil {
		return nil, fmt.Errorf("making an id: %w", err)
	}
	key.ID, key.Lookup, key.Version = idPrefix+id.String(), birth.Lookup, 1
	key.CreatedAt, key.CreatedBy, key.Token = now, by.Name, by.Token
	if key.Charge == "" {
		key.Charge = ChargeForwarded
	}
	if sealed := key.Custody == CustodySealed; sealed == birth.Salt.IsZero() || sealed == key.SealKey.IsZero() {
		return nil, errors.New("minting: a sealed key, and only that, has a salt and names its seal key")
	}
	if err := l.ceilings(under, nil, key); err != nil {
		return nil, err
	}
	if err := key.Validate(); err != nil {
		return nil, err
	}
	if err := l.meterable(key, birth.Unmetered); err != nil {
		return nil, err
	}
	key.attempts()
	if !key.Bounded() && !birth.Unlimited {
		return nil, invalid("limits:", `set at least one of max_activations, max_tokens, max_spend_usd, expires_in or expires_at, or say "unlimited": true`)
	}
	if !key.ExpiresAt.IsZero() && !key.ExpiresAt.After(now) {
		return nil, invalid("expires_at", "must be in the future, got %s", stamp(key.ExpiresAt))
	}
	return key, nil
}

// meterable refuses what could not be held, now that the ceilings are in the key:
// limits in tokens or dollars, its own or of its role, where the upstream does not
// tell its use, and a bound of one request in dollars that nobody counts.
func (l *Limiter) meterable(key *Key, unmetered bool) error {
	budget := NoLimits()
	if role := l.policy(key.Role); role != nil {
		budget = role.Budget.Limit
	}
	if unmetered && (key.Limit.Metered() || budget.Metered()) {
		return invalid("upstream", "must be one with a preset, because role %s limits tokens or dollars, and nothing is known of how %s reports its use", key.Role, key.Upstream)
	}
	if key.MaxRequestSpend > 0 && key.Limit[Nanodollars] == NoLimit && budget[Nanodollars] == NoLimit {
		return invalid("max_request_spend_usd", "needs max_spend_usd")
	}
	return nil
}

// writeNew writes a new key with what leads to it, and says so in the audit log.
func writeNew(b *batch, by Caller, key *Key, acct *accountRecord, birth Birth) error {
	if _, err := b.Get(lookupKey(birth.Lookup)); !errors.Is(err, store.ErrNotFound) {
		return errors.Join(errors.New("this key string is taken"), err)
	}
	if !birth.Salt.IsZero() {
		if err := b.Set(saltKey(key.ID), []byte(birth.Salt.Reveal())); err != nil {
			return err
		}
	}
	return errors.Join(writeKey(b, nil, key, acct, by.entry(ActKeyCreate, key.ID, changes(nil, key))),
		b.tell(Event{Name: KeyCreated, Key: key, By: by.Name}))
}
