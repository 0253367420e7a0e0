// Package commit makes changes durable: one committer writes all waiting changes in
// one transaction, over and over, and keeps the participants of every batch in step
// with them: the sums, the clock's mark, and any other Participant.
//
// It knows nothing of keys, of requests, or of what a change is about: a change gets
// the transaction, and becomes durable with its whole batch or not at all.
package commit

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// change is one thing to be made durable. apply runs on the committer, inside a
// transaction, and must change nothing but that transaction: it may be run again when
// another change of the batch fails, or when the store has to begin again. done runs
// on the committer after the commit, in the order in which changes were submitted;
// only there may memory follow.
type change[B any] struct {
	state *atomic.Int32 // of a change that may be abandoned; see backlog.go
	rows  *store.Rows   // all that it touches; nil: not known, so it may touch any
	look  func(r store.Reader) error
	apply func(b B) error
	wrote bool // whether apply wrote anything when it last ran
	done  func(err error)
}

// together reports whether a change may share a batch with the next one in the queue.
// Looks never share one with changes. A change whose rows are not known does not join
// earlier ones whose rows are known: the batch would then have to wait for all nodes.
func (ch *change[B]) together(next *change[B]) bool {
	return (ch.look == nil) == (next.look == nil) && (ch.rows == nil || next.rows != nil)
}

// Participant keeps something in step with every batch of changes. Only the committer
// calls it, for one batch at a time.
type Participant interface {
	// Begin starts a batch, perhaps one that was begun before and rolled back:
	// nothing of that attempt may remain. Where several nodes share the store,
	// memory is behind as soon as another node has committed, so whatever a
	// change depends on is read in t when it is first needed. An error ends the
	// transaction.
	Begin(t *Transaction) error
	// Finish writes what the changes of the batch have in common. It is called
	// only if they wrote something.
	Finish(t *Transaction) error
	// Committed lets memory follow, now that the batch is durable.
	Committed()
}

// Guard is the last participant to finish. It sees every write, and vouches for the
// commit before anybody is notified of it.
type Guard interface {
	Participant
	// Wrote is called before a record is set or deleted.
	Wrote(t *Transaction, key, value []byte, deleted bool) error
	// Seal makes a commit known outside the store. A commit does not count
	// before that.
	Seal() error
}

// Committer writes all waiting changes in one durable transaction, over and over: the
// grouping that Badger itself does not do. One goroutine owns it. It does not know
// what the changes are about: they get a B, which holds the transaction and
// everything that takes part.
type Committer[B any] struct {
	options     Options[B]
	shared      store.Shared // the store, if several nodes share it; otherwise nil
	transaction Transaction
	given       B // passed to every change

	saidRefused time.Time
	wasFull     atomic.Bool  // whether the last write was refused: the disk was full, or the database away
	began       atomic.Int64 // when the running commit began, in Unix nanoseconds; 0: none runs
	backlog     atomic.Int64 // changes that wait or are being written

	mu     sync.Mutex
	queue  []change[B]
	closed bool
	wake   chan struct{} // holds one token when the queue is not empty
	ended  chan struct{}

	// failed holds the first commit error. The state on disk is unknown from
	// then on, so everything after it is refused: what was reserved counts
	// as spent. still holds why everything is still refused.
	failed, still atomic.Pointer[error]
}

// Options is what a committer works with.
type Options[B any] struct {
	Store        store.Store
	Batch        func(t *Transaction) B
	Participants []Participant // in the order in which they finish
	Guard        Guard         // nil: none
	Patience     time.Duration // of callers that wait for a change
	Observe      func(took time.Duration, changes int)
	Log          *slog.Logger
}

// New starts a committer. Close ends it.
func New[B any](o Options[B]) *Committer[B] {
	c := &Committer[B]{options: o, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	if o.Guard != nil {
		c.options.Participants = append(c.options.Participants, o.Guard)
	}
	c.shared, _ = o.Store.(store.Shared)
	c.transaction.guard = o.Guard
	c.given = o.Batch(&c.transaction)
	go c.run()
	return c
}

// Patience is how long callers wait for a change.
func (c *Committer[B]) Patience() time.Duration { return c.options.Patience }

// Backlog is how many changes wait, or are being written.
func (c *Committer[B]) Backlog() int64 { return c.backlog.Load() }

// Full reports whether the store had no space, or was not available, at the last
// write.
func (c *Committer[B]) Full() bool { return c.wasFull.Load() }

// Running returns when the present commit began; zero if none runs.
func (c *Committer[B]) Running() time.Time {
	if began := c.began.Load(); began != 0 {
		return time.Unix(0, began)
	}
	return time.Time{}
}

// Submit queues a change. It never blocks; it may be called with locks held.
func (c *Committer[B]) Submit(apply func(b B) error, done func(err error)) {
	c.enqueue(change[B]{apply: apply, done: done})
}

// SubmitRows is Submit for a change that touches these rows alone: where several
// nodes share the store, it does not wait for nodes that change other rows. If it turns
// out to touch more, it is run again as if it had been submitted by Submit.
func (c *Committer[B]) SubmitRows(rows store.Rows, apply func(b B) error, done func(err error)) {
	if c.shared == nil {
		c.Submit(apply, done) // together with all others
		return
	}
	named := rows
	c.enqueue(change[B]{rows: &named, apply: apply, done: done})
}

// Look queues a look at the store between two batches: memory that done changes is
// neither behind nor ahead of what look has read.
func (c *Committer[B]) Look(look func(r store.Reader) error, done func(err error)) {
	c.enqueue(change[B]{look: look, done: done})
}

func (c *Committer[B]) enqueue(ch change[B]) {
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

func (c *Committer[B]) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Close waits until everything queued is written, then ends the goroutine.
func (c *Committer[B]) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
	<-c.ended
}

func (c *Committer[B]) run() {
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
				clear(changes[:n]) // frees what they hold before the last of them is done
				changes = changes[n:]
				c.backlog.Add(int64(-n))
			}
		}
	}
}

// commit writes as many changes as fit into one transaction and returns how many it
// wrote.
func (c *Committer[B]) commit(changes []change[B]) int {
	errs := make([]error, len(changes))
	if err := c.Failure(); err != nil {
		for i := range changes {
			changes[i].done(err)
		}
		return len(changes)
	}
	for n := 1; n < len(changes); n++ {
		if !changes[n-1].together(&changes[n]) {
			changes = changes[:n]
		}
	}
	if changes[0].look != nil {
		return c.look(changes)
	}
	start := time.Now()
	c.began.Store(start.UnixNano())
	taken, asked, err := c.write(changes, errs)
	wrote := c.transaction.entries > 0
	if err == nil && wrote && c.options.Guard != nil {
		err = c.options.Guard.Seal()
	}
	refused := errors.Is(err, store.ErrNoSpace) || errors.Is(err, store.ErrUnavailable)
	tooBig := errors.Is(err, store.ErrTooBig) && taken > 0
	failed := err != nil && !refused && !tooBig
	c.wasFull.Store(refused)
	switch {
	case refused:
		c.reportRefused(err)
		taken = len(changes)
	case tooBig: // nothing was written, and the others are next
	case failed:
		c.Poison(err)
	case wrote:
		for _, p := range c.options.Participants {
			p.Committed()
		}
	}
	if wrote && c.options.Observe != nil && !refused && !tooBig {
		c.options.Observe(time.Since(start), taken)
	}
	c.began.Store(0) // before anybody hears of it
	for i := range taken {
		switch {
		case asked && failed && errs[i] == nil && changes[i].wrote && changes[i].state != nil:
			errs[i] = fmt.Errorf("%w: %w", ErrOutcome, err) // a caller that waits for it might repeat it
		case err != nil:
			errs[i] = err
		}
		changes[i].done(errs[i])
	}
	return taken
}

// write runs a transaction with as many of the changes as fit. It begins again without
// a change that fails after it has written, with fewer changes if together they are too
// big, and, where a change touches rows that it did not name, in a transaction that may
// touch any row. asked says that the store was asked to commit the transaction.
func (c *Committer[B]) write(changes []change[B], errs []error) (taken int, asked bool, err error) {
	var left []bool // the changes that had written before they failed
	var half int    // the one of them that ended the present transaction
	shared := c.shared
	rows := shared != nil && changes[0].rows != nil
	fn := func(tx store.Tx) error {
		asked = false
		c.transaction.begin(tx, shared != nil, rows)
		if shared != nil && !rows {
			if err := store.Fetch(tx, fetched(changes)...); err != nil {
				return err
			}
		}
		for _, p := range c.options.Participants {
			if err := p.Begin(&c.transaction); err != nil {
				return err
			}
		}
		for taken = 0; taken < len(changes) && !c.transaction.Full(); taken++ {
			if left != nil && left[taken] {
				continue
			}
			if errs[taken] = ErrBusy; !changes[taken].begin() {
				continue
			}
			before := c.transaction.entries
			errs[taken] = changes[taken].apply(c.given)
			changes[taken].wrote = c.transaction.entries != before
			if shared != nil && isOfTheStore(errs[taken]) {
				return errs[taken]
			}
			if errs[taken] != nil && changes[taken].wrote {
				if taken > 0 && errors.Is(errs[taken], store.ErrTooBig) {
					return errTogether
				}
				half = taken // unless the store runs this again, after a fault of its own
				return errHalfWritten
			}
		}
		if c.transaction.entries == 0 {
			return nil
		}
		for _, p := range c.options.Participants {
			if err := p.Finish(&c.transaction); err != nil {
				return err
			}
		}
		asked = true
		return nil
	}
	for {
		taken, asked = 0, false
		c.transaction.begin(nil, shared != nil, rows) // a store may fail before it has begun
		if rows {
			err = shared.UpdateRows(rowsOf(changes), fn)
		} else {
			err = c.options.Store.Update(fn)
		}
		switch {
		case errors.Is(err, errHalfWritten):
			if left == nil {
				left = make([]bool, len(changes))
			}
			left[half] = true
		case errors.Is(err, errTogether): // the last of them may fit by itself
			changes = changes[:taken]
		case errors.Is(err, store.ErrTooBig) && taken > 1: // too big with what they have in common
			changes = changes[:taken/2]
		case rows && errors.Is(err, store.ErrUndeclared):
			rows = false
		default:
			return taken, asked, err
		}
	}
}

// isOfTheStore reports whether an error that a change has returned is the store's, and
// so ends the transaction for all its changes.
func isOfTheStore(err error) bool {
	return errors.Is(err, store.ErrUndeclared) || errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrDoubt)
}

// rowsOf are the rows of all these changes.
func rowsOf[B any](changes []change[B]) (all store.Rows) {
	for i := range changes {
		all.Lock = append(all.Lock, changes[i].rows.Lock...)
		all.Read = append(all.Read, changes[i].rows.Read...)
	}
	return all
}

// fetched are the rows of the changes that have named any.
func fetched[B any](changes []change[B]) (all [][]byte) {
	for i := range changes {
		if rows := changes[i].rows; rows != nil {
			all = append(append(all, rows.Lock...), rows.Read...)
		}
	}
	return all
}

// look runs all these looks on one snapshot of the store.
func (c *Committer[B]) look(changes []change[B]) int {
	errs := make([]error, len(changes))
	err := c.options.Store.View(func(r store.Reader) error {
		for i := range changes {
			errs[i] = changes[i].look(r)
		}
		return nil
	})
	for i := range changes {
		changes[i].done(errors.Join(err, errs[i]))
	}
	return len(changes)
}

// reportRefused logs, at most once a minute, that nothing can be written.
func (c *Committer[B]) reportRefused(err error) {
	now := time.Now()
	if now.Sub(c.saidRefused) < time.Minute {
		return
	}
	c.saidRefused = now
	if errors.Is(err, store.ErrNoSpace) {
		c.options.Log.Error("nothing is admitted that needs the disk until there is space again", "error", err)
	} else {
		c.options.Log.Error("nothing is admitted that needs the database until it answers again", "error", err)
	}
}

// Poison refuses everything from here on.
func (c *Committer[B]) Poison(err error) {
	if c.shared != nil {
		err = store.AmongNodes(err)
	}
	if c.failed.CompareAndSwap(nil, &err) {
		c.options.Log.Error("the store failed and is refused until it is opened again; what was reserved counts as spent",
			"error", err)
	}
}

// StillFailed says why everything is still refused.
func (c *Committer[B]) StillFailed(err error) { c.still.Store(&err) }

// Failure is the reason why everything is refused, or nil.
func (c *Committer[B]) Failure() error {
	if err := c.still.Load(); err != nil {
		return *err
	}
	return c.Cause()
}

// Cause is the first reason why everything was refused, or nil.
func (c *Committer[B]) Cause() error {
	if err := c.failed.Load(); err != nil {
		return *err
	}
	return nil
}

var (
	errHalfWritten = errors.New("a change failed after it had written")
	errTogether    = errors.New("the changes are too much for one transaction")
)
