package limiter

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// Birth is what a mint needs besides the key's own fields.
type Birth struct {
	// Lookup is the hash of the key's string. The caller has made the
	// string; the limiter never sees it.
	Lookup token.Lookup
	// Salt is the salt of a sealed key's box.
	Salt token.Secret
	// Unlimited must be set for a key that nothing ends.
	Unlimited bool
	// Unmetered says that the upstream does not report what requests use, so
	// tokens and dollars cannot be limited there.
	Unmetered bool
}

// Mint makes a key from spec.
func (l *Limiter) Mint(by Caller, spec *record.Key, birth Birth) (View, error) {
	if err := l.authorise(by, record.KeysCreate, nil); err != nil {
		return View{}, err
	}
	spec = spec.Clone()
	if by.Role != record.OperatorRole {
		if spec.Role != "" && spec.Role != by.Role {
			return View{}, l.noted(by, &attemptError{fmt.Errorf("%w: keys of your token have the role %s, not %q", ErrForbidden, by.Role, spec.Role), "a key of another role"})
		}
		spec.Role = by.Role
	}
	born, err := l.newborn(by, by, spec, birth)
	if err != nil {
		return View{}, l.noted(by, err)
	}
	if born.Role != "" {
		a, err := l.role(born.Role)
		if err != nil {
			return View{}, err
		}
		a.mu.Lock()
		absent := a.absent
		a.mu.Unlock()
		if absent {
			return View{}, record.Invalid("role", "must name a configured role, got %q", born.Role)
		}
	}
	var key *record.Key
	var acct record.Account
	err = l.committer.Do(func(b *batch) error {
		key, acct = born.Clone(), record.Account{Limit: born.Limit, Lineage: 1, Epoch: born.Renews.Epoch(born.CreatedAt)}
		return writeNew(b, by, key, &acct, birth)
	}, nil)
	if err != nil {
		return View{}, fmt.Errorf("minting: %w", err)
	}
	l.log.Info("key minted", "key_id", key.ID, "name", key.Name, "upstream", key.Upstream, "by", by.Name)
	// The key is loaded when it is used: a caller that mints many keys uses few
	// at once.
	k := &Live{l: l, key: key}
	k.renews = key.Renews
	k.restore(&acct, &record.Part{Lineage: acct.Lineage}, key.Limit)
	return k.view(l.clock.Now()), nil
}

// newborn is the key that a mint asks for, as far as it can be judged by itself. It is
// held to the ceilings of its own role, and to those of under.
func (l *Limiter) newborn(by, under Caller, spec *record.Key, birth Birth) (*record.Key, error) {
	key := spec.Clone()
	now := l.clock.Now().UTC()
	id, err := l.ids.next(record.IDPrefix, now)
	if err != nil {
		return nil, err
	}
	key.ID, key.Lookup, key.Version = id, birth.Lookup, 1
	key.CreatedAt, key.CreatedBy, key.Token = now, by.Name, by.Token
	key.Charge = cmp.Or(key.Charge, record.ChargeForwarded)
	if sealed := key.Custody == record.CustodySealed; sealed == birth.Salt.IsZero() || sealed == key.SealKey.IsZero() {
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
	key.LimitAttempts()
	if !key.Bounded() && !birth.Unlimited {
		return nil, record.Invalid("limits:", `set at least one of max_activations, max_tokens, max_spend_usd, expires_in or expires_at, or say "unlimited": true`)
	}
	if !key.ExpiresAt.IsZero() && !key.ExpiresAt.After(now) {
		return nil, record.Invalid("expires_at", "must be in the future, got %s", record.Stamp(key.ExpiresAt))
	}
	return key, nil
}

// meterable refuses limits that could not be enforced, now that the ceilings are in
// the key: limits in tokens or dollars, its own or its role's, where the upstream
// does not report its use, and a bound in dollars for one request where dollars are
// not counted.
func (a *authority) meterable(key *record.Key, unmetered bool) error {
	budget := record.NoLimits()
	if role := a.policy(key.Role); role != nil {
		budget = role.Budget.Limit
	}
	if unmetered && (key.Limit.Metered() || budget.Metered()) {
		return record.Invalid("upstream", "must be one with a preset, because role %s limits tokens or dollars, and nothing is known of how %s reports its use", key.Role, key.Upstream)
	}
	if key.MaxRequestSpend > 0 && key.Limit[record.Nanodollars] == record.NoLimit && budget[record.Nanodollars] == record.NoLimit {
		return record.Invalid("max_request_spend_usd", "needs max_spend_usd")
	}
	return nil
}

// writeNew writes a new key with its index entries and its audit entry.
//
// The key may have waited to be written. It is stamped here, so that every key stamped before
// a commit began is committed, which a count relies on.
func writeNew(b *batch, by Caller, key *record.Key, acct *record.Account, birth Birth) error {
	key.CreatedAt = b.clock.Now().UTC()
	if _, err := b.Get(record.LookupKey(birth.Lookup)); !errors.Is(err, store.ErrNotFound) {
		return errors.Join(errors.New("this key string is taken"), err)
	}
	if !birth.Salt.IsZero() {
		if err := b.Set(record.SaltKey(key.ID), []byte(birth.Salt.Reveal())); err != nil {
			return err
		}
	}
	return errors.Join(writeKey(b, nil, key, acct, by.entry(audit.ActKeyCreate, key.ID, record.Changes(nil, key))),
		b.emit(event.Event{Name: event.KeyCreated, Key: key, By: by.Name}))
}
