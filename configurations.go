package till

import (
	"slices"
	"time"
)

// What a configuration says about a store that is open already (roles, webhooks,
// how long what is kept) is put into force when the configuration starts, and the
// last word counts. A configuration that fails to start leaves the one before
// running, so what that said is put into force again.

// configuration is one as the engine knows it.
type configuration interface {
	// putInForce has the store, its events and webhooks do as it says.
	putInForce() error
}

// enter puts a configuration into force. Caddy starts and stops one at a time.
func (e *engine) enter(c configuration) error {
	err := c.putInForce()
	e.mu.Lock()
	before := e.inForce()
	if err == nil {
		e.running = append(e.running, c)
	}
	e.mu.Unlock()
	if err != nil {
		e.restore(before)
	}
	return err
}

// leave takes a configuration out of force: the next one has taken over, or it
// never came to run and the one before goes on.
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

// inForce is the configuration in force, or nil. Callers hold the engine.
func (e *engine) inForce() configuration {
	if n := len(e.running); n > 0 {
		return e.running[n-1]
	}
	return nil
}

// restore puts a configuration into force that was before, if there was one.
func (e *engine) restore(before configuration) {
	if before == nil {
		return
	}
	if err := before.putInForce(); err != nil {
		e.log.logger().Error("the configuration before could not be put into force again: reload it", "error", err)
	}
}

// putInForce implements configuration.
func (a *App) putInForce() error {
	a.engine.log.follow(a.slogger)
	l, err := a.awaitLimiter(startingTime)
	if err == nil {
		err = a.engine.checkAnchor(a.storeOptions())
	}
	if err == nil {
		l.KeepAudit(time.Duration(a.AuditRetain))
		l.Retain(time.Duration(a.Retain))
		l.SetStale(time.Duration(a.StaleAfter), a.StaleRevoke)
		err = l.SetRoles(a.roles)
	}
	if err == nil {
		err = l.SetHooks(a.limiterHooks())
	}
	if misconfigured(err) {
		return err
	}
	a.engine.events.sink.Store(a.sink)
	a.engine.hooks.Set(a.hooks, a.slogger)
	if err != nil {
		// A full or failing disk, or one in doubt: the rest of Caddy goes on, the
		// management API answers, and the store is opened once it can be.
		a.slogger.Error("the store stays closed: every key is refused", "error", err)
	}
	return nil
}

// Interface guard
var _ configuration = (*App)(nil)
