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
	// LeakDead: it was revoked before, or replaced by a rotation, and that is durable.
	LeakDead LeakState = "dead"
	// LeakUnknown: no key and no token has it.
	LeakUnknown LeakState = "unknown"
	// LeakFailed: it is not known to have ended, or that is not durable, because of an error.
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
	case refusal != nil && !k.endedGraceHere(lookup), k.revoked() && !k.stoppedHere():
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
