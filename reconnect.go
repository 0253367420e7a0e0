package till

import (
	"errors"
	"fmt"
	"time"
)

// A store on another machine may be reached in another way while it is open: with
// another password, or at another address. It is then opened again with the new one,
// and what runs goes on.

// errNotReached means that a configuration reaches the open store no more.
var errNotReached = errors.New("the store cannot be reached as this configuration says, and stays open as it was")

// errReached means that the store must be opened again because it is reached in another
// way.
var errReached = errors.New("the store is reached in another way and is not open yet")

// reconnect opens the store again if it is reached in another way than when it was
// opened. That is tried before the open store is closed.
func (e *engine) reconnect(o storeOptions) error {
	way := o.wayText()
	e.mu.Lock()
	same := e.opening != nil || e.limiter == nil || e.failed != nil || e.way == way // a store that is closed is opened in the new way
	e.mu.Unlock()
	if same {
		return nil
	}
	tried, err := o.open(o.opening())
	if err == nil {
		err = tried.Close()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNotReached, err)
	}
	e.mu.Lock()
	if e.opening == nil && e.failed == nil {
		e.failed, e.nextTry = errReached, time.Time{}
	}
	e.mu.Unlock()
	_, err = e.open(o, startingTime)
	return err
}

// tell lets the nodes that share the store know what this configuration has.
func (e *engine) tell(o storeOptions) {
	e.mu.Lock()
	opened := e.opened.Store
	e.mu.Unlock()
	listed, ok := opened.(interface{ Describe(string) error })
	if !ok {
		return
	}
	if err := listed.Describe(o.common()); err != nil {
		o.log.Warn("the other nodes do not know yet how this one is configured", "error", err)
	}
}
