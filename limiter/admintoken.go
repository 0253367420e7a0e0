package limiter

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter/access"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// Authenticate returns the caller that an admin token stands for. Unknown tokens
// are limited per address, and reported in the audit log once a minute.
func (l *Limiter) Authenticate(text, from string) (Caller, error) {
	if err := l.fresh(); err != nil { // it could have been revoked on another node
		return Caller{}, err
	}
	lookup, err := token.ParseAdmin(text)
	if err == nil {
		if known, ok := l.tokens.Find(lookup); ok {
			if rec, ok := l.tokens.Use(known.ID, l.clock.Now()); ok {
				return Caller{Name: rec.Name, Token: rec.ID, Role: rec.Role, From: from}, nil
			}
		}
	}
	if !l.attempts.Note(access.Attempt{By: access.Unknown, From: network(from), Action: audit.ActTokenRefused}) {
		return Caller{}, ErrAttempts
	}
	return Caller{}, ErrToken
}

// Standing returns a caller as it is now, for code that has authenticated it
// before and acts for it again without its token's string. The error is ErrToken if
// the token has ended since. The call counts as a use of the token. A node that has
// lost touch with the others returns ErrStale, because it may have missed the end.
//
// Callers without a token are returned as they are: nothing ends them.
func (l *Limiter) Standing(by Caller) (Caller, error) {
	if by.Token == "" {
		return by, nil
	}
	if err := l.fresh(); err != nil {
		return Caller{}, err
	}
	rec, ok := l.tokens.Use(by.Token, l.clock.Now())
	if !ok {
		return Caller{}, ErrToken
	}
	return Caller{Name: rec.Name, Token: rec.ID, Role: rec.Role, From: by.From}, nil
}

// StandingError says why a caller who was authenticated when a call began is no longer
// entitled to it, or is not known to be, once the whole call has arrived.
type StandingError struct{ Err error }

func (e *StandingError) Error() string { return e.Err.Error() }

func (e *StandingError) Unwrap() error { return e.Err }

// network is what attempts are counted by: the address, or its /64 in IPv6.
func network(from string) string {
	if addr, err := netip.ParseAddr(from); err == nil {
		return pinOf(addr)
	}
	return from
}

// TokenSpec is what an admin token is made from.
type TokenSpec struct {
	Lookup    token.Lookup // hash of its string, which the caller has made
	Name      string
	Role      string
	ExpiresAt time.Time // zero: never
}

// CreateToken makes an admin token. Its role must be within the caller's own,
// and it ends no later than the caller's own token.
func (l *Limiter) CreateToken(by Caller, spec TokenSpec) (record.AdminToken, error) {
	if err := l.authorise(by, record.TokensManage, nil); err != nil {
		return record.AdminToken{}, err
	}
	now := l.clock.Now().UTC()
	if err := l.tokenSpec(by, &spec, now); err != nil {
		if errors.Is(err, ErrForbidden) {
			l.refused(by, "a token with the role "+spec.Role)
		}
		return record.AdminToken{}, err
	}
	id, err := l.ids.next(record.TokenIDPrefix, now)
	if err != nil {
		return record.AdminToken{}, err
	}
	rec := &record.AdminToken{
		ID: id, Lookup: spec.Lookup, Name: spec.Name, Role: spec.Role, Token: by.Token,
		CreatedAt: now, CreatedBy: by.Name, ExpiresAt: spec.ExpiresAt,
	}
	var old []record.AdminToken
	err = l.committer.Do(func(b *batch) (err error) {
		if err := l.stillEntitled(b, by, now); err != nil {
			return err
		}
		if old, err = l.tokens.Add(b.Transaction, rec, now); err != nil {
			return err
		}
		return errors.Join(
			b.emit(event.Event{Name: event.TokenCreated, Token: rec, By: by.Name}),
			b.audit(by.entry(audit.ActTokenCreate, rec.ID, record.Deltas(nil, rec.Facts(now)))))
	}, func() {
		l.tokens.Added(rec, old)
	})
	if err != nil {
		return record.AdminToken{}, err
	}
	l.log.Info("admin token created", "token_id", rec.ID, "name", rec.Name, "role", rec.Role, "by", by.Name)
	made := *rec
	made.Pending = l.Pending() // it works everywhere once it is shown
	return made, nil
}

// stillEntitled returns ErrToken if the caller's own token has ended by the time of this
// transaction. Otherwise a token made just after that end could carry on in its place.
func (l *Limiter) stillEntitled(b *batch, by Caller, now time.Time) error {
	if by.Token == "" {
		return nil
	}
	if own, ok := l.tokens.Get(by.Token); ok && own.Status(now) != record.Active { // perhaps in memory only
		return ErrToken
	}
	own, err := record.ReadToken(b, by.Token)
	if errors.Is(err, store.ErrNotFound) || err == nil && own.Status(now) != record.Active {
		return ErrToken
	}
	return err
}

// tokenSpec checks what a caller wants, and fills in what is left out.
func (l *Limiter) tokenSpec(by Caller, spec *TokenSpec, now time.Time) error {
	if err := cmp.Or(access.ValidName(spec.Name, Operator.Name, itself.Name), record.ValidTime("expires_at", spec.ExpiresAt)); err != nil {
		return err
	}
	switch {
	case spec.Role == "":
		return record.Invalid("role", "must name a configured role")
	case spec.Role == record.OperatorRole && by.Role != record.OperatorRole:
		return fmt.Errorf("%w: only the operator gives the role %q", ErrForbidden, record.OperatorRole)
	case spec.Role != record.OperatorRole && l.policy(spec.Role) == nil:
		return record.Invalid("role", "must name a configured role, got %q; there are: %s", spec.Role, cmp.Or(strings.Join(l.roleNames(), ", "), "none"))
	case !spec.ExpiresAt.IsZero() && !spec.ExpiresAt.After(now):
		return record.Invalid("expires_at", "must be in the future, got %s", record.Stamp(spec.ExpiresAt))
	}
	if by.Role == record.OperatorRole {
		return nil
	}
	if err := l.mayGiveRole(spec.Role, by.Role); err != nil {
		return err
	}
	if own, ok := l.tokens.Get(by.Token); ok && !own.ExpiresAt.IsZero() {
		if spec.ExpiresAt.After(own.ExpiresAt) {
			return record.Invalid("expires_at", "must not be later than that of your own token, %s", record.Stamp(own.ExpiresAt))
		}
		if spec.ExpiresAt.IsZero() {
			spec.ExpiresAt = own.ExpiresAt
		}
	}
	return nil
}

// ListTokens returns the tokens that the caller sees, the newest first.
func (l *Limiter) ListTokens(by Caller) ([]record.AdminToken, error) {
	if err := l.authorise(by, record.TokensManage, nil); err != nil {
		return nil, err
	}
	all := l.tokens.All()
	return slices.DeleteFunc(all, func(t record.AdminToken) bool { return !l.seesToken(by, &t) }), nil
}

// MadeWith returns the working tokens that were made with one of these, directly or through
// others: they do not end with it. The caller must be allowed to manage tokens, and must see
// both that token and the ones returned. Each is returned once, and the given ones never.
func (l *Limiter) MadeWith(by Caller, ids ...string) (made []record.AdminToken) {
	if len(ids) == 0 || !l.Allows(by, record.TokensManage) {
		return nil
	}
	now, all := l.clock.Now(), l.tokens.All()
	with := make(map[string][]*record.AdminToken) // by the token that they were made with
	seen := make(map[string]bool)
	for i := range all {
		if t := &all[i]; t.Token != "" {
			with[t.Token] = append(with[t.Token], t)
		}
	}
	next := make([]string, 0, len(ids))
	for _, id := range ids {
		if t, ok := l.tokens.Get(id); ok && l.seesToken(by, &t) && !seen[id] {
			seen[id], next = true, append(next, id)
		}
	}
	for ; len(next) > 0; next = next[1:] {
		for _, t := range with[next[0]] {
			if seen[t.ID] {
				continue
			}
			seen[t.ID], next = true, append(next, t.ID)
			if t.Status(now) == record.Active && l.seesToken(by, t) {
				made = append(made, *t)
			}
		}
	}
	return made
}

// RevokeToken ends an admin token for ever. It takes effect in memory at once; an error
// says that it could not be made durable. Revoking twice changes nothing.
func (l *Limiter) RevokeToken(by Caller, id string) (record.AdminToken, error) {
	if err := l.authorise(by, record.TokensManage, nil); err != nil {
		return record.AdminToken{}, err
	}
	seen, ok, err := l.tokens.Fetch(id)
	if err != nil {
		return record.AdminToken{}, err
	}
	if !ok {
		return record.AdminToken{}, store.ErrNotFound
	}
	if !l.seesToken(by, &seen) {
		return record.AdminToken{}, l.noted(by, &attemptError{store.ErrNotFound, string(record.TokensManage) + " on a token out of sight"})
	}
	if by.Role != record.OperatorRole && seen.ID != by.Token && seen.Token != by.Token {
		if err := l.mayGiveRole(seen.Role, by.Role); err != nil {
			return record.AdminToken{}, l.noted(by, &attemptError{err, "the end of a token with the role " + seen.Role})
		}
	}
	if err := l.endToken(by, audit.ActTokenRevoke, id); err != nil {
		return record.AdminToken{}, err
	}
	pending := l.Pending()
	done, _ := l.tokens.Get(id)
	done.Pending = pending
	return done, nil
}
