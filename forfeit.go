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

// errForfeitShared means that a store is not repaired by one of the nodes that share it.
var errForfeitShared = errors.New("a database that several nodes share is not repaired by one of them: put its newest copy in place, and start the nodes again; see docs/cluster.md")

// forfeit closes a store that is in doubt, repairs it, and opens it.
func (e *engine) forfeit(by limiter.Caller, o storeOptions) (limiter.Repaired, error) {
	var done limiter.Repaired
	if by.Role != record.OperatorRole { // checked before the store is closed
		return done, fmt.Errorf("%w: only the operator repairs the store", limiter.ErrForbidden)
	}
	if e.place.Shared {
		return done, errForfeitShared
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
	e.mu.Unlock()

	err = e.repair(former, by, o, &done)

	e.mu.Lock()
	e.failed, e.nextTry, e.opening = err, time.Time{}, nil
	if err == nil {
		e.failed, e.repaired = errRepaired, true
	}
	close(repaired)
	e.mu.Unlock()
	if err != nil {
		return done, err
	}
	_, err = e.open(o, 0)
	return done, err
}

var errRepaired = errors.New("the store was repaired and is not open yet")

func (e *engine) repair(former *limiter.Limiter, by limiter.Caller, o storeOptions, done *limiter.Repaired) error {
	if former != nil {
		if err := former.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			o.log.Warn("closing the store that is in doubt", "error", err)
		}
	}
	if err := e.claim(); err != nil {
		return err
	}
	s, err := o.open(o.opening())
	if err != nil {
		return err
	}
	*done, err = limiter.Forfeit(s.Store, store.Files{}, by, o.anchorOf(e.place), o.roles, time.Now(), o.log)
	return errors.Join(err, s.Close())
}
