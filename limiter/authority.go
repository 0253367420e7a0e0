package limiter

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/till-proxy/till/limiter/access"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// authority decides what callers may do and see, from the configured roles, and counts
// the attempts that it refuses. It knows no key but the one that it is asked about.
type authority struct {
	configured atomic.Pointer[map[string]record.Role] // as configured; replaced, never changed
	attempts   *access.Attempts
}

// policies are the configured roles, by name.
func (a *authority) policies() map[string]record.Role {
	if roles := a.configured.Load(); roles != nil {
		return *roles
	}
	return nil // at start
}

// policy returns a configured role, or nil.
func (a *authority) policy(name string) *record.Role {
	if role, ok := a.policies()[name]; ok {
		return &role
	}
	return nil
}

// roleNames are the names of the configured roles, sorted.
func (a *authority) roleNames() []string { return slices.Sorted(maps.Keys(a.policies())) }

// Allows reports whether the caller has a permission at all.
func (a *authority) Allows(by Caller, p record.Permission) bool {
	if by.Role == record.OperatorRole {
		return true
	}
	if by.holder != "" {
		return p == record.KeysRead || p == record.KeysRevoke
	}
	role := a.policy(by.Role)
	return role != nil && p != record.Everything && slices.Contains(role.Permissions, p)
}

// Sees reports whether the caller may know that a key exists.
func (a *authority) Sees(by Caller, key *record.Key) bool {
	if by.Role == record.OperatorRole {
		return true
	}
	if by.holder != "" {
		return key.ID == by.holder
	}
	role := a.policy(by.Role)
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

// seesAll reports whether no key is hidden from the caller.
func (a *authority) seesAll(by Caller) bool {
	if by.Role == record.OperatorRole {
		return true
	}
	role := a.policy(by.Role)
	return role != nil && role.Sees == record.SeesAll
}

// seesToken is Sees for tokens. A caller's own tokens are the one it has and
// those that were made with it.
func (a *authority) seesToken(by Caller, t *record.AdminToken) bool {
	role := a.policy(by.Role)
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

// SeesReason reports whether a caller may see who set a lockdown, and why: it has
// to see every key or every act. All others see that there is one, and holders of
// keys see the reason in each refusal.
func (a *authority) SeesReason(by Caller) bool {
	return a.seesAll(by) && (a.Allows(by, record.KeysRead) || a.Allows(by, record.AuditRead))
}

// Authorise decides whether a caller may do something that is done outside this
// package. Refusals are reported to the audit log.
func (a *authority) Authorise(by Caller, p record.Permission) error { return a.authorise(by, p, nil) }

// authorise decides whether a caller may do something to that key (nil: to none
// in particular). The permission is checked first, so that a caller without
// it does not learn which keys exist.
func (a *authority) authorise(by Caller, p record.Permission, key *record.Key) error {
	if !a.Allows(by, p) {
		return a.noted(by, a.forbidden(by, p))
	}
	if key != nil && !a.Sees(by, key) {
		return a.noted(by, &attemptError{store.ErrNotFound, string(p) + " on a key out of sight"})
	}
	return nil
}

// forbidden is the error for a caller without a permission.
func (a *authority) forbidden(by Caller, p record.Permission) error {
	why := onlyOperator(by)
	switch role := a.policy(by.Role); {
	case by.holder != "":
		why = fmt.Errorf("%w: the holder of a key may look at it and revoke it", ErrForbidden)
	case by.Role == "" || role == nil:
		why = fmt.Errorf("%w: the role %q of %s is not configured now", ErrForbidden, by.Role, by.Name)
	case p != record.Everything:
		why = fmt.Errorf("%w: %s needs the permission %s; its role %s has: %s", ErrForbidden, by.Name, p, by.Role, cmp.Or(strings.Trim(fmt.Sprint(role.Permissions), "[]"), "none"))
	}
	return &attemptError{why, string(p)}
}

// onlyOperator admits only the operator. It guards acts on a closed store, for which
// no roles are configured.
func onlyOperator(by Caller) error {
	if by.Role != record.OperatorRole {
		return fmt.Errorf("%w: only the operator may do this", ErrForbidden)
	}
	return nil
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
func (a *authority) noted(by Caller, err error) error {
	var refused *attemptError
	var above *record.CeilingError
	switch {
	case errors.As(err, &refused):
		a.refused(by, refused.what)
	case errors.As(err, &above):
		a.refused(by, above.Field+" above the ceiling of role "+above.Role)
	}
	return err
}

func (a *authority) refused(by Caller, what string) {
	a.attempts.Note(access.Attempt{By: by.Name, From: by.From, Action: audit.ActRefused, What: what})
}
