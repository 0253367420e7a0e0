package limiter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

const (
	// maxTokens bounds the tokens that are kept, all of them in memory.
	maxTokens = 10_000
	// keepTokens is how long ended tokens stay listed, and their names taken.
	keepTokens = 90 * 24 * time.Hour
)

// The errors of authentication.
var (
	// ErrToken says that no living token has this string.
	ErrToken = errors.New("this admin token is not known here, or has expired or was revoked")
	// ErrAttempts says that too many unknown tokens came from the address.
	ErrAttempts = errors.New("too many unknown admin tokens came from this address: wait a minute")
)

// tokens are all admin tokens.
type tokens struct {
	mu       sync.RWMutex
	byLookup map[token.Lookup]*liveToken
	byID     map[string]*liveToken
}

type liveToken struct {
	rec  *record.AdminToken // replaced, never changed
	used atomic.Int64
}

func (t *tokens) put(rec *record.AdminToken) {
	t.mu.Lock()
	defer t.mu.Unlock()
	live := t.byID[rec.ID]
	if live == nil {
		live = new(liveToken)
		t.byID[rec.ID], t.byLookup[rec.Lookup] = live, live
	}
	live.usedAt(nanosOf(rec.LastUsedAt))
	live.rec = rec
}

// usedAt notes a use, perhaps on another node.
func (l *liveToken) usedAt(nanos int64) {
	for used := l.used.Load(); used < nanos && !l.used.CompareAndSwap(used, nanos); {
		used = l.used.Load()
	}
}

// active reports whether a token is known and works.
func (t *tokens) active(id string, now time.Time) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	live := t.byID[id]
	return live != nil && live.rec.Status(now) == record.Active
}

func (t *tokens) drop(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if live := t.byID[id]; live != nil {
		delete(t.byID, id)
		delete(t.byLookup, live.rec.Lookup)
	}
}

// all returns the records with their last use, the newest first.
func (t *tokens) all() []record.AdminToken {
	t.mu.RLock()
	defer t.mu.RUnlock()
	list := make([]record.AdminToken, 0, len(t.byID))
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(t.byID))) {
		list = append(list, t.byID[id].now())
	}
	return list
}

func (l *liveToken) now() record.AdminToken {
	rec := *l.rec
	rec.LastUsedAt = record.FromNanos(l.used.Load())
	return rec
}

func (t *tokens) get(id string) (record.AdminToken, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	live := t.byID[id]
	if live == nil {
		return record.AdminToken{}, false
	}
	return live.now(), true
}

// readTokens loads all tokens.
func (l *Limiter) readTokens() error {
	l.tokens.byLookup, l.tokens.byID = make(map[token.Lookup]*liveToken), make(map[string]*liveToken)
	return l.store.View(func(r store.Reader) error { return record.EachToken(r, l.tokens.put) })
}

// token returns a token by its id, also one that another node has just made.
func (l *Limiter) token(id string) (t record.AdminToken, ok bool, err error) {
	if t, ok = l.tokens.get(id); ok || l.shared == nil {
		return t, ok, nil
	}
	if err := l.followTokens([]string{id}); err != nil {
		return t, false, err
	}
	t, ok = l.tokens.get(id)
	return t, ok, nil
}

// Authenticate returns the caller that an admin token stands for. Unknown tokens
// are limited per address, and reported in the audit log once a minute.
func (l *Limiter) Authenticate(_ context.Context, text, from string) (Caller, error) {
	if err := l.fresh(); err != nil { // it could have been revoked on another node
		return Caller{}, err
	}
	now := l.clock.Now()
	lookup, err := token.ParseAdmin(text)
	if err == nil {
		l.tokens.mu.RLock()
		live := l.tokens.byLookup[lookup]
		var rec *record.AdminToken
		if live != nil {
			rec = live.rec
		}
		l.tokens.mu.RUnlock()
		if rec != nil && rec.Status(now) == record.Active {
			live.usedAt(now.UnixNano())
			return Caller{Name: rec.Name, Token: rec.ID, Role: rec.Role, From: from}, nil
		}
	}
	by := Caller{Name: unknownCaller, From: network(from)}
	if !l.attempts.note(l, by, audit.ActTokenRefused, "") {
		return Caller{}, ErrAttempts
	}
	return Caller{}, ErrToken
}

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
func (l *Limiter) CreateToken(_ context.Context, by Caller, spec TokenSpec) (record.AdminToken, error) {
	if err := l.authorise(by, record.TokensManage, nil); err != nil {
		return record.AdminToken{}, err
	}
	now := l.clock.Now().UTC()
	if err := l.tokenSpec(by, &spec, now); err != nil {
		if errors.Is(err, ErrForbidden) {
			l.attempts.note(l, by, audit.ActRefused, "a token with the role "+spec.Role)
		}
		return record.AdminToken{}, err
	}
	id, err := ulid.New(ulid.Timestamp(now), ulid.DefaultEntropy())
	if err != nil {
		return record.AdminToken{}, fmt.Errorf("making an id: %w", err)
	}
	rec := &record.AdminToken{
		ID: record.TokenIDPrefix + id.String(), Lookup: spec.Lookup, Name: spec.Name, Role: spec.Role, Token: by.Token,
		CreatedAt: now, CreatedBy: by.Name, ExpiresAt: spec.ExpiresAt,
	}
	var old []record.AdminToken
	err = l.committer.Do(func(b *batch) (err error) {
		all := l.tokens.all()
		if b.Shared() {
			all = nil
			if err := record.EachToken(b, func(rec *record.AdminToken) { all = append(all, *rec) }); err != nil {
				return err
			}
		}
		if old, err = makeRoom(all, rec, now); err != nil {
			return err
		}
		for _, t := range old {
			if err := errors.Join(b.Delete(record.TokenKey(t.ID)), b.Delete(record.TokenNameKey(t.Name))); err != nil {
				return err
			}
		}
		if _, err := b.Get(record.TokenNameKey(rec.Name)); err == nil {
			return record.Invalid("name", "must be one that no other token has, got %q", rec.Name)
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return errors.Join(b.Set(record.TokenNameKey(rec.Name), []byte(rec.ID)), rec.Write(b),
			b.emit(event.Event{Name: event.TokenCreated, Token: rec, By: by.Name}),
			b.audit(by.entry(audit.ActTokenCreate, rec.ID, record.Deltas(nil, rec.Facts(now)))))
	}, func() {
		for i := range old {
			l.tokens.drop(old[i].ID)
		}
		l.tokens.put(rec)
	})
	if err != nil {
		return record.AdminToken{}, err
	}
	l.log.Info("admin token created", "token_id", rec.ID, "name", rec.Name, "role", rec.Role, "by", by.Name)
	made := *rec
	made.Pending = l.Pending() // it works everywhere once it is shown
	return made, nil
}

// makeRoom checks a new token against all that there are, and returns those that make
// room for it.
func makeRoom(all []record.AdminToken, t *record.AdminToken, now time.Time) (old []record.AdminToken, err error) {
	for _, other := range all {
		if ended := latest(other.RevokedAt, other.ExpiresAt); other.Status(now) != record.Active && now.Sub(ended) > keepTokens {
			old = append(old, other)
		} else if other.Name != t.Name && skeleton(other.Name) == skeleton(t.Name) {
			return nil, record.Invalid("name", "must not look like that of another token, got %+q", t.Name)
		}
	}
	if len(all)-len(old) >= maxTokens {
		return nil, record.Invalid("tokens:", "there are %d, and no more are kept: ended ones make room after 90 days", maxTokens)
	}
	return old, nil
}

func latest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// tokenSpec checks what a caller wants, and fills in what is left out.
func (l *Limiter) tokenSpec(by Caller, spec *TokenSpec, now time.Time) error {
	if err := validTokenName(spec.Name); err != nil {
		return err
	}
	switch {
	case spec.Role == "":
		return record.Invalid("role", "must name a configured role")
	case spec.Role == record.OperatorRole && by.Role != record.OperatorRole:
		return fmt.Errorf("%w: only the operator gives the role %q", ErrForbidden, record.OperatorRole)
	case spec.Role != record.OperatorRole && l.policy(spec.Role) == nil:
		return record.Invalid("role", "must name a configured role, got %q; there are: %s", spec.Role, l.roleNames())
	case !spec.ExpiresAt.IsZero() && !spec.ExpiresAt.After(now):
		return record.Invalid("expires_at", "must be in the future, got %s", record.Stamp(spec.ExpiresAt))
	}
	if by.Role == record.OperatorRole {
		return nil
	}
	if err := l.within(spec.Role, by.Role); err != nil {
		return err
	}
	if own, ok := l.tokens.get(by.Token); ok && !own.ExpiresAt.IsZero() {
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
func (l *Limiter) ListTokens(_ context.Context, by Caller) ([]record.AdminToken, error) {
	if err := l.authorise(by, record.TokensManage, nil); err != nil {
		return nil, err
	}
	all := l.tokens.all()
	return slices.DeleteFunc(all, func(t record.AdminToken) bool { return !l.seesToken(by, &t) }), nil
}

// seesToken is Sees for tokens. A caller's own tokens are the one it has and
// those that were made with it.
func (l *Limiter) seesToken(by Caller, t *record.AdminToken) bool {
	role := l.policy(by.Role)
	switch {
	case by.Role == record.OperatorRole:
		return true
	case role == nil || by.Token == "":
		return false
	case t.ID == by.Token || t.Token == by.Token:
		return true
	}
	return role.Sees == record.SeesAll || role.Sees == record.SeesRole && t.Role == by.Role
}

// RevokeToken ends an admin token for ever. Revoking twice changes nothing.
func (l *Limiter) RevokeToken(_ context.Context, by Caller, id string) (record.AdminToken, error) {
	if err := l.authorise(by, record.TokensManage, nil); err != nil {
		return record.AdminToken{}, err
	}
	seen, ok, err := l.token(id)
	if err != nil {
		return record.AdminToken{}, err
	}
	if !ok || !l.seesToken(by, &seen) {
		return record.AdminToken{}, store.ErrNotFound
	}
	if by.Role != record.OperatorRole && seen.ID != by.Token && seen.Token != by.Token {
		if err := l.within(seen.Role, by.Role); err != nil {
			return record.AdminToken{}, err
		}
	}
	if err := l.endToken(by, audit.ActTokenRevoke, id); err != nil {
		return record.AdminToken{}, err
	}
	pending := l.Pending()
	done, _ := l.tokens.get(id)
	done.Pending = pending
	return done, nil
}

// endToken ends a token on behalf of a caller that is entitled to do so.
func (l *Limiter) endToken(by Caller, action, id string) error {
	now := l.clock.Now().UTC()
	var rec *record.AdminToken
	err := l.committer.Do(func(b *batch) error {
		before, err := record.ReadToken(b, id)
		if err != nil {
			return err
		}
		after := *before
		rec = &after
		if !before.RevokedAt.IsZero() {
			return nil
		}
		after.RevokedAt = now
		if action == ActTokenLeak {
			err = b.emit(event.Event{Name: event.KeyLeaked, Token: rec, By: by.Name})
		}
		return errors.Join(err, rec.Write(b), b.audit(by.entry(action, id, record.Deltas(before.Facts(now), after.Facts(now)))))
	}, func() { l.tokens.put(rec) })
	if err == nil {
		l.log.Info("admin token revoked", "token_id", id, "name", rec.Name, "by", by.Name)
	}
	return err
}

// saveTokens makes the last use of each token durable.
func (l *Limiter) saveTokens() error {
	changed := l.tokens.all()
	l.tokens.mu.RLock()
	changed = slices.DeleteFunc(changed, func(t record.AdminToken) bool {
		live := l.tokens.byID[t.ID]
		return live == nil || !t.LastUsedAt.After(live.rec.LastUsedAt)
	})
	l.tokens.mu.RUnlock()
	if len(changed) == 0 {
		return nil
	}
	saved := make([]*record.AdminToken, 0, len(changed))
	return l.committer.Do(func(b *batch) error {
		saved = saved[:0]
		for _, t := range changed {
			rec, err := record.ReadToken(b, t.ID)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if !t.LastUsedAt.After(rec.LastUsedAt) {
				continue // it was used later on another node
			}
			rec.LastUsedAt = t.LastUsedAt
			if err := rec.Write(b); err != nil {
				return err
			}
			saved = append(saved, rec)
		}
		return nil
	}, func() {
		for _, rec := range saved {
			l.tokens.put(rec)
		}
	})
}
