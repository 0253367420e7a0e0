package till

import (
	"errors"
	"slices"
	"time"
)

// The settings of a configuration that concern an open store (roles, webhooks, how long
// things are kept) are put into force when the configuration starts; those of the last
// start apply. A configuration that fails to start leaves the previous one running, so
// its settings are put into force again.

// configuration is a configuration as the engine sees it.
type configuration interface {
	// putInForce applies its settings to the store, its events and webhooks.
	putInForce() error
	// storeOptions are its settings for opening the store.
	storeOptions() storeOptions
}

// enter puts a configuration into force. Caddy starts and stops one at a time.
func (e *engine) enter(c configuration) error {
	err := c.putInForce()
	e.mu.Lock()
	before := e.inForce()
	if err == nil {
		e.running = append(e.running, c)
		e.startKeeping()
	}
	e.mu.Unlock()
	if err != nil {
		e.restore(before)
	}
	return err
}

// leave takes a configuration out of force: the next one has taken over, or it never
// ran and the previous one goes on.
func (e *engine) leave(c configuration) {
	e.mu.Lock()
	was := e.inForce() == c
	e.running = slices.DeleteFunc(e.running, func(other configuration) bool { return other == c })
	before := e.inForce()
	e.mu.Unlock()
	switch {
	case !was:
	case before == nil:
		e.events.sink.Store(nil)
	default:
		e.restore(before)
	}
}

// inForce returns the configuration in force, or nil. The caller holds e.mu.
func (e *engine) inForce() configuration {
	if n := len(e.running); n > 0 {
		return e.running[n-1]
	}
	return nil
}

// restore puts the previous configuration into force, if there was one.
func (e *engine) restore(before configuration) {
	if before == nil {
		return
	}
	if err := before.putInForce(); err != nil {
		e.log.logger().Error("the previous configuration could not be put into force again: reload it", "error", err)
	}
}

// putInForce implements configuration.
func (a *App) putInForce() error {
	a.engine.log.follow(a.slogger)
	if err := a.engine.reconnect(a.storeOptions()); err != nil {
		return err
	}
	l, err := a.awaitLimiter(startingTime)
	if err == nil {
		err = a.engine.checkAnchor(a.storeOptions())
	}
	if err == nil {
		l.KeepAudit(time.Duration(a.AuditRetain))
		l.Retain(time.Duration(a.Retain))
		l.SetStale(time.Duration(a.StaleAfter), a.StaleRevoke)
		err = errors.Join(l.SetRoles(a.roles), l.Outbox().SetHooks(a.limiterHooks()))
	}
	if misconfigured(err) && !a.engine.place.Shared { // others may be at work on a database
		return err
	}
	a.engine.announce(a.storeOptions())
	a.engine.events.sink.Store(a.sink)
	a.engine.hooks.Set(a.hooks, a.slogger)
	if err != nil {
		// The disk is full or failing, or the store is in doubt: the rest of Caddy goes
		// on, the management API answers, and the store is opened once that is
		// possible.
		a.slogger.Error("the store stays closed: every key is refused", "error", err)
	}
	return nil
}

// Interface guard
var _ configuration = (*App)(nil)
