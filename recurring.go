package till

import "time"

// recurring does something at intervals, on a goroutine of its own.
type recurring struct{ stop, stopped chan struct{} }

// every begins it. The first time is after one interval.
func every(interval time.Duration, do func()) *recurring {
	r := &recurring{make(chan struct{}), make(chan struct{})}
	go func() {
		defer close(r.stopped)
		due := time.NewTicker(interval)
		defer due.Stop()
		for {
			select {
			case <-r.stop:
				return
			case <-due.C:
				do()
			}
		}
	}()
	return r
}

// end ends the goroutine in a field of the engine, if there is one, and waits for that. It
// may be waiting for e.mu itself, so the caller does not hold that.
func (e *engine) end(field **recurring) {
	e.mu.Lock()
	r := *field
	*field = nil
	e.mu.Unlock()
	if r != nil {
		close(r.stop)
		<-r.stopped
	}
}
