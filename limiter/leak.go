package limiter

import (
	"context"
	"errors"
	"fmt"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// LeakState says what became of a string that was found in a leak.
type LeakState string

const (
	// LeakRevoked: it worked, or could have worked again, and is now revoked (in a dry
	// run: would be).
	LeakRevoked LeakState = "revoked"
	// LeakGraceEnded: it was a former string of a key, still in its grace, which was
	// ended (in a dry run: would be). The key goes on with its present string.
	LeakGraceEnded LeakState = "grace_ended"
	// LeakDead: it was revoked before, or replaced by a rotation.
	LeakDead LeakState = "dead"
	// LeakUnknown: no key and no token has it.
	LeakUnknown LeakState = "unknown"
	// LeakFailed: it is not known to have ended, because of an error.
	LeakFailed LeakState = "failed"
)

var LeakStates = [...]LeakState{LeakRevoked, LeakGraceEnded, LeakDead, LeakUnknown, LeakFailed}

// Leaked is what happened to one string.
type Leaked struct {
	ID    string // of the key or token; empty where the caller does not see it
	Name  string
	State LeakState
}

// Leak ends the key or token to which a string found in the open belongs, no matter
// whose it is: anyone who has the string can use it. Callers who may see the key learn
// which one it was. A dry run ends nothing.
func (l *Limiter) Leak(ctx context.Context, by Caller, lookup token.Lookup, admin, dryRun bool) (Leaked, error) {
	if err := l.authorise(by, record.KeysRevoke, nil); err != nil {
		return Leaked{}, err
	}
	if admin {
		return l.leakedToken(by, lookup, dryRun)
	}
	k, refusal := l.Find(ctx, lookup)
	switch {
	case refusal != nil && refusal.Code == record.CodeKeyInvalid:
		return Leaked{State: LeakUnknown}, nil
	case refusal != nil:
		return Leaked{}, fmt.Errorf("looking for a key: %s", refusal.Message)
	}
	key := k.Key()
	done := Leaked{State: LeakRevoked}
	if l.Sees(by, key) {
		done.ID, done.Name = key.ID, key.Name
	}
	var err error
	number, refusal := k.numberOf(key, lookup)
	switch {
	case refusal != nil && k.owes() == nil, k.revoked() && !k.stoppedHere():
		done.State = LeakDead
	case refusal != nil: // memory alone has ended its grace
		done.State = LeakGraceEnded
		if !dryRun {
			err = l.endGrace(k, by, lookup)
		}
	case number != key.Rotations:
		done.State = LeakGraceEnded
		if !dryRun {
			err = l.endGrace(k, by, lookup)
		}
	case !dryRun:
		err = l.revokeLeaked(ctx, k, by)
	}
	return done, err
}

func (l *Limiter) revokeLeaked(ctx context.Context, k *Live, by Caller) error {
	id := k.Key().ID
	if _, err := l.halt(by, k, record.CodeKeyRevoked, revoking(by, audit.ActKeyLeak, "its string was found in the open by "+by.Name)); err != nil {
		return err
	}
	l.windUpNow(ctx, by, id)
	l.log.Warn("the string of a key was found in the open, and the key was revoked", "key_id", id, "by", by.Name)
	return nil
}

func (l *Limiter) leakedToken(by Caller, lookup token.Lookup, dryRun bool) (Leaked, error) {
	rec, ok := l.tokens.Find(lookup)
	if !ok {
		return Leaked{State: LeakUnknown}, nil
	}
	done := Leaked{State: LeakRevoked}
	if l.seesToken(by, &rec) {
		done.ID, done.Name = rec.ID, rec.Name
	}
	switch {
	case !rec.RevokedAt.IsZero() && !l.tokenStops.has(rec.ID):
		done.State = LeakDead
		return done, nil
	case dryRun:
		return done, nil
	}
	err := l.endToken(by, audit.ActTokenLeak, rec.ID)
	if errors.Is(err, store.ErrNotFound) { // pruned meanwhile
		return Leaked{State: LeakUnknown}, nil
	}
	if err == nil {
		l.log.Warn("the string of an admin token was found in the open, and the token was revoked", "token_id", rec.ID, "by", by.Name)
	}
	return done, err
}

// endGrace ends the grace of one former string, and cuts the requests that run with it. It
// takes effect in memory at once; an error says that it could not be made durable.
func (l *Limiter) endGrace(k *Live, by Caller, lookup token.Lookup) error {
	now := l.clock.Now().UTC()
	k.mu.Lock()
	id, key := k.key.ID, k.key.Clone()
	if key.EndGrace(lookup, now) {
		k.key = key // without another version, so that it is replaced by any that is durable
	}
	k.mu.Unlock()
	cut, ended := k.cutReplaced(now), false
	err := l.edit(by, audit.ActKeyEndGrace, id, func(key *record.Key, _ *record.Account) error {
		ended = key.EndGrace(lookup, now)
		return nil
	}, func(k *Live) {
		if k.halt == "" {
			k.unsaved = nil
		}
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return err
	case err != nil:
		k.mu.Lock()
		if k.halt == "" { // if it is stopped, so are all of its strings
			k.unsaved = func(l *Limiter) error { return l.redoGrace(id, by, lookup) }
			l.markActive(k)
		}
		k.mu.Unlock()
		return fmt.Errorf("the former string is stopped in memory, but that is not yet durable: %w", err)
	case ended:
		l.log.Info("the grace of a key's former string was ended", "key_id", id, "requests_cut", cut, "by", by.Name)
	}
	return nil
}

// redoGrace makes durable an end of a grace that holds in memory only.
func (l *Limiter) redoGrace(id string, by Caller, lookup token.Lookup) error {
	k, err := l.load(id)
	if err != nil {
		return err
	}
	return l.endGrace(k, by, lookup)
}
