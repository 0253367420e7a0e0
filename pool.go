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
// configuration is only being validated. One whose store has failed is closed
// and opened again, until that works.
type engine struct {
	dir      string // identity of the store
	metrics  *metrics
	events   *events
	lockdown *limiter.Lockdown

	mu      sync.Mutex
	limiter *limiter.Limiter
	failed  error         // why it is not open; tried again at nextTry
	opening chan struct{} // closed when who is opening it is done; nil: nobody
	nextTry time.Time
	telling bool // the events are being delivered
	closed  bool
}

// reopenAfter is the time between two tries to open a store.
const reopenAfter = time.Second

// acquireEngine returns the engine of a store; release gives it back.
func acquireEngine(dir string, log *slog.Logger) (*engine, error) {
	v, _, err := engines.LoadOrNew(dir, func() (caddy.Destructor, error) {
		return newEngine(dir, log), nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*engine), nil
}

func newEngine(dir string, log *slog.Logger) *engine {
	e := &engine{dir: dir, metrics: newMetrics(), events: newEvents()}
	e.lockdown = limiter.NewLockdown(filepath.Join(dir, "lockdown"), observer{e.metrics, e.events}, log)
	return e
}

func releaseEngine(dir string) error {
	_, err := engines.Delete(dir)
	return err
}

// opening is what a configuration says about how to open the store.
type opening struct {
	open   func(dir string, log *slog.Logger) (limiter.Store, error)
	anchor string
	log    *slog.Logger
	roles  map[string]limiter.Role
}

func (o *opening) anchorIn(dir string) string {
	if o.anchor != "" {
		return o.anchor
	}
	return filepath.Join(dir, "anchor")
}

// open returns the limiter, opening the store the first time, and again after
// it failed. A store in doubt is not tried again: nothing mends it by itself.
func (e *engine) open(o opening) (*limiter.Limiter, error) {
	e.mu.Lock()
	for e.opening != nil {
		busy := e.opening
		e.mu.Unlock()
		<-busy
		e.mu.Lock()
	}
	l, failed := e.limiter, e.failed
	if l != nil {
		failed = l.Failed()
		if failed == nil {
			e.mu.Unlock()
			return l, nil
		}
	}
	switch {
	case e.closed:
		e.mu.Unlock()
		return nil, limiter.ErrClosed
	case errors.Is(failed, limiter.ErrDoubt), failed != nil && time.Now().Before(e.nextTry):
		e.mu.Unlock()
		if l != nil {
			return l, nil // it says why it refuses
		}
		return nil, failed
	}
	done := make(chan struct{})
	e.opening = done
	if !e.telling { // also of what happens while the store is closed
		e.telling = true
		go e.events.run()
	}
	e.mu.Unlock()

	next, err := e.reopen(l, o)

	e.mu.Lock()
	defer e.mu.Unlock()
	e.opening = nil
	close(done)
	e.limiter, e.failed, e.nextTry = next, err, time.Now().Add(reopenAfter)
	if err != nil {
		return nil, err
	}
	e.metrics.follow(next)
	return next, nil
}

// reopen closes the limiter whose store has failed, if there is one, and opens
// another. Nobody else does so meanwhile, and no lock is held.
func (e *engine) reopen(failed *limiter.Limiter, o opening) (*limiter.Limiter, error) {
	if failed != nil {
		if err := failed.Close(); err != nil {
			o.log.Warn("closing the store that had failed", "error", err)
		}
	} else if err := openings.claim(e.dir); err != nil {
		return nil, err
	}
	e.lockdown.Recall()
	l, err := openLimiter(e.dir, o, observer{e.metrics, e.events}, e.lockdown)
	if err != nil {
		openings.yield(e.dir)
		return nil, err
	}
	if failed != nil {
		o.log.Info("the store was opened again")
	}
	return l, nil
}

func openLimiter(dir string, o opening, observe limiter.Observer, lockdown *limiter.Lockdown) (*limiter.Limiter, error) {
	store, err := o.open(dir, o.log)
	if errors.Is(err, limiter.ErrLocked) {
		return nil, fmt.Errorf("%w; stop that process, or give this one a store of its own with: store badger PATH", err)
	}
	if err != nil {
		return nil, err
	}
	l, err := limiter.Open(limiter.Options{
		Store: store, Shadow: filepath.Join(dir, "shadow"), Anchor: o.anchorIn(dir), Logger: o.log, Roles: o.roles, Observe: observe, Lockdown: lockdown,
	})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return l, nil
}

// errInOrder says that there is nothing to forfeit.
var errInOrder = errors.New("the store is in order: there is nothing to repair")

// forfeit closes a store that is in doubt, mends it, and opens it.
func (e *engine) forfeit(by limiter.Caller, o opening) (limiter.Repaired, error) {
	var done limiter.Repaired
	_, err := e.open(o)
	e.mu.Lock()
	for e.opening != nil {
		busy := e.opening
		e.mu.Unlock()
		<-busy
		e.mu.Lock()
	}
	l := e.limiter
	if l != nil {
		err = l.Failed()
	}
	if !errors.Is(err, limiter.ErrDoubt) {
		e.mu.Unlock()
		return done, errors.Join(errInOrder, err)
	}
	mended := make(chan struct{})
	e.opening = mended
	e.mu.Unlock()

	err = e.mend(l, by, o, &done)

	e.mu.Lock()
	e.limiter, e.failed, e.nextTry, e.opening = nil, err, time.Time{}, nil
	close(mended)
	e.mu.Unlock()
	if err != nil {
		return done, err
	}
	_, err = e.open(o)
	return done, err
}

func (e *engine) mend(l *limiter.Limiter, by limiter.Caller, o opening, done *limiter.Repaired) error {
	if l != nil {
		if err := l.Close(); err != nil {
			o.log.Warn("closing the store that is in doubt", "error", err)
		}
	} else if err := openings.claim(e.dir); err != nil {
		return err
	}
	defer openings.yield(e.dir)
	store, err := o.open(e.dir, o.log)
	if err != nil {
		return err
	}
	*done, err = limiter.Forfeit(store, by, o.anchorIn(e.dir), time.Now(), o.log)
	return errors.Join(err, store.Close())
}

// Destruct closes the store; the pool calls it when no configuration uses the
// engine any more.
func (e *engine) Destruct() error {
	e.mu.Lock()
	for e.opening != nil {
		busy := e.opening
		e.mu.Unlock()
		<-busy
		e.mu.Lock()
	}
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	var err error
	if e.limiter != nil {
		err = e.limiter.Close()
		openings.yield(e.dir)
	}
	e.lockdown.Close()
	if e.telling {
		close(e.events.stop)
		<-e.events.stopped
	}
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
