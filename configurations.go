package till

import (
	"errors"
	"slices"

	"github.com/till-proxy/till/limiter"
)

// The settings of a configuration that concern an open store (roles, webhooks, how long
// things are kept) are put into force when the configuration starts; those of the last
// start apply. A configuration that fails to start leaves the previous one running, so
// its settings are put into force again. A setting that deletes something for good waits
// until the previous configuration has stopped.

// configuration is a configuration as the engine sees it.
type configuration interface {
	// putInForce applies its settings to the store, its events and webhooks. Beside
	// another that still runs, it deletes nothing that the other one keeps.
	putInForce(beside configuration) error
	// takeOver applies the rest once no other configuration runs any more.
	takeOver()
	// storeOptions are its settings for opening the store.
	storeOptions() storeOptions
}

// enter puts a configuration into force. Caddy starts and stops one at a time.
func (e *engine) enter(c configuration) error {
	e.mu.Lock()
	before := e.inForce()
	e.entering = true
	e.mu.Unlock()
	err := c.putInForce(before)
	e.mu.Lock()
	if e.entering = false; err == nil {
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
	was, ran := e.inForce() == c, slices.Contains(e.running, c)
	e.running = slices.DeleteFunc(e.running, func(other configuration) bool { return other == c })
	now, alone := e.inForce(), len(e.running) == 1
	e.mu.Unlock()
	switch {
	case was && now == nil:
		e.events.sink.Store(nil)
	case was:
		e.restore(now)
	case ran && alone:
		now.takeOver()
	}
}

// inForce returns the configuration in force, or nil. The caller holds e.mu.
func (e *engine) inForce() configuration {
	if n := len(e.running); n > 0 {
		return e.running[n-1]
	}
	return nil
}

// runs reports whether a configuration has been put into force and not left.
func (e *engine) runs(c configuration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Contains(e.running, c)
}

// restore puts the previous configuration into force, if there was one.
func (e *engine) restore(before configuration) {
	if before == nil {
		return
	}
	if err := before.putInForce(nil); err != nil {
		e.log.logger().Error("the previous configuration could not be put into force again: reload it", "error", err)
	}
}

// putInForce implements configuration.
func (a *App) putInForce(beside configuration) error {
	a.engine.log.follow(a.slogger)
	o := a.storeOptions()
	o.enters = true
	if o.mixed = beside != nil; o.mixed {
		o.keepOf(beside.storeOptions())
	}
	restores := a.engine.runs(a) // then everything that can be put into force has to be
	if former, ok := beside.(*App); ok && !restores {
		if err := a.keepSealKeys(former); err != nil {
			return err
		}
	}
	if err := a.engine.reconnect(o); err != nil {
		if !restores {
			return err
		}
		a.slogger.Error("the store stays open as another configuration has opened it", "error", err)
	}
	l, err := a.engine.open(o, startingTime)
	if err == nil {
		if err = a.engine.checkAnchor(o); err == nil || restores {
			err = errors.Join(err, o.apply(l))
		}
	}
	if misconfigured(err) && !restores && !a.engine.place.Shared { // others may be at work on a database
		return err
	}
	a.engine.announce(o)
	a.engine.events.sink.Store(a.sink)
	a.engine.hooks.Set(a.hooks, a.slogger)
	switch {
	case err == nil:
	case l != nil && l.Failed() == nil:
		a.slogger.Error(notAllInForce, "error", err)
	default:
		// The disk is full or failing, or the store is in doubt: the rest of Caddy goes
		// on, the management API answers, and the store is opened once that is
		// possible.
		a.slogger.Error("the store stays closed: every key is refused", "error", err)
	}
	return nil
}

const notAllInForce = "not all settings of this configuration are in force in its store: reload it"

// catchUp applies the settings of the only configuration that still runs to a store that was
// opened with another's, before anybody uses the store; a configuration that enters applies
// its own. The caller holds e.mu, which is also held when catchUp returns, but not in
// between.
func (e *engine) catchUp(l *limiter.Limiter, o storeOptions) {
	for len(e.running) == 1 && !e.entering && !e.closed {
		c := e.running[0]
		if c == o.of && !o.mixed {
			return
		}
		e.mu.Unlock()
		o = c.storeOptions()
		o.of = c
		if err := o.apply(l); err != nil {
			o.log.Error(notAllInForce, "error", err)
		}
		e.mu.Lock()
	}
}

// takeOver implements configuration.
func (a *App) takeOver() {
	l := a.engine.current()
	if l == nil {
		return // it is opened as this configuration says, or catches up
	}
	o := a.storeOptions()
	if err := o.apply(l); err != nil {
		a.slogger.Error(notAllInForce, "error", err)
	}
}

// Interface guard
var _ configuration = (*App)(nil)
