package till

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/limiter"
)

// engines holds one engine per store for as long as any configuration uses
// it, so that counts, holds and metrics live on over a reload. The key is the
// store's absolute path alone: every other setting may change with a reload.
var engines = caddy.NewUsagePool()

// engine is a limiter that is opened when it is first needed: not while a
// configuration is only being validated.
type engine struct {
	dir     string // identity of the store
	metrics *metrics
	events  *events

	mu      sync.Mutex
	limiter *limiter.Limiter
	closed  bool
}

// acquireEngine returns the engine of a store; release gives it back.
func acquireEngine(dir string) (*engine, error) {
	v, _, err := engines.LoadOrNew(dir, func() (caddy.Destructor, error) {
		return &engine{dir: dir, metrics: newMetrics(), events: newEvents()}, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*engine), nil
}

func releaseEngine(dir string) error {
	_, err := engines.Delete(dir)
	return err
}

// open returns the limiter, opening the store the first time. One that could
// not be opened is tried again by the next caller.
func (e *engine) open(open func(dir string, log *slog.Logger) (limiter.Store, error), log *slog.Logger,
	roles map[string]limiter.RoleBudget,
) (*limiter.Limiter, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.limiter != nil {
		return e.limiter, nil
	}
	if e.closed {
		return nil, limiter.ErrClosed
	}
	if err := openings.claim(e.dir); err != nil {
		return nil, err
	}
	l, err := openLimiter(e.dir, open, log, roles, observer{e.metrics, e.events})
	if err != nil {
		openings.yield(e.dir)
		return nil, err
	}
	e.limiter = l
	go e.events.run()
	e.metrics.follow(l)
	return l, nil
}

func openLimiter(dir string, open func(string, *slog.Logger) (limiter.Store, error), log *slog.Logger,
	roles map[string]limiter.RoleBudget, observe limiter.Observer,
) (*limiter.Limiter, error) {
	store, err := open(dir, log)
	if errors.Is(err, limiter.ErrLocked) {
		return nil, fmt.Errorf("%w; stop that process, or give this one a store of its own with: store badger PATH", err)
	}
	if err != nil {
		return nil, err
	}
	l, err := limiter.Open(limiter.Options{
		Store: store, Shadow: filepath.Join(dir, "shadow"), Logger: log, Roles: roles, Observe: observe,
	})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return l, nil
}

// Destruct closes the store; the pool calls it when no configuration uses the
// engine any more.
func (e *engine) Destruct() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if e.limiter == nil {
		return nil
	}
	defer openings.yield(e.dir)
	err := e.limiter.Close()
	close(e.events.stop)
	<-e.events.stopped
	return err
}

// openings knows which stores this process has open. The pool forgets an
// engine before its Destruct has ended, so a successor may come too early:
// it waits here until the store is closed.
var openings = &claims{held: make(map[string]chan struct{})}

type claims struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when given back
}

// closingTime bounds the wait for a store that is being closed.
const closingTime = 30 * time.Second

func (c *claims) claim(dir string) error {
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

func (c *claims) yield(dir string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if busy := c.held[dir]; busy != nil {
		close(busy)
		delete(c.held, dir)
	}
}

// Interface guard
var _ caddy.Destructor = (*engine)(nil)
