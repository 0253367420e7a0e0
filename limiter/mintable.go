package limiter

import (
	"fmt"

	"github.com/till-proxy/till/limiter/record"
)

// couldMint judges an act that gives a caller a working key, or lets a key do more
// than before: a rotation, a grant, a change that widens, lifting another caller's
// stop. Callers other than the operator may do that only to keys that they could have
// minted as they are afterwards. So the whole key is held to the ceilings of the
// caller's own role, and what it lacks is not filled in but refused: the key has a
// holder, and would change without notice.
func (l *Limiter) couldMint(by Caller, key *record.Key) error {
	if by.Role == record.OperatorRole {
		return nil
	}
	role := l.policy(by.Role)
	if role == nil {
		return l.forbidden(by, record.KeysCreate)
	}
	as := key.Clone()
	err := role.Hold(by.Role, false, nil, as)
	if err == nil {
		err = role.Lacks(by.Role, key, as)
	}
	if err == nil {
		err = l.counts(role, by.Role, key)
	}
	return err
}

// counts refuses a key whose use is not counted by a budget within that of the
// caller's role: a key that the role's callers minted would be counted.
func (l *Limiter) counts(r *record.Role, name string, key *record.Key) error {
	if key.Role == name || r.Budget.Limit == record.NoLimits() {
		return nil
	}
	theirs := record.NewRole()
	if role := l.policy(key.Role); role != nil {
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
