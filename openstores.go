package till

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// openStores knows which stores this process has open. The pool forgets an
// engine before its Destruct has ended, so a successor may come too early:
// it waits here until the store is closed.
var openStores = &storeClaims{held: make(map[string]chan struct{})}

type storeClaims struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when given back
}

// closingTime bounds the wait for a store that is being closed.
const closingTime = 30 * time.Second

func (c *storeClaims) claim(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), closingTime)
	defer cancel()
	for {
		c.mu.Lock()
		busy := c.held[dir]
		if busy == nil {
			c.held[dir] = make(chan struct{})
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return fmt.Errorf("store %s: still being closed after %s", dir, closingTime)
		}
	}
}

func (c *storeClaims) release(dir string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if busy := c.held[dir]; busy != nil {
		close(busy)
		delete(c.held, dir)
	}
}

// claim makes sure that no other engine of this process has the store open.
// Who opens the store calls it.
func (e *engine) claim() error {
	if e.claimed {
		return nil
	}
	err := openStores.claim(e.dir)
	e.claimed = err == nil
	return err
}

// release lets another engine of this process open the store. Callers hold e.mu.
func (e *engine) release() {
	if e.claimed {
		e.claimed = false
		openStores.release(e.dir)
	}
}
