package limiter

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/till-proxy/till/limiter/record"
)

// ceilings keeps a key under the ceilings of its own role and of the caller's:
// what the key leaves out becomes the ceiling, and what exceeds one is a
// *CeilingError. old is the key before the change, nil for a new one: what does
// not change may stay, even where a ceiling was lowered since. Every act that
// makes a key or changes what it may do calls this; one that hands out or widens
// an existing key calls couldMint, too.
func (l *Limiter) ceilings(by Caller, old, key *record.Key) error {
	for i, name := range []string{key.Role, by.Role} {
		if name == "" || name == record.OperatorRole || i > 0 && name == key.Role {
			continue
		}
		role := l.policy(name)
		if role == nil {
			continue // its keys are refused, and its callers may do nothing
		}
		if err := role.Hold(name, by.Role == record.OperatorRole, old, key); err != nil {
			return err
		}
	}
	return nil
}

// mayGiveRole is an error if a caller with the role own may not give the role given,
// whose rights or ceilings are not within those of own.
func (l *Limiter) mayGiveRole(given, own string) error {
	mine, theirs := l.policy(own), l.policy(given)
	if mine == nil || theirs == nil {
		return fmt.Errorf("%w: the roles %s and %s are not both configured", ErrForbidden, own, given)
	}
	beyond := func(what string, args ...any) error {
		return fmt.Errorf("%w: role %s has %s, which is not within your role %s", ErrForbidden, given, fmt.Sprintf(what, args...), own)
	}
	for _, p := range theirs.Permissions {
		if !slices.Contains(mine.Permissions, p) {
			return beyond("the permission %s", p)
		}
	}
	if theirs.Sees == record.SeesAll && mine.Sees != record.SeesAll ||
		theirs.Sees == record.SeesRole && mine.Sees != record.SeesAll && (mine.Sees != record.SeesRole || given != own) {
		return beyond("sees %s", theirs.Sees)
	}
	if len(mine.Upstreams) > 0 {
		if len(theirs.Upstreams) == 0 {
			return beyond("every upstream")
		}
		for _, u := range theirs.Upstreams {
			if !slices.Contains(mine.Upstreams, u) {
				return beyond("the upstream %s", u)
			}
		}
	}
	for _, kind := range record.LimitKinds {
		if most := mine.Max[kind]; most > 0 && (theirs.Max[kind] == 0 || theirs.Max[kind] > most) {
			return beyond("a ceiling of %s", kind.LimitField())
		}
		if record.Exceeds(theirs.Budget.Limit[kind], mine.Budget.Limit[kind]) {
			return beyond("a budget of %s", kind)
		}
	}
	if given != own && theirs.Budget.Renews != "" && theirs.Budget.Renews != mine.Budget.Renews && mine.Budget.Limit != record.NoLimits() {
		return beyond("a budget that renews by the %s", theirs.Budget.Renews)
	}
	if mine.MaxLifetime > 0 && (theirs.MaxLifetime == 0 || theirs.MaxLifetime > mine.MaxLifetime) {
		return beyond("a longer max_lifetime")
	}
	if field, _ := theirs.Scope.Beyond(mine.Scope); field != "" {
		return beyond("%s", field)
	}
	return nil
}

func (l *Limiter) roleNames() string {
	l.rolesMu.Lock()
	defer l.rolesMu.Unlock()
	if len(l.configured) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(l.configured)), ", ")
}
