package till

import "time"

// While a store cannot be opened, or is being repaired, the limiter that had it open is
// closed, and its sweeper has ended. Requests in flight go on there, so the engine cuts
// those that run past their time. That must not wait for the disk, nor for somebody to ask
// for the store.

// cutEvery is how often the engine looks for such requests.
const cutEvery = time.Second

// cutter cuts requests that run past their time while the store is closed.
type cutter struct {
	stop, stopped chan struct{}
}

// startCutting runs a cutter until stopCutting. The caller holds e.mu.
func (e *engine) startCutting() {
	e.cutter = &cutter{make(chan struct{}), make(chan struct{})}
	go func(c *cutter) {
		defer close(c.stopped)
		due := time.NewTicker(cutEvery)
		defer due.Stop()
		for {
			select {
			case <-c.stop:
				return
			case <-due.C:
			}
			e.mu.Lock()
			l := e.limiter
			e.mu.Unlock()
			if l != nil {
				l.CutOverdue()
			}
		}
	}(e.cutter)
}

// stopCutting stops the cutter. The caller does not hold e.mu.
func (e *engine) stopCutting() {
	e.mu.Lock()
	c := e.cutter
	e.cutter = nil
	e.mu.Unlock()
	if c != nil {
		close(c.stop)
		<-c.stopped
	}
}
