package limiter

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// Lockdown is the switch that refuses every key of a store at once. It is not part of
// the store, because it has to work while that is closed, full or damaged: it holds
// in memory from the moment it is set, and a small file beside the store remembers it
// across a restart. It outlives the successive Limiters of a store.
//
// Where several nodes share the store, a lockdown takes effect on all of them, so a
// record in the store says whether one is in force, and all follow that: see
// lockdownshare.go.
type Lockdown struct {
	path    string
	log     *slog.Logger
	observe Observer // or nil
	clock   commit.Clock

	state atomic.Pointer[LockedDown] // nil: keys work

	mu       sync.Mutex // guards limiters
	limiters map[*Limiter]struct{}

	// turn is held while the file is read or written: by administrative calls and
	// by a retry, never by a request. The disk may not answer, so callers wait no
	// longer than patience.
	turn     chan struct{}
	patience time.Duration

	read   atomic.Bool   // the file was read
	calls  atomic.Int64  // to set and to lift it
	latest atomic.Int64  // the latest of these that set it
	lifted int64         // the last of these that lifted it
	acts   []lockdownAct // that are not yet in the audit log
	owed   atomic.Int64  // how many these are, with those that calls are about to add
	shared atomic.Bool   // other nodes use the store, too
	retry  chan struct{} // closed to end the goroutine that tries to write again; nil: none
}

// LockedDown says since when, by whom and why every key is refused.
type LockedDown struct {
	Since  time.Time `json:"since"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	// Durable says that it survives a restart; where several nodes share the store,
	// that all of them learn of it.
	Durable bool `json:"-"`
	// Pending names the nodes that have not yet followed when it was set; see
	// [Limiter.Pending].
	Pending []string `json:"-"`
}

// ErrLockedAgain is the answer to lifting a lockdown when another one was set since the call.
var ErrLockedAgain = errors.New("the lockdown stays in force: another one was set meanwhile")

// ErrNotLocked is the answer to lifting a lockdown when there is none.
var ErrNotLocked = errors.New("there is no lockdown")

// LockdownOptions configures a Lockdown.
type LockdownOptions struct {
	// Path is that of its file. The others may be left out.
	Path     string
	Observe  Observer      // hears when it is set and lifted
	Logger   *slog.Logger  // Default: discarded.
	Clock    commit.Clock  // Default: SystemClock.
	Patience time.Duration // how long callers wait for the disk. Default: [commit.DefaultPatience].
	// Shared says, before any store is open, that other nodes share it, so that a lockdown
	// set before the database was ever reached is not taken for one that all nodes know of.
	Shared bool
}

// NewLockdown returns the switch. It reads nothing yet: see [Lockdown.Recall].
func NewLockdown(o LockdownOptions) *Lockdown {
	d := &Lockdown{
		path: o.Path, observe: o.Observe, log: Scrubbed(cmp.Or(o.Logger, slog.New(slog.DiscardHandler))),
		clock: cmp.Or[commit.Clock](o.Clock, commit.SystemClock{}), patience: cmp.Or(o.Patience, commit.DefaultPatience),
		limiters: make(map[*Limiter]struct{}), turn: make(chan struct{}, 1),
	}
	d.shared.Store(o.Shared)
	return d
}

// inTurn runs fn in the file's turn, and reports whether fn began and ended in time.
// Once begun, fn runs to its end; without a turn in time it is not run.
func (d *Lockdown) inTurn(fn func()) (begun, ended bool) {
	patience := time.NewTimer(d.patience)
	defer patience.Stop()
	select {
	case d.turn <- struct{}{}:
	case <-patience.C:
		return false, false
	}
	return true, d.await(patience, func() {
		defer func() { <-d.turn }()
		fn()
	})
}

func (d *Lockdown) await(patience *time.Timer, fn func()) (ended bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
		return true
	case <-patience.C:
		return false
	}
}

// State returns what is in force, or nil.
func (d *Lockdown) State() *LockedDown {
	if d == nil {
		return nil
	}
	return d.state.Load()
}

// Set refuses every key from now on, cuts the running requests, and returns how many
// it cut. A failure to make it durable is not an error, because the lockdown
// holds all the same: the state says so, and the write is tried again.
func (d *Lockdown) Set(by Caller, reason string) (LockedDown, int, error) {
	if err := onlyOperator(by); err != nil {
		return LockedDown{}, 0, err
	}
	if err := record.ValidText("reason", reason); err != nil {
		return LockedDown{}, 0, err
	}
	reason = token.Scrub(reason) // holders of keys see it
	now, _ := d.clock.Now()
	// It takes effect first; writing the file may take a while.
	call := d.calls.Add(1)
	for last := d.latest.Load(); last < call && !d.latest.CompareAndSwap(last, call); last = d.latest.Load() {
	}
	s := &LockedDown{Since: now.UTC().Truncate(time.Millisecond), By: by.Name, Reason: reason}
	if before := d.state.Load(); before != nil && !before.Since.IsZero() {
		// Setting it again without a reason keeps the reason that was given.
		s.Since, s.Reason = before.Since, cmp.Or(reason, before.Reason)
	}
	reason = s.Reason
	d.owed.Add(1) // first, so that followLockdown does not lift it
	d.state.Store(s)
	cut := d.cut()
	d.log.Warn("lockdown: every key is refused", "by", by.Name, "reason", reason, "requests_cut", cut)
	if d.observe != nil {
		d.observe.Happened(event.Event{Name: event.LockdownSet, At: now.UTC(), By: by.Name, Reason: reason})
	}
	patience := time.NewTimer(d.patience)
	defer patience.Stop()
	ended := d.await(patience, func() {
		d.turn <- struct{}{}
		defer func() { <-d.turn }()
		act := lockdownAct{At: now, Action: audit.ActLockdownSet, By: by.Name, From: by.From, Reason: reason}
		if d.lifted > call { // by a caller who knew of it
			d.note(act)
			return
		}
		d.recall()
		// It replaces whatever was there before this call got the turn, but nothing later.
		before := d.state.Load()
		for (before == nil || d.latest.Load() == call) && !d.state.CompareAndSwap(before, s) {
			before = d.state.Load()
		}
		if before == nil { // it was lifted on this node, and requests admitted since are running
			d.log.Warn("lockdown: every key is refused again", "by", by.Name, "reason", reason, "requests_cut", d.cut())
		}
		d.endRetry()
		if err := d.write(d.state.Load()); err != nil {
			d.log.Error("every key is refused, but that is not yet durable: a restart would end it", "file", d.path, "error", err)
			d.retry = make(chan struct{})
			go d.tryAgain(d.retry)
		}
		d.note(act)
	})
	if !ended {
		d.log.Error("every key is refused, but the disk does not answer, so that is not yet durable: a restart would end it", "file", d.path)
	}
	set := *s.or(d.state.Load())
	set.Pending = d.pending(&set)
	return set, cut, nil
}

// or returns the state in force if that is the same lockdown, and otherwise s.
func (s *LockedDown) or(now *LockedDown) *LockedDown {
	if now == nil || now.Since != s.Since || now.Reason != s.Reason {
		return s
	}
	return now
}

// Lift lets keys work again, once it is certain that a restart will not refuse them.
// ErrNotLocked says that no lockdown is in force.
func (d *Lockdown) Lift(by Caller) error {
	if err := onlyOperator(by); err != nil {
		return err
	}
	call := d.calls.Add(1)
	var lifted error
	switch begun, ended := d.inTurn(func() { lifted = d.lift(by, call) }); {
	case ended:
		return lifted
	case begun:
		return fmt.Errorf("lifting the lockdown: %w: %w", commit.ErrOutcome, commit.ErrTooSlow)
	}
	return fmt.Errorf("the lockdown stays in force: %w", commit.ErrBusy)
}

// lift is Lift for callers that have the turn.
func (d *Lockdown) lift(by Caller, call int64) error {
	d.recall()
	s := d.state.Load()
	switch {
	case s == nil:
		return ErrNotLocked
	case d.latest.Load() > call:
		return ErrLockedAgain
	}
	again := false
	now, _ := d.clock.Now()
	lift := lockdownAct{At: now, Action: audit.ActLockdownLift, By: by.Name, From: by.From}
	if d.shared.Load() {
		if err := d.liftShared(lift); err != nil { // where all nodes look
			return fmt.Errorf("the lockdown stays in force: %w", err)
		}
		again = !d.state.CompareAndSwap(s, nil) // any node may have set another one since
		d.forgetFile()
	} else {
		if err := d.removeFile(); err != nil {
			return fmt.Errorf("the lockdown stays in force: %w", err)
		}
		d.endRetry()
		d.lifted = call
		again = !d.state.CompareAndSwap(s, nil)
		d.owed.Add(1)
		d.note(lift)
	}
	if again {
		return ErrLockedAgain
	}
	d.log.Warn("the lockdown was lifted", "by", by.Name)
	if d.observe != nil {
		d.observe.Happened(event.Event{Name: event.LockdownLifted, At: now.UTC(), By: by.Name})
	}
	return nil
}

// Close ends the goroutine that retries, if there is one.
func (d *Lockdown) Close() { d.inTurn(d.endRetry) }

// join registers a Limiter whose requests a lockdown cuts. Closed ones whose last
// request has ended are removed.
func (d *Lockdown) join(l *Limiter) {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	d.recall() // before any key is looked at
	d.mu.Lock()
	for old := range d.limiters {
		if old.closed.Load() && old.holds.Load() == 0 {
			delete(d.limiters, old)
		}
	}
	d.limiters[l] = struct{}{}
	d.mu.Unlock()
	d.shared.Store(l.shared != nil)
	d.audit()
}

// cut ends every running request. The state is already set, and a request is linked
// under its key's lock after it has looked at the state, so none is missed.
func (d *Lockdown) cut() (n int) {
	d.mu.Lock()
	limiters := make([]*Limiter, 0, len(d.limiters))
	for l := range d.limiters {
		limiters = append(limiters, l)
	}
	d.mu.Unlock()
	for _, l := range limiters {
		for _, k := range l.everyLive() {
			if r := l.lockedDown(k.Key()); r != nil {
				n += k.cut(r)
			}
		}
	}
	return n
}

// Refusal is the refusal of requests while a lockdown is in force, and nil while
// there is none. key may be nil, where it is not known.
func (d *Lockdown) Refusal(key *record.Key) *record.Refusal {
	s := d.State()
	if s == nil {
		return nil
	}
	r := &record.Refusal{Code: record.CodeLockedDown, Message: "no key may be used now: every key is refused"}
	if key != nil {
		r = key.Refuse(record.CodeLockedDown, "may not be used now: every key is refused")
	}
	if !s.Since.IsZero() {
		r.Message += " since " + record.Stamp(s.Since)
	}
	if s.Reason != "" {
		r.Message += ": " + s.Reason
	}
	return r
}

// lockedDown is the refusal of a key while a lockdown is in force.
func (l *Limiter) lockedDown(key *record.Key) *record.Refusal {
	if l.lockdown == nil {
		return nil
	}
	return l.lockdown.Refusal(key)
}
