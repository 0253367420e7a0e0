package limiter

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/till-proxy/till/limiter/access"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
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

// Allows reports whether the caller has a permission at all.
func (l *Limiter) Allows(by Caller, p record.Permission) bool {
	if by.Role == record.OperatorRole {
		return true
	}
	if by.holder != "" {
		return p == record.KeysRead || p == record.KeysRevoke
	}
	role := l.policy(by.Role)
	return role != nil && p != record.Everything && slices.Contains(role.Permissions, p)
}

// Sees reports whether the caller may know that a key exists.
func (l *Limiter) Sees(by Caller, key *record.Key) bool {
	if by.Role == record.OperatorRole {
		return true
	}
	if by.holder != "" {
		return key.ID == by.holder
	}
	role := l.policy(by.Role)
	if role == nil {
		return false
	}
	own := by.Token != "" && key.Token == by.Token
	switch role.Sees {
	case record.SeesAll:
		return true
	case record.SeesRole:
		return own || key.Role == by.Role
	default:
		return own
	}
}

// authorise decides whether a caller may do something, and to that key (nil: to
// none in particular). The permission is checked first, so that a caller without
// it does not learn which keys exist.
func (l *Limiter) authorise(by Caller, p record.Permission, key *record.Key) error {
	if !l.Allows(by, p) {
		return l.noted(by, l.forbidden(by, p))
	}
	if key != nil && !l.Sees(by, key) {
		return l.noted(by, &attemptError{store.ErrNotFound, string(p) + " on a key out of sight"})
	}
	return nil
}

// forbidden is the error for a caller without a permission.
func (l *Limiter) forbidden(by Caller, p record.Permission) error {
	why := onlyOperator(by)
	switch role := l.policy(by.Role); {
	case by.holder != "":
		why = fmt.Errorf("%w: the holder of a key may look at it and revoke it", ErrForbidden)
	case by.Role == "" || role == nil:
		why = fmt.Errorf("%w: the role %q of %s is not configured now", ErrForbidden, by.Role, by.Name)
	case p != record.Everything:
		why = fmt.Errorf("%w: %s needs the permission %s; its role %s has: %s", ErrForbidden, by.Name, p, by.Role, listed(role.Permissions))
	}
	return &attemptError{why, string(p)}
}

func listed(permissions []record.Permission) string {
	if len(permissions) == 0 {
		return "none"
	}
	var names []string
	for _, p := range permissions {
		names = append(names, string(p))
	}
	return strings.Join(names, " ")
}

// Authorise decides whether a caller may do something that is done outside this
// package. Refusals are reported to the audit log.
func (l *Limiter) Authorise(by Caller, p record.Permission) error { return l.authorise(by, p, nil) }

// onlyOperator admits only the operator. It guards what is done to a closed store,
// for which no roles are configured.
func onlyOperator(by Caller) error {
	if by.Role != record.OperatorRole {
		return fmt.Errorf("%w: only the operator may do this", ErrForbidden)
	}
	return nil
}

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

// attemptError refuses an act that a caller is not entitled to; what is the name
// of the act in the audit log.
type attemptError struct {
	error
	what string
}

func (e *attemptError) Unwrap() error { return e.error }

// noted counts an attempt if err is the refusal of one, and returns err. A refusal
// inside a transaction is noted after it, because the transaction may run again.
func (l *Limiter) noted(by Caller, err error) error {
	var refused *attemptError
	var above *record.CeilingError
	switch {
	case errors.As(err, &refused):
		l.refused(by, refused.what)
	case errors.As(err, &above):
		l.refused(by, above.Field+" above the ceiling of role "+above.Role)
	}
	return err
}

func (l *Limiter) refused(by Caller, what string) {
	l.attempts.Note(access.Attempt{By: by.Name, From: by.From, Action: audit.ActRefused, What: what})
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
