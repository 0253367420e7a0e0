package limiter

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// change is one thing to be made durable. apply runs on the committer, inside
// a transaction, and must change nothing but that transaction: it may be run
// again when another change of the batch fails. done runs on the committer
// after the commit, in the order in which changes were submitted; only there
// may memory follow.
type change struct {
	state *atomic.Int32 // of one that may be abandoned; see backlog.go
	apply func(b *batch) error
	done  func(err error)
}

// ErrClosed is returned for changes submitted to a limiter that was closed.
var ErrClosed = errors.New("the store is closed")

// committer writes all waiting changes in one durable transaction, over and
// over: the grouping that Badger itself does not do. One goroutine owns it.
type committer struct {
	store   Store
	observe Observer
	log     *slog.Logger
	tallied func(tally)  // is told the sums after each commit that changed them
	anchor  *anchor      // nil: none
	digest  *digest      // nil without an anchor
	told    commitRecord // the last commit that anybody was told of

	job    int64 // the number of the last job
	doomed func(id string) *job

	outbox *outbox
	spread func(e Event, observe bool) // is told of events

	clock    *watch
	chain    chain // the audit log as of the last commit
	onces    int   // calls under idempotency keys that are known
	head     atomic.Pointer[chain]
	marked   time.Time // the store was told this time last
	saidFull time.Time
	wasFull  atomic.Bool  // when it was written to last
	began    atomic.Int64 // Unix nanoseconds of the commit that runs; 0: none does

	backlog  atomic.Int64  // changes that wait, or are being written
	patience time.Duration // of those who wait for one

	mu     sync.Mutex
	queue  []change
	closed bool
	wake   chan struct{} // holds one token when the queue is not empty
	ended  chan struct{}

	// failed holds the first commit error. The state on disk is unknown from
	// then on, so everything after it is refused: what was requested counts
	// as spent.
	failed atomic.Pointer[error]
}

func newCommitter(s Store, observe Observer, log *slog.Logger, tallied func(tally), a *anchor, d *digest, o *outbox, spread func(Event, bool)) *committer {
	c := &committer{
		store: s, observe: observe, log: log, tallied: tallied, anchor: a, digest: d, outbox: o, spread: spread,
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	if d != nil {
		c.told = commitRecord{seq: d.seq, root: d.root, store: d.store}
	}
	go c.run()
	return c
}

// submit queues a change. It never blocks; it may be called with locks held.
func (c *committer) submit(ch change) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		// done may take the locks that the caller holds.
		go ch.done(ErrClosed)
		return
	}
	c.queue = append(c.queue, ch)
	c.backlog.Add(1)
	c.mu.Unlock()
	c.signal()
}

func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// close lets everything queued be written, then ends the goroutine.
func (c *committer) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.signal()
	<-c.ended
}

func (c *committer) run() {
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
func (c *committer) commit(changes []change) int {
	errs, left := make([]error, len(changes)), map[int]error{}
	if failed := c.failed.Load(); failed != nil {
		for i := range changes {
			changes[i].done(*failed)
		}
		return len(changes)
	}
	start := time.Now()
	c.began.Store(start.UnixNano())
	defer c.began.Store(0)
	var taken int
	b := new(batch) // a store may fail before it has begun
	for {
		taken = 0
		err := c.store.Update(func(tx Tx) error {
			taken = 0
			b = &batch{Tx: tx, digest: c.digest, clock: c.clock, chain: c.chain, job: c.job, doomed: c.doomed, onces: c.onces, outbox: c.outbox}
			if c.digest != nil {
				b.store = c.digest.store
			}
			if now := c.clock.Now(); now.Sub(c.marked).Abs() >= markEvery {
				b.now = now
			}
			for i := range changes {
				if b.full() {
					break
				}
				taken++
				if left[i] != nil {
					continue
				}
				if errs[i] = nil; !changes[i].begin() {
					errs[i] = ErrBusy
					continue
				}
				before, told, posts := b.entries, len(b.told), len(b.posts)
				if errs[i] = changes[i].apply(b); errs[i] == nil {
					continue
				}
				if b.entries != before {
					left[i] = errs[i]
					return errHalfWritten
				}
				b.told, b.posts = b.told[:told], b.posts[:posts]
			}
			return b.finish()
		})
		if errors.Is(err, errHalfWritten) {
			continue // once more, without the change that failed
		}
		if err == nil && c.digest != nil && b.entries > 0 {
			err = c.anchored(b)
		}
		c.wasFull.Store(errors.Is(err, ErrNoSpace))
		if errors.Is(err, ErrNoSpace) {
			c.full(err)
			for i := range changes {
				changes[i].done(err)
			}
			return len(changes)
		}
		if err != nil {
			c.poison(err)
			for i := range taken {
				errs[i] = err
			}
		}
		break
	}
	if b.entries > 0 && c.observe != nil {
		c.observe.Committed(time.Since(start), taken)
	}
	if !b.now.IsZero() && b.entries > 0 {
		c.marked = b.now
	}
	if b.entries > 0 && c.failed.Load() == nil {
		c.onces = b.onces
	}
	if b.chained && c.failed.Load() == nil {
		c.extend(b.chain)
	}
	if c.failed.Load() == nil {
		c.job = b.job
	}
	if b.sums != nil && c.failed.Load() == nil {
		c.tallied(*b.sums)
	}
	if c.failed.Load() == nil {
		c.outbox.committed(b.posts)
		for i := range b.told {
			c.spread(b.told[i].Event, b.told[i].observe)
		}
	}
	for i := range taken {
		changes[i].done(errs[i])
	}
	return taken
}

// extend takes over the audit log as it is after a commit.
func (c *committer) extend(to chain) {
	c.chain = to
	c.head.Store(&to)
}

// full says, at most once a minute, that nothing can be written.
func (c *committer) full(err error) {
	if now := time.Now(); now.Sub(c.saidFull) >= time.Minute {
		c.saidFull = now
		c.log.Error("nothing is admitted that needs the disk until there is space again", "error", err)
	}
}

// anchored makes a commit known to the anchor, before anybody else.
func (c *committer) anchored(b *batch) error {
	c.digest.seq++
	c.digest.root = b.root
	for bucket, s := range b.buckets {
		c.digest.buckets[bucket] = s
	}
	if err := c.anchor.write(c.digest.seq, c.digest.root); err != nil {
		return err
	}
	c.told.seq, c.told.root = c.digest.seq, c.digest.root
	return nil
}

// check compares what the store says of an account with the digest, at least
// when its bucket is read first. A store that disagrees is refused.
func (c *committer) check(r Reader, id accountID) error {
	if c.digest == nil {
		return nil
	}
	err := c.digest.check(r, id)
	if errors.Is(err, ErrDoubt) {
		c.poison(err)
	}
	return err
}

// poison refuses everything from here on.
func (c *committer) poison(err error) {
	if c.failed.CompareAndSwap(nil, &err) {
		c.log.Error("the store failed and is refused until it was opened anew; what was reserved counts as spent",
			"error", err)
	}
}

var errHalfWritten = errors.New("a change failed after it had written")
