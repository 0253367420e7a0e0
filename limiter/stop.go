package limiter

import "fmt"

// Stopper is who suspended a key, and what it takes to judge who may lift that.
// The zero value, in records from before this was kept, is the operator.
type Stopper struct {
	Name  string `json:"name"`
	Token string `json:"token,omitempty"` // id of the admin token
	// Sees is what the stopper's role saw. Empty: the operator, or till itself.
	Sees Sight `json:"sees,omitempty"`
}

// stopper is a caller who suspends a key.
func (l *Limiter) stopper(by Caller) Stopper {
	s := Stopper{Name: by.Name, Token: by.Token}
	if by.Role == OperatorRole {
		return s
	}
	s.Sees = SeesOwn
	if role := l.policy(by.Role); role != nil && role.Sees != "" {
		s.Sees = role.Sees
	}
	return s
}

func (s Stopper) rank() int {
	switch s.Sees {
	case SeesOwn:
		return 0
	case SeesRole:
		return 1
	case SeesAll:
		return 2
	}
	return 3
}

// above reports whether somebody sees more keys than another does.
func (s Stopper) above(other Stopper) bool { return s.rank() > other.rank() }

// Title is what the stopper is called.
func (s Stopper) Title() string {
	if s.Name == "" {
		return Operator.Name
	}
	return s.Name
}

// mayLift decides whether a caller may let a key work again that was suspended.
// Who could have imposed a stop from above may lift it: the operator any, a token
// its own, and who manages keys those of callers that see less. The last gives
// others a working key, and so takes what a mint of it takes.
func (l *Limiter) mayLift(by Caller, key *Key, stop Stopper) error {
	switch {
	case by.Role == OperatorRole, by.Token != "" && by.Token == stop.Token:
		return nil
	case l.stopper(by).above(stop) && l.Allows(by, KeysUpdate):
		return l.couldMint(by, key)
	}
	l.attempts.note(l, by, ActRefused, "the suspension by "+stop.Title())
	if stop.rank() == (Stopper{}).rank() {
		return fmt.Errorf("%w: key %s was suspended by %s, and only the operator resumes it", ErrForbidden, key.ID, stop.Title())
	}
	return fmt.Errorf("%w: key %s was suspended by %s: they resume it, the operator, or who has %s and a role that sees more than theirs", ErrForbidden, key.ID, stop.Title(), KeysUpdate)
}

// mayResume is mayLift for the stop that the record tells of, and for one that
// is not durable yet, which it returns.
func (l *Limiter) mayResume(by Caller, k *Live, key *Key) (halted bool, stop Stopper, err error) {
	if !key.SuspendedAt.IsZero() {
		if err := l.mayLift(by, key, key.SuspendedBy); err != nil {
			return false, Stopper{}, err
		}
	}
	k.mu.Lock()
	halted, stop = k.halt == CodeKeySuspended, k.haltBy
	k.mu.Unlock()
	if halted {
		err = l.mayLift(by, key, stop)
	}
	return halted, stop, err
}
