package till

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// openStores knows which stores are open in this process. The pool forgets an engine
// before its Destruct has returned, so a successor may arrive too early: it waits here
// until the store is closed.
var openStores = &storeClaims{held: make(map[string]chan struct{})}

type storeClaims struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when released
}

// closingTime is how long to wait for a store that is being closed.
const closingTime = 30 * time.Second

func (c *storeClaims) claim(identity string) error {
	ctx, cancel := context.WithTimeout(context.Background(), closingTime)
	defer cancel()
	for {
		c.mu.Lock()
		busy := c.held[identity]
		if busy == nil {
			c.held[identity] = make(chan struct{})
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return fmt.Errorf("store %s: still being closed after %s", identity, closingTime)
		}
	}
}

func (c *storeClaims) release(identity string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if busy := c.held[identity]; busy != nil {
		close(busy)
		delete(c.held, identity)
	}
}

// claim waits until no other engine of this process has the store open, and takes
// it. It is called by whatever opens the store.
func (e *engine) claim() error {
	if e.claimed {
		return nil
	}
	err := openStores.claim(e.place.Identity)
	e.claimed = err == nil
	return err
}

// release lets another engine of this process open the store. The caller holds e.mu.
func (e *engine) release() {
	if e.claimed {
		e.claimed = false
		openStores.release(e.place.Identity)
	}
}
