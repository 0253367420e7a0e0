package till

import "time"

// A store that has failed is opened again when somebody asks for it. Where nodes share the
// store, perhaps nobody does: a node that is not ready gets no requests, and not every
// balancer asks whether it is ready again. It may be the node that runs the jobs that one
// node does for all, and the others must not have to wait for those.

// keeper opens the store again without being asked.
type keeper struct {
	stop, stopped chan struct{}
}

// startKeeping lets the store be opened again by itself, if nodes share it, until Destruct.
// The caller holds e.mu.
func (e *engine) startKeeping() {
	if !e.place.Shared || e.keeper != nil || e.closed {
		return
	}
	e.keeper = &keeper{make(chan struct{}), make(chan struct{})}
	go func(k *keeper) {
		defer close(k.stopped)
		due := time.NewTicker(reopenAfter)
		defer due.Stop()
		e.keepOpen(due.C, k.stop)
	}(e.keeper)
}

// stopKeeping ends what startKeeping began. The caller does not hold e.mu.
func (e *engine) stopKeeping() {
	e.mu.Lock()
	k := e.keeper
	e.keeper = nil
	e.mu.Unlock()
	if k != nil {
		close(k.stop)
		<-k.stopped
	}
}

// keepOpen opens the store, each time that it is due, as the configuration in force says.
func (e *engine) keepOpen(due <-chan time.Time, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-due:
		}
		e.mu.Lock()
		c := e.inForce()
		wanted := c != nil && e.opening == nil && e.shouldOpen()
		e.mu.Unlock()
		if !wanted {
			continue
		}
		o := c.storeOptions()
		if _, err := e.open(o, openingTime); err != nil {
			o.log.Debug("opening the store by itself", "error", err) // tryOpen logs what an operator needs
		}
	}
}
