package till

// A store that has failed is opened again when somebody asks for it. Where nodes share the
// store, perhaps nobody does: a node that is not ready gets no requests, and not every
// balancer asks whether it is ready again. It may be the node that runs the jobs that one
// node does for all, and the others must not have to wait for those.

// startKeeping lets the store be opened again by itself, if nodes share it, until Destruct.
// The caller holds e.mu.
func (e *engine) startKeeping() {
	if e.place.Shared && e.keeper == nil && !e.closed {
		e.keeper = every(reopenAfter, e.keepOpen)
	}
}

// keepOpen opens the store, if that is due, as the configuration in force says.
func (e *engine) keepOpen() {
	e.mu.Lock()
	c := e.inForce()
	wanted := c != nil && e.opening == nil && e.shouldOpen()
	e.mu.Unlock()
	if !wanted {
		return
	}
	o := c.storeOptions()
	if _, err := e.open(o, openingTime); err != nil {
		o.log.Debug("opening the store by itself", "error", err) // tryOpen logs what an operator needs
	}
}
