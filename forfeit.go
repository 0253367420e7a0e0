package till

import (
	"errors"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

var errInOrder = errors.New("the store is in order: there is nothing to repair")

// forfeit closes a store that is in doubt, repairs it, and opens it. Where several nodes
// share it, the others open it again by themselves. With imagine it only says what
// would be done.
func (e *engine) forfeit(by limiter.Caller, o storeOptions, imagine bool) (limiter.Repaired, error) {
	var done limiter.Repaired
	if by.Role != record.OperatorRole { // checked before the store is closed
		return done, fmt.Errorf("%w: only the operator repairs the store", limiter.ErrForbidden)
	}
	if _, err := e.open(o, 0); err != nil && !errors.Is(err, store.ErrDoubt) {
		return done, err
	}
	e.mu.Lock()
	_ = e.wait(0) // without a time limit there is no error
	former, err := e.limiter, e.failure()
	if !errors.Is(err, store.ErrDoubt) {
		e.mu.Unlock()
		return done, errors.Join(errInOrder, err)
	}
	repaired := make(chan struct{})
	e.opening = repaired
	doubted, was := err, e.failed
	e.mu.Unlock()

	if e.place.Shared {
		err = e.repairShared(former, by, o, imagine, store.Reason(doubted), &done)
	} else {
		err = e.repair(former, by, o, imagine, &done)
	}

	e.mu.Lock()
	e.failed, e.nextTry, e.opening = err, time.Time{}, nil
	switch {
	case imagine, err != nil && !e.place.Shared:
		// The doubt stands. Opening the store again would not find a doubt that arose while
		// it was in use.
		e.failed = was
	case err != nil && e.halted != nil:
		e.failed = e.halted // until it is restarted
	case err == nil:
		e.failed, e.repaired, e.halted = errRepaired, true, nil
	}
	close(repaired)
	if e.closed { // Destruct did not wait for it
		if err := e.shut(former); err != nil {
			o.log.Warn("closing a store whose repair took too long", "error", err)
		}
	}
	e.mu.Unlock()
	if err != nil || imagine {
		return done, err
	}
	_, err = e.open(o, 0)
	return done, err
}

var errRepaired = errors.New("the store was repaired and is not open yet")

// closeDoubted closes a store that is in doubt.
func (e *engine) closeDoubted(former *limiter.Limiter, o storeOptions) error {
	if former != nil {
		if err := former.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			o.log.Warn("closing the store that is in doubt", "error", err)
		}
	}
	return e.claim()
}

func (e *engine) repair(former *limiter.Limiter, by limiter.Caller, o storeOptions, imagine bool, done *limiter.Repaired) error {
	if err := e.closeDoubted(former, o); err != nil {
		return err
	}
	s, err := o.open(o.opening())
	if err != nil {
		return err
	}
	if imagine {
		*done, err = limiter.ImagineForfeit(s.Store, by, o.roles, time.Now())
	} else {
		*done, err = limiter.Forfeit(limiter.Offline{Store: s.Store, Anchor: o.anchorOf(e.place), Now: time.Now(), Logger: o.log}, by, o.roles)
	}
	return errors.Join(err, s.Close())
}

var errNotRepairable = errors.New("this store cannot be repaired while nodes share it")

// repairShared repairs a store that nodes share, or only says what would be done. The
// other nodes may not have found the reason for which this one doubts it: then why
// states it.
func (e *engine) repairShared(former *limiter.Limiter, by limiter.Caller, o storeOptions, imagine bool, why string, done *limiter.Repaired) error {
	if o.doubted == nil {
		return errNotRepairable
	}
	if !imagine { // otherwise the store goes on checking whether the reason is gone
		if err := e.closeDoubted(former, o); err != nil {
			return err
		}
	}
	s, clock, err := o.doubted(o.opening(), why, imagine)
	if err != nil {
		return err
	}
	now, _ := clock.Now()
	if imagine {
		*done, err = limiter.ImagineForfeit(s, by, o.roles, now)
	} else {
		*done, err = limiter.ForfeitShared(s, by, o.roles, now, o.log)
	}
	return errors.Join(err, s.Close())
}
