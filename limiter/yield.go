package limiter

import "fmt"

// couldMint judges an act that gives a caller a working key, or lets one do more
// than it could: a rotation, a grant, a change that widens, the end of somebody
// else's stop. Whoever is not the operator may do that to keys that they could
// have minted as they are then. So the whole key is held under the ceilings of
// the caller's own role, and what it lacks is not filled in but refused: it has
// a holder, whose key would change without a word.
func (l *Limiter) couldMint(by Caller, key *Key) error {
	if by.Role == OperatorRole {
		return nil
	}
	role := l.policy(by.Role)
	if role == nil {
		return l.forbidden(by, KeysCreate)
	}
	as := key.clone()
	err := role.hold(by.Role, false, nil, as)
	if err == nil {
		err = role.lacks(by.Role, key, as)
	}
	if err == nil {
		err = l.counts(role, by.Role, key)
	}
	return err
}

// lacks says which ceiling a mint would have given a key that has none there.
// as is what that mint would have made of it.
func (r *Role) lacks(name string, key, as *Key) error {
	for _, f := range KeyFields {
		if f.lacks != nil && f.Fact(key) == nil && f.Fact(as) != nil {
			return &CeilingError{Field: f.Name, Role: name, Msg: f.lacks(as)}
		}
	}
	return nil
}

// counts refuses a key whose use no budget counts that is within the role's own:
// one that the role's callers minted would be counted.
func (l *Limiter) counts(r *Role, name string, key *Key) error {
	if key.Role == name || r.Budget.Limit == NoLimits() {
		return nil
	}
	theirs := NewRole()
	if role := l.policy(key.Role); role != nil {
		theirs = *role
	}
	for _, kind := range LimitKinds {
		if exceeds(theirs.Budget.Limit[kind], r.Budget.Limit[kind]) {
			return &CeilingError{Field: "budget", Role: name, Msg: fmt.Sprintf("of %s in all does not count the key", kind.Format(r.Budget.Limit[kind]))}
		}
	}
	if theirs.Budget.Renews != "" && theirs.Budget.Renews != r.Budget.Renews {
		return &CeilingError{Field: "budget", Role: name, Msg: fmt.Sprintf("does not count the key, and that of its role renews by the %s", theirs.Budget.Renews)}
	}
	return nil
}

// widens reports whether a change lets a key do more than it could.
func (k *Key) widens(old *Key) bool {
	for _, f := range KeyFields {
		if f.widens != nil && f.widens(k, old) || f.widens == nil && f.beyond(k, old) != "" {
			return true
		}
	}
	return false
}
