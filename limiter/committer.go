package limiter

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// change is one thing to be made durable. apply runs on the committer, inside
// a transaction, and must change nothing but that transaction: it may be run
// again when another change of the batch fails, or when the store has to begin
// again. done runs on the committer after the commit, in the order in which
// changes were submitted; only there may memory follow.
type change[B any] struct {
	state *atomic.Int32 // of one that may be abandoned; see backlog.go
	apply func(b B) error
	done  func(err error)
}

// A participant keeps something in step with every batch of changes. The
// committer alone calls it, for one batch at a time.
type participant interface {
	// Begin starts a batch, perhaps one that was begun before and rolled back:
	// nothing of that may be left.
	Begin()
	// Finish writes what the changes of the batch have in common. It is called
	// only when they wrote something.
	Finish(t *transaction) error
	// Committed lets memory follow, now that the batch is durable.
	Committed()
}

// A guard is the last participant to finish. It sees every write, and vouches for
// the commit before anybody hears of it.
type guard interface {
	participant
	// Wrote is called before a record is set, or deleted.
	Wrote(t *transaction, key, value []byte, deleted bool) error
	// Seal makes a commit known outside the store. Without that it does not count.
	Seal() error
}

// committer writes all waiting changes in one durable transaction, over and
// over: the grouping that Badger itself does not do. One goroutine owns it. What
// the changes are about it does not know: they get a B, which holds the
// transaction and whatever takes part.
type committer[B any] struct {
	commitOptions[B]
	transaction transaction
	given       B // to every change

	saidFull time.Time
	wasFull  atomic.Bool  // when it was written to last
	began    atomic.Int64 // Unix nanoseconds of the commit that runs; 0: none does
	backlog  atomic.Int64 // changes that wait, or are being written

	mu     sync.Mutex
	queue  []change[B]
	closed bool
	wake   chan struct{} // holds one token when the queue is not empty
	ended  chan struct{}

	// failed holds the first commit error. The state on disk is unknown from
	// then on, so everything after it is refused: what was requested counts
	// as spent.
	failed atomic.Pointer[error]
}

// commitOptions is what a committer works with.
type commitOptions[B any] struct {
	store        store.Store
	batch        func(t *transaction) B
	participants []participant // in the order in which they finish
	guard        guard         // nil: none
	patience     time.Duration // of those who wait for a change
	observe      func(took time.Duration, changes int)
	log          *slog.Logger
}

func newCommitter[B any](o commitOptions[B]) *committer[B] {
	c := &committer[B]{commitOptions: o, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	if o.guard != nil {
		c.participants = append(c.participants, o.guard)
	}
	c.transaction.guard = o.guard
	c.given = o.batch(&c.transaction)
	go c.run()
	return c
}

// submit queues a change. It never blocks; it may be called with locks held.
func (c *committer[B]) submit(apply func(b B) error, done func(err error)) {
	c.enqueue(change[B]{apply: apply, done: done})
}

func (c *committer[B]) enqueue(ch change[B]) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		// done may take the locks that the caller holds.
		go ch.done(store.ErrClosed)
		return
	}
	c.queue = append(c.queue, ch)
	c.backlog.Add(1)
	c.mu.Unlock()
	c.signal()
}

func (c *committer[B]) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// close lets everything queued be written, then ends the goroutine.
func (c *committer[B]) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
	<-c.ended
}

func (c *committer[B]) run() {
	defer close(c.ended)
	for range c.wake {
		for {
			c.mu.Lock()
			changes, closed := c.queue, c.closed
			c.queue = nil
			c.mu.Unlock()
			if len(changes) == 0 {
				if closed {
					return
				}
				break
			}
			for len(changes) > 0 {
				n := c.commit(changes)
				clear(changes[:n]) // what they hold on to is free before the last of them
				changes = changes[n:]
				c.backlog.Add(int64(-n))
			}
		}
	}
}

// commit writes as many changes as fit into one transaction and returns how
// many those were.
func (c *committer[B]) commit(changes []change[B]) int {
	errs := make([]error, len(changes))
	if err := c.failure(); err != nil {
		for i := range changes {
			changes[i].done(err)
		}
		return len(changes)
	}
	start := time.Now()
	c.began.Store(start.UnixNano())
	defer c.began.Store(0)
	var left []bool // those that had written before they failed
	var taken int
	err := errHalfWritten
	for errors.Is(err, errHalfWritten) { // once more, without the change that failed
		taken = 0
		c.transaction.reset(nil) // a store may fail before it has begun
		err = c.store.Update(func(tx store.Tx) error {
			c.transaction.reset(tx)
			for _, p := range c.participants {
				p.Begin()
			}
			for taken = 0; taken < len(changes) && !c.transaction.full(); taken++ {
				if left != nil && left[taken] {
					continue
				}
				if errs[taken] = ErrBusy; !changes[taken].begin() {
					continue
				}
				before := c.transaction.entries
				errs[taken] = changes[taken].apply(c.given)
				if errs[taken] != nil && c.transaction.entries != before {
					if left == nil {
						left = make([]bool, len(changes))
					}
					left[taken] = true
					return errHalfWritten
				}
			}
			if c.transaction.entries == 0 {
				return nil
			}
			for _, p := range c.participants {
				if err := p.Finish(&c.transaction); err != nil {
					return err
				}
			}
			return nil
		})
	}
	wrote := c.transaction.entries > 0
	if err == nil && wrote && c.guard != nil {
		err = c.guard.Seal()
	}
	c.wasFull.Store(errors.Is(err, store.ErrNoSpace))
	switch {
	case errors.Is(err, store.ErrNoSpace):
		c.full(err)
		taken = len(changes)
	case err != nil:
		c.poison(err)
	case wrote:
		for _, p := range c.participants {
			p.Committed()
		}
	}
	if wrote && c.observe != nil && !errors.Is(err, store.ErrNoSpace) {
		c.observe(time.Since(start), taken)
	}
	for i := range taken {
		if err != nil {
			errs[i] = err
		}
		changes[i].done(errs[i])
	}
	return taken
}

// full says, at most once a minute, that nothing can be written.
func (c *committer[B]) full(err error) {
	if now := time.Now(); now.Sub(c.saidFull) >= time.Minute {
		c.saidFull = now
		c.log.Error("nothing is admitted that needs the disk until there is space again", "error", err)
	}
}

// poison refuses everything from here on.
func (c *committer[B]) poison(err error) {
	if c.failed.CompareAndSwap(nil, &err) {
		c.log.Error("the store failed and is refused until it was opened anew; what was reserved counts as spent",
			"error", err)
	}
}

// failure is why everything is refused, or nil.
func (c *committer[B]) failure() error {
	if err := c.failed.Load(); err != nil {
		return *err
	}
	return nil
}

var errHalfWritten = errors.New("a change failed after it had written")
