package till

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/admin/console"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/upstream"
	"github.com/till-proxy/till/webhook"
)

// engines holds one engine for each store as long as any configuration uses it, so
// that counts, holds and metrics survive a reload. The key is the identity of the store
// only, because every other setting may change with a reload.
var engines = caddy.NewUsagePool()

// engine is a limiter that is opened when it is first needed, and not while a
// configuration is only being validated. If its store fails, it is closed and opened
// again until that succeeds.
type engine struct {
	place          Place
	log            *sharedLog
	metrics        *metrics
	events         *events
	hooks          *webhook.Deliveries
	lockdown       *limiter.Lockdown
	sessions       *console.Sessions // the console's sign-ins
	contradictions *contradictions
	advice         *advice
	memory         *upstream.Memory // the measured use of conversations
	patience       time.Duration    // of callers of the limiter, in tests; 0: its own

	mu          sync.Mutex
	limiter     *limiter.Limiter // the working one, or the last that worked
	anchor      string           // path of the anchor that it has open
	failed      error            // why it could not be opened; the next attempt is at nextTry
	opening     chan struct{}    // closed at the end of the attempt in progress; nil if there is none
	repaired    bool             // the store was repaired since limiter was closed
	doubted     time.Time        // when a record last contradicted limiter
	halted      error            // set once a record has contradicted it too often: the store stays closed
	nextTry     time.Time
	loggedError string // the error that was logged last, at loggedAt
	loggedAt    time.Time
	way         string // how the store was reached when it was opened; see Place.Way
	opened      OpenedStore
	differs     string     // which nodes have another configuration, as logged last
	claimed     bool       // in openStores
	delivering  bool       // events.run has been started
	cutter      *recurring // see cutOverdue
	keeper      *recurring // see keepOpen
	closed      bool
	running     []configuration // those that have started; the last one is in force
	entering    bool            // another configuration is being put into force
}

const (
	// reopenAfter is the time between two attempts to open a store, and
	// reopenDamagedAfter if the store does not match its anchor or is damaged: the
	// operator may put another one in its place.
	reopenAfter        = time.Second
	reopenDamagedAfter = 10 * time.Second

	// doubtsApart is the time within which a record may contradict what this node knows only
	// once: a second contradiction is no accident, and a person has to look.
	doubtsApart = time.Hour

	// outOfTouchAfter is how long a store that nodes share may take to open before
	// requests in flight are cut, as on a node that has lost touch: it hears of no
	// revocation.
	outOfTouchAfter = 7 * time.Second

	// openingTime is how long a request waits for a store that is being opened.
	openingTime = 2 * time.Second
	// startingTime is how long the start of a configuration waits for such a store.
	startingTime = time.Minute
)

// acquireEngine returns the engine of a store; releaseEngine gives it back.
func acquireEngine(at Place, log *slog.Logger) (*engine, error) {
	v, _, err := engines.LoadOrNew(at.Identity, func() (caddy.Destructor, error) {
		return newEngine(at, log), nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*engine), nil
}

func newEngine(at Place, log *slog.Logger) *engine {
	e := &engine{place: at, log: newSharedLog(log), metrics: newMetrics(), events: newEvents(), sessions: console.NewSessions(nil)}
	e.hooks = webhook.New(e.current)
	e.contradictions, e.advice = newContradictions(at.File("contradictions"), e.metrics.contradictions, e.log.logger()), newAdvice(e.log.logger())
	e.memory = upstream.NewMemory(e.reportExcess)
	e.lockdown = limiter.NewLockdown(limiter.LockdownOptions{
		Path: at.File("lockdown"), Observe: observer{e.metrics, e.events}, Logger: e.log.logger(), Shared: at.Shared})
	return e
}

// reportExcess logs that an answer reported more input than the memory of its
// conversation allows.
func (e *engine) reportExcess(x upstream.Excess) {
	e.log.logger().Error("an answer reports more input than its conversation can have, judging by its earlier answers; from now on requests for this model are held by their length",
		"key_id", x.Key, "upstream", x.Upstream, "model", fmt.Sprintf("%.64q", x.Model), "reported_tokens", x.Reported, "bound_tokens", x.Bound)
}

func releaseEngine(at Place) error {
	_, err := engines.Delete(at.Identity)
	return err
}

var errOpening = errors.New("the store is still being opened, or closed: its disk may not answer")

// wait waits until no attempt to open the store is in progress, at most as long as
// patience; 0 means for ever. The caller holds e.mu, which is also held when wait
// returns.
func (e *engine) wait(patience time.Duration) error {
	var over <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		over = timer.C
	}
	for e.opening != nil {
		busy := e.opening
		e.mu.Unlock()
		select {
		case <-busy:
			e.mu.Lock()
		case <-over:
			e.mu.Lock()
			return errOpening
		}
	}
	return nil
}

// failure returns what is wrong with the store, or nil. The caller holds e.mu.
func (e *engine) failure() error {
	if e.failed == nil && e.limiter != nil {
		return e.limiter.Failed()
	}
	return e.failed
}

// open returns the limiter. It opens the store at the first call, and again after it
// failed, and waits for that at most as long as patience; 0 means for ever. A store
// that was found to be in doubt while it was open is not opened again: the same would
// be found again, only later. The exception is a store that nodes share and that lacks none of
// their commits: what this node has used and holds counts as spent, and it goes on, but
// not twice within doubtsApart. While the store cannot be opened, open returns the last
// limiter, if there was one. That limiter refuses every request, and still stops keys
// in memory. A request may come through a configuration that is not in force yet, or no
// longer.
func (e *engine) open(o storeOptions, patience time.Duration) (*limiter.Limiter, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.wait(patience)
	if err == nil && e.shouldOpen() {
		if c := e.inForce(); c != nil && !o.enters {
			o = c.storeOptions()
			o.of = c
		}
		e.noteContradiction(o.log)
		e.opening = make(chan struct{})
		if !e.delivering { // also delivers what happens while the store is closed
			e.delivering = true
			go e.events.run()
			e.cutter = every(cutEvery, e.cutOverdue)
		}
		go e.tryOpen(e.limiter, e.halted, o) // a disk that hangs must not block the caller
		err = e.wait(patience)
	}
	switch {
	case e.closed:
		return nil, store.ErrClosed
	case e.limiter != nil:
		return e.limiter, nil
	case err != nil:
		return nil, err
	}
	return nil, e.failed
}

// shouldOpen reports whether to open the store now. The caller holds e.mu.
func (e *engine) shouldOpen() bool {
	failed := e.failure()
	opened := e.limiter != nil && e.failed == nil
	switch {
	case e.closed, e.halted != nil && e.failed != nil, opened && failed == nil:
		return false
	case opened && errors.Is(failed, store.ErrDoubt):
		return e.healed() || e.limiter.Contradicted()
	}
	return failed == nil || !time.Now().Before(e.nextTry)
}

// noteContradiction logs that the store is about to be closed because a record contradicts
// what this node knows, if that is so, and whether it may be opened again. The caller holds
// e.mu.
func (e *engine) noteContradiction(log *slog.Logger) {
	if e.failed != nil || e.limiter == nil || !e.limiter.Contradicted() {
		return
	}
	e.metrics.doubts.Inc()
	why := store.Contradicted(e.limiter.Failed())
	if !e.doubted.IsZero() && time.Since(e.doubted) < doubtsApart {
		e.halted = why
		log.Error("this node refuses every key until it is restarted: within an hour a record of the database has contradicted again what this node knows", "error", why)
	} else {
		log.Error("the store is opened again, and what this node has used and holds counts as spent: a record of the database contradicts what this node knows", "error", why)
	}
	e.doubted = time.Now()
}

// healed reports whether the reason to doubt the open store is gone: only that store
// knows what it had seen. The caller holds e.mu.
func (e *engine) healed() bool {
	doubted, ok := e.opened.Store.(interface{ Healed() bool })
	return ok && doubted.Healed()
}

// tryOpen is the attempt that open begins. It returns when the disk has answered. If the
// store is to stay closed, halted says why.
func (e *engine) tryOpen(former *limiter.Limiter, halted error, o storeOptions) {
	way := o.wayText()
	next, opened, err := e.reopen(former, halted, o)
	if err == nil {
		e.compareNodes(o, opened.Store)
	}

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.place.Shared {
		err = store.AmongNodes(err)
	}
	if err == nil {
		e.catchUp(next, o)
	}
	defer close(e.opening)
	defer func() { e.opening = nil }()
	e.failed, e.nextTry = err, time.Now().Add(reopenAfter)
	if errors.Is(err, store.ErrDoubt) || errors.Is(err, store.ErrDamaged) {
		e.nextTry = time.Now().Add(reopenDamagedAfter)
	}
	switch {
	case err != nil:
		if text := err.Error(); halted == nil && (text != e.loggedError || time.Since(e.loggedAt) >= time.Minute) {
			e.loggedError, e.loggedAt = text, time.Now()
			o.log.Error("the store cannot be opened, so every key is refused; it is tried again", "error", err)
		}
		if former != nil {
			former.StillFailed(err)
		}
		if e.closed { // Destruct did not wait for it
			e.release()
		}
	case e.closed:
		if err := e.shut(next); err != nil {
			o.log.Warn("closing a store that was opened too late", "error", err)
		}
	default:
		e.limiter, e.repaired, e.anchor = next, false, o.anchorOf(e.place)
		e.way, e.opened = way, opened
		e.metrics.setLimiter(next)
	}
}

// reopen closes the limiter whose store has failed, if there is one, and opens
// another. No lock is held, and only one call runs at a time. A store that is to stay
// closed is closed all the same, so that the nodes that share it do not wait for this one.
func (e *engine) reopen(former *limiter.Limiter, halted error, o storeOptions) (*limiter.Limiter, OpenedStore, error) {
	var none OpenedStore
	if former != nil {
		if err := former.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			o.log.Warn("closing the store that had failed", "error", err)
		}
		if e.place.Shared {
			defer time.AfterFunc(outOfTouchAfter, func() { former.StillFailed(errOpening) }).Stop()
		}
		switch files, err := os.ReadDir(e.place.Dir); {
		case errors.Is(err, fs.ErrNotExist):
			return nil, none, fmt.Errorf("the store's directory %s is gone: put it back, or stop the server", e.place.Dir)
		case err == nil && len(files) == 0 && !e.place.Shared: // its volume is no longer mounted
			return nil, none, fmt.Errorf("the store's directory %s is empty: put back what was in it, or stop the server", e.place.Dir)
		}
	}
	if halted != nil {
		return nil, none, halted
	}
	if err := e.claim(); err != nil {
		return nil, none, err
	}
	e.lockdown.Recall()
	l, opened, err := e.openLimiter(o, former)
	if err == nil && former != nil {
		o.log.Info("the store was opened again")
	}
	return l, opened, err
}

// errAnchorInUse means that a configuration names another anchor than the one in use.
var errAnchorInUse = errors.New("the anchor cannot be moved while the server runs")

// checkAnchor returns an error if a configuration names another anchor than the open
// store has: at the next start there would be none.
func (e *engine) checkAnchor(o storeOptions) error {
	if e.current() == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if next := o.anchorOf(e.place); next != e.anchor {
		return fmt.Errorf("anchor %s: %w: stop it, move %s there, and start it with this configuration", next, errAnchorInUse, e.anchor)
	}
	return nil
}

// current returns the limiter if it works, or nil.
func (e *engine) current() *limiter.Limiter {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.opening != nil || e.failed != nil || e.limiter == nil || e.limiter.Failed() != nil {
		return nil
	}
	return e.limiter
}

func (e *engine) openLimiter(o storeOptions, after *limiter.Limiter) (*limiter.Limiter, OpenedStore, error) {
	with := o.opening()
	e.mu.Lock()
	with.After = e.opened.Store
	e.mu.Unlock()
	s, err := o.open(with)
	if errors.Is(err, store.ErrLocked) {
		return nil, s, fmt.Errorf("%w; stop that process, or give this one a store of its own with: store badger PATH", err)
	}
	if err != nil {
		return nil, s, explainReadOnly(err)
	}
	l, err := limiter.Open(limiter.Options{
		Store: s.Store, Clock: s.Clock, Patience: e.patience, Shadow: e.place.File("shadow"), Anchor: o.anchorOf(e.place), Logger: o.log,
		Roles: o.roles, Hooks: o.hooks, Posted: e.hooks.Wake, KeepAudit: o.keepAudit, Retain: o.retain,
		StaleAfter: o.staleAfter, StaleRevoke: o.staleRevoke, Observe: observer{e.metrics, e.events},
		After: after, Repaired: e.repaired, Lockdown: e.lockdown, TurnBytes: maxWaiting, Exiting: caddy.Exiting,
	})
	if err != nil {
		return nil, s, errors.Join(explainReadOnly(err), s.Close())
	}
	return l, s, nil
}

// explainReadOnly says what usually makes a place read-only for the server alone.
func explainReadOnly(err error) error {
	if !errors.Is(err, syscall.EROFS) {
		return err
	}
	return fmt.Errorf("%w: if its disk can be written, the systemd unit or a container keeps this server from it: name the directory in the unit, with ReadWritePaths=, or give the container a volume there", err)
}

// Destruct closes the store. The pool calls it when no configuration uses the engine
// any more.
func (e *engine) Destruct() error {
	e.hooks.Stop() // before taking the lock, because its goroutines ask for the limiter
	e.end(&e.keeper)
	defer e.end(&e.cutter) // after giving back the lock
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	err := e.wait(closingTime)
	if err == nil {
		err = e.shut(e.limiter)
	} // otherwise tryOpen or forfeit does
	e.lockdown.Close()
	if e.delivering {
		close(e.events.stop)
		<-e.events.stopped
	}
	return err
}

// shut closes a limiter, if there is one, and lets another engine of this process open the
// store. The caller holds e.mu.
func (e *engine) shut(l *limiter.Limiter) error {
	defer e.release()
	if l == nil {
		return nil
	}
	if err := l.Close(); !errors.Is(err, store.ErrClosed) { // otherwise its store had failed
		return err
	}
	return nil
}

// Interface guard
var _ caddy.Destructor = (*engine)(nil)
