package till

import "time"

// While a store cannot be opened, or is being repaired, the limiter that had it open is
// closed, and its sweeper has ended. Requests in flight go on there, so the engine cuts
// those that run past their time. That must not wait for the disk, nor for somebody to ask
// for the store.

// cutEvery is how often the engine looks for such requests.
const cutEvery = time.Second

// cutOverdue cuts the requests of the limiter that run past their time.
func (e *engine) cutOverdue() {
	e.mu.Lock()
	l := e.limiter
	e.mu.Unlock()
	if l != nil {
		l.CutOverdue()
	}
}
