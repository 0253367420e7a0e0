package till

import (
	"errors"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// readyPatience is how long a probe waits for a store that is being opened: probers
// give up soon.
const readyPatience = 500 * time.Millisecond

// Ready implements admin.Backend. A probe opens a store that is closed, as a request
// does: a node that gets no requests while it is not ready has nobody else to ask for it.
func (a *App) Ready() error {
	l, err := a.engine.open(a.storeOptions(), readyPatience)
	switch {
	case err == nil:
		return l.Ready()
	case errors.Is(err, store.ErrDoubt):
		return errors.New("the store is in doubt")
	case errors.Is(err, errOpening):
		return errors.New("the store is being opened")
	}
	return errors.New("the store is closed")
}

// Node implements admin.Backend.
func (a *App) Node() string {
	a.engine.mu.Lock()
	opened := a.engine.opened.Store
	a.engine.mu.Unlock()
	switch shared, ok := opened.(store.Shared); {
	case ok:
		return shared.Node()
	case a.engine.place.Shared:
		return "this node" // whose name is not known before the store has been opened
	}
	return ""
}
