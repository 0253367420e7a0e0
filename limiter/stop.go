package limiter

import (
	"errors"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// stopper is a caller who suspends a key.
func (a *authority) stopper(by Caller) record.Stopper {
	s := record.Stopper{Name: by.Name, Token: by.Token}
	if by.Role == record.OperatorRole {
		return s
	}
	s.Sees = record.SeesOwn
	if role := a.policy(by.Role); role != nil && role.Sees != "" {
		s.Sees = role.Sees
	}
	return s
}

// mayLift decides whether a caller may let a suspended key work again. Callers who
// could have imposed the stop from above may lift it: the operator any stop, a token
// its own, and a caller who manages keys those of callers that see less. The last of
// these gives others a working key, and so requires what minting it requires.
func (a *authority) mayLift(by Caller, key *record.Key, stop record.Stopper) error {
	switch {
	case by.Role == record.OperatorRole, by.Token != "" && by.Token == stop.Token:
		return nil
	case a.stopper(by).Above(stop) && a.Allows(by, record.KeysUpdate):
		return a.couldMint(by, key)
	}
	why := fmt.Errorf("%w: key %s was suspended by %s: only they can resume it, the operator, or a caller who has %s and a role that sees more than theirs", ErrForbidden, key.ID, stop.Title(), record.KeysUpdate)
	if stop.Rank() == (record.Stopper{}).Rank() {
		why = fmt.Errorf("%w: key %s was suspended by %s, and only the operator resumes it", ErrForbidden, key.ID, stop.Title())
	}
	return &attemptError{why, "the suspension by " + stop.Title()}
}

// mayResume is mayLift for the stop in the record, and for one that is not durable
// yet, which it returns.
func (a *authority) mayResume(by Caller, k *Live, key *record.Key) (halted bool, stop record.Stopper, err error) {
	if !key.SuspendedAt.IsZero() {
		if err := a.mayLift(by, key, key.SuspendedBy); err != nil {
			return false, record.Stopper{}, err
		}
	}
	k.mu.Lock()
	halted, stop = k.halt == record.CodeKeySuspended, k.haltBy
	k.mu.Unlock()
	if halted {
		err = a.mayLift(by, key, stop)
	}
	return halted, stop, err
}

// writeStop writes to the store that a key is stopped, in place of old, unless that
// is already recorded.
type writeStop func(b *batch, old, key *record.Key, acct *record.Account, at time.Time) error

// halt stops a key in memory, cuts its requests and those of its children, and
// makes that durable. It returns how many requests were cut.
func (l *Limiter) halt(by Caller, k *Live, code record.Code, write writeStop) (int, error) {
	id := k.Key().ID
	now := l.clock.Now().UTC()
	k.mu.Lock()
	before := k.halt
	if k.key.EndedStatus != record.Revoked && k.halt != record.CodeKeyRevoked {
		k.halt = code
	}
	refusal := k.stopped(now)
	k.mu.Unlock()
	cut := k.cut(refusal)
	if err := l.recordStop(id, code, now, write); errors.Is(err, ErrRevoked) || errors.Is(err, errUsed) {
		k.mu.Lock()
		k.halt = before
		k.mu.Unlock()
		return cut, err
	} else if err != nil {
		k.mu.Lock()
		if k.halt == code {
			k.unsaved = func(l *Limiter) error { return l.redo(id, code, now, write) }
			l.markActive(k)
		}
		k.mu.Unlock()
		return cut, notDurable("key", err)
	}
	l.log.Info("key stopped", "key_id", id, "code", string(code), "requests_cut", cut, "by", by.Name)
	return cut, nil
}

// stoppedHere reports whether memory has stopped the key and the store does not say so yet.
func (k *Live) stoppedHere() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.halt != ""
}

func notDurable(what string, err error) error {
	return fmt.Errorf("the %s is stopped in memory, but that is not yet durable: %w", what, err)
}

// redo makes durable a stop that holds in memory only.
func (l *Limiter) redo(id string, code record.Code, at time.Time, write writeStop) error {
	k, err := l.load(id)
	if err != nil {
		return err
	}
	err = l.recordStop(id, code, at, write)
	if errors.Is(err, ErrRevoked) { // and so stopped for good
		k.mu.Lock()
		k.halt, k.unsaved = "", nil
		k.mu.Unlock()
		return nil
	}
	return err
}

// redoStops tries again to make durable the stops that hold only in memory, because the
// disk was full. It ends at the first one for which the store takes nothing.
func (l *Limiter) redoStops() {
	for _, k := range l.everyActive() {
		id, err := k.Key().ID, l.redoStop(k)
		if err == nil || l.leaveOut("making durable what was stopped", id, err) {
			continue
		}
		l.log.Warn("what was stopped could still not be made durable", "key_id", id, "error", err)
		if l.takesNothing(err) {
			return
		}
	}
}

// redoStop makes durable what holds in memory only: that a key is stopped, and that strings
// of it are.
func (l *Limiter) redoStop(k *Live) error {
	k.mu.Lock()
	redo := k.unsaved
	k.mu.Unlock()
	if redo != nil {
		if err := redo(l); err != nil {
			return err
		}
	}
	return l.recordGraceEnds(k)
}

// takesNothing reports whether the error of a change says that the next one would fail, too.
func (l *Limiter) takesNothing(err error) bool {
	for _, of := range []error{store.ErrNoSpace, store.ErrUnavailable, store.ErrClosed, commit.ErrBusy, commit.ErrOutcome} {
		if errors.Is(err, of) {
			return true
		}
	}
	return l.Failed() != nil
}

// recordStop makes durable that a key is stopped.
func (l *Limiter) recordStop(id string, code record.Code, at time.Time, write writeStop) error {
	return l.rewrite(id, func(b *batch, old, key *record.Key, acct *record.Account) error {
		return write(b, old, key, acct, at)
	}, func(k *Live) {
		if k.halt == code {
			k.halt, k.unsaved = "", nil // from here on the record says so
		}
	})
}
