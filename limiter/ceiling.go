package limiter

import (
	"fmt"
	"slices"

	"github.com/till-proxy/till/limiter/record"
)

// ceilings keeps a key under the ceilings of its own role and of the caller's:
// what the key leaves out becomes the ceiling, and what exceeds one is a
// *CeilingError. old is the key before the change, nil for a new one: what does
// not change may stay, even where a ceiling was lowered since. Every act that
// makes a key or changes what it may do calls this; one that hands out or widens
// an existing key calls couldMint, too.
func (a *authority) ceilings(by Caller, old, key *record.Key) error {
	for i, name := range []string{key.Role, by.Role} {
		if name == "" || name == record.OperatorRole || i > 0 && name == key.Role {
			continue
		}
		role := a.policy(name)
		if role == nil {
			continue // its keys are refused, and its callers may do nothing
		}
		if err := role.Hold(name, by.Role == record.OperatorRole, old, key); err != nil {
			return err
		}
	}
	return nil
}

// mayGiveRole returns an error if a caller with the role own may not give the role given,
// because its rights or ceilings are not within those of own.
func (a *authority) mayGiveRole(given, own string) error {
	mine, theirs := a.policy(own), a.policy(given)
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

// couldMint judges an act that gives a caller a working key, or lets a key do more
// than before: a rotation, a grant, a change that widens, lifting another caller's
// stop. Callers other than the operator may do that only to keys that they could have
// minted as they are afterwards. So the whole key is held to the ceilings of the
// caller's own role, and what it lacks is not filled in but refused: the key has a
// holder, and would change without notice.
func (a *authority) couldMint(by Caller, key *record.Key) error {
	if by.Role == record.OperatorRole {
		return nil
	}
	role := a.policy(by.Role)
	if role == nil {
		return a.forbidden(by, record.KeysCreate)
	}
	as := key.Clone()
	err := role.Hold(by.Role, false, nil, as)
	if err == nil {
		err = role.Lacks(by.Role, key, as)
	}
	if err == nil {
		err = a.counts(role, by.Role, key)
	}
	return err
}

// counts refuses a key whose use is not counted by a budget within that of the
// caller's role: a key that the role's callers minted would be counted.
func (a *authority) counts(r *record.Role, name string, key *record.Key) error {
	if key.Role == name || r.Budget.Limit == record.NoLimits() {
		return nil
	}
	theirs := record.NewRole()
	if role := a.policy(key.Role); role != nil {
		theirs = *role
	}
	for _, kind := range record.LimitKinds {
		if record.Exceeds(theirs.Budget.Limit[kind], r.Budget.Limit[kind]) {
			return &record.CeilingError{Field: "budget", Role: name, Msg: fmt.Sprintf("of %s in all does not count the key", kind.Format(r.Budget.Limit[kind]))}
		}
	}
	if theirs.Budget.Renews != "" && theirs.Budget.Renews != r.Budget.Renews {
		return &record.CeilingError{Field: "budget", Role: name, Msg: fmt.Sprintf("does not count the key, and that of its role renews by the %s", theirs.Budget.Renews)}
	}
	return nil
}
