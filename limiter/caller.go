package limiter

import (
	"errors"
	"fmt"

	"github.com/till-proxy/till/limiter/access"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
)

// Caller is the one who requests an administrative act. Every such act of this
// package takes a Caller and is authorised here, however it came.
type Caller struct {
	// Name is what created_by, the audit log and the logs say: "operator" for a
	// caller on the management socket, otherwise the name of a token, or the id
	// of the key that the caller holds.
	Name string
	// Token is the id of the caller's admin token; empty for others.
	Token string
	// Role decides what the caller may do. A role that is not configured may
	// do nothing.
	Role string
	// From is the address that the caller came from, as text.
	From string

	holder string // id of the key that the caller holds
	once   *Once  // the caller's next act is done only once
}

var (
	// Operator is the caller behind Caddy's admin endpoint or till's own socket.
	Operator = Caller{Name: record.OperatorName, Role: record.OperatorRole}
	// itself is the caller of what a key's own rules bring about.
	itself = Caller{Name: "till", Role: record.OperatorRole}
)

// At returns the caller as it came from an address.
func (c Caller) At(address string) Caller {
	c.From = address
	return c
}

// Holder is the caller who holds a key's string.
func Holder(key *record.Key, from string) Caller {
	return Caller{Name: key.ID, From: from, holder: key.ID}
}

// ErrForbidden is wrapped by the answer to a caller whose role does not give it
// the permission.
var ErrForbidden = errors.New("not permitted")

// reach returns a key on which the caller has the permission.
func (l *Limiter) reach(by Caller, p record.Permission, id string) (*Live, error) {
	if err := l.authorise(by, p, nil); err != nil {
		return nil, err
	}
	k, err := l.load(id)
	if err != nil {
		return nil, err
	}
	if err := l.authorise(by, p, k.Key()); err != nil {
		return nil, err
	}
	if by.holder != "" && p == record.KeysRevoke && !k.View().SelfRevoke {
		return nil, fmt.Errorf("%w: the key may not be revoked by its holder", ErrForbidden)
	}
	return k, nil
}

// entry is an act of the caller, for [batch.audit].
func (c Caller) entry(action, key string, changes map[string]record.Delta) *act {
	return &act{audit.Entry{Actor: c.Name, From: c.From, Action: action, Key: key, Changes: changes}, c.once}
}

// reportAttempts writes attempts into the audit log.
func (l *Limiter) reportAttempts(at access.Attempt, n int64) {
	changes := map[string]record.Delta{"attempts": {Before: nil, After: n}}
	if at.What != "" {
		changes["refused"] = record.Delta{Before: nil, After: at.What}
	}
	entry := Caller{Name: at.By, From: at.From}.entry(at.Action, "", changes)
	l.committer.Submit(func(b *batch) error { return b.audit(entry) }, func(err error) {
		if err != nil {
			l.complain("a refused attempt is not in the audit log", err, "by", at.By, "from", at.From)
		}
	})
}

// Standing returns a caller as it is now, for code that has authenticated it
// before and acts for it again without its token's string. It is ErrToken if the
// token has ended since. The call counts as a use of the token. A node that has lost
// touch with the others says ErrStale, because it may not know.
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

// StandingError is why a caller who was authenticated when a call began is not entitled
// any more, or is not known to be, once all of it has arrived.
type StandingError struct{ Err error }

func (e *StandingError) Error() string { return e.Err.Error() }

func (e *StandingError) Unwrap() error { return e.Err }
