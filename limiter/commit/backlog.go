package commit

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// All work that waits for the store is bounded. Requests share one change per account,
// however many wait for it, and wait for Options.Patience at most; when maxWaiting of
// them wait, further ones are refused at once. Administrative calls wait as long for
// their turn. The sweeper writes one change per key, and continues only while little
// other work waits. So a store that falls behind costs time and refusals, never
// memory.
const (
	// DefaultPatience bounds how long a request, or an administrative call, waits
	// for the store.
	DefaultPatience = 5 * time.Second
	// maxBacklog is how many changes may wait before an administrative call no
	// longer adds its own.
	maxBacklog = 16_384
)

// ErrTooSlow is the error of a caller whose patience has run out.
var ErrTooSlow = errors.New("the store did not answer in time")

// ErrBusy is wrapped by the answer to an administrative call when the store has
// fallen behind. Nothing was done.
var ErrBusy = errors.New("the store is too busy: nothing was done, try again in some seconds")

// ErrOutcome is wrapped by the answer to an administrative call that the store began
// but did not finish in time, or whose transaction failed once the store was asked to
// commit it.
var ErrOutcome = errors.New("the store does not answer: it is not known whether this was done, look before you repeat it")

// These are the states of a change that a caller waits for.
const (
	waiting int32 = iota
	begun
	abandoned
)

// begin reports whether a change is still wanted. It may be called again for a change
// that has begun.
func (ch *change[B]) begin() bool {
	return ch.state == nil || ch.state.CompareAndSwap(waiting, begun) || ch.state.Load() == begun
}

// Do submits a change and waits for it: at most the committer's patience until it
// begins, and at most as long again until it is done.
func (c *Committer[B]) Do(apply func(b B) error, done func()) error {
	patience := time.NewTimer(c.options.Patience)
	defer patience.Stop()
	if !c.Room(maxBacklog, patience.C) {
		return ErrBusy
	}
	state := new(atomic.Int32)
	result := c.await(change[B]{state: state, apply: apply}, done)
	select {
	case err := <-result:
		return err
	case <-patience.C:
	}
	if state.CompareAndSwap(waiting, abandoned) {
		return ErrBusy
	}
	patience.Reset(c.options.Patience)
	select {
	case err := <-result:
		return err
	case <-patience.C:
		return fmt.Errorf("%w: %w", ErrOutcome, ErrTooSlow)
	}
}

// DoPatiently submits a change and waits for it, however long that takes.
func (c *Committer[B]) DoPatiently(apply func(b B) error, done func()) error {
	return <-c.await(change[B]{apply: apply}, done)
}

// LookPatiently is Look, but waits until it is done, however long that takes.
func (c *Committer[B]) LookPatiently(look func(r store.Reader) error, done func()) error {
	return <-c.await(change[B]{look: look}, done)
}

func (c *Committer[B]) await(ch change[B], done func()) <-chan error {
	result := make(chan error, 1)
	ch.done = func(err error) {
		if err == nil && done != nil {
			done()
		}
		result <- err
	}
	c.enqueue(ch)
	return result
}

// roomEvery is the time between two looks at the backlog.
const roomEvery = 2 * time.Millisecond

// Room waits until fewer than most changes wait, and reports false if enough fires
// first.
func (c *Committer[B]) Room(most int64, enough <-chan time.Time) bool {
	for c.backlog.Load() >= most {
		select {
		case <-enough:
			return false
		case <-time.After(roomEvery):
		}
	}
	return true
}
