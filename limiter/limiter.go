// Package limiter decides whether a request may be forwarded, and keeps that
// decision true over concurrency, crashes and restarts: keys, their limits,
// and the reservation of budget before use (Reserve, then Settle or Cancel).
//
// What is forwarded never exceeds what is durably reserved, and that never exceeds
// the limit. Anything in doubt after a crash counts as spent.
//
// The package knows no Caddy, no HTTP and no vendor: a request is an Ask, a
// refusal is a value, and a dollar is a number.
package limiter

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/access"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/integrity"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Options configures a Limiter.
type Options struct {
	// Store keeps everything. The Limiter closes it. Several nodes may share one
	// that is a store.Shared.
	Store store.Store
	// Shadow is the path of the shadow counter's file. Without one, a crash
	// costs each busy key what is left of its block. Default: none.
	Shadow string
	// Anchor is the path of the file that knows the last commit, so that a store
	// that has lost commits is detected. A shared store has none. Default: none.
	Anchor string
	// Disk holds these two files. Default: Files.
	Disk store.Disk
	// Clock supplies the time. Default: SystemClock.
	Clock commit.Clock
	// After is the former Limiter of this store, which has failed and was closed. What
	// it had in memory is carried over. Default: none.
	After *Limiter
	// Repaired says that the store has been repaired since, and so need not hold
	// everything that After knew. Default: false.
	Repaired bool
	// Logger receives what an operator should know. Default: discarded.
	Logger *slog.Logger
	// Roles are the configured roles, by name. Default: none.
	Roles map[string]record.Role
	// KeepAudit is how long entries of the audit log are kept; 0: for ever.
	KeepAudit time.Duration
	// StaleAfter is how long a key goes unused before it is reported as stale, and
	// StaleRevoke says that it is then revoked. Default: DefaultStaleAfter.
	StaleAfter  time.Duration
	StaleRevoke bool
	// Hooks are the webhooks that events are kept for. Default: none.
	Hooks []event.Hook
	// Posted is called when something was put into the webhooks' outbox. It must not
	// block. Default: none.
	Posted func()
	// Observe receives measurements. Default: none.
	Observe Observer
	// Retain is how long ended keys stay listed; see [Limiter.Retain]. Default:
	// DefaultRetain.
	Retain time.Duration
	// Lockdown refuses every key while it is set. Default: none.
	Lockdown *Lockdown
	// Patience is how long a request, or an administrative call, waits for the
	// store. Default: DefaultPatience.
	Patience time.Duration
	// Turn is how long a request waits for others to settle, and TurnBytes is how
	// much the waiting requests may keep in memory together. Default:
	// DefaultTurn, and no bound.
	Turn      time.Duration
	TurnBytes int64
	// Exiting reports whether the process is ending, so that no request waits.
	// Default: no.
	Exiting func() bool
}

// Observer receives measurements of the store. It must not block.
type Observer interface {
	// Committed is called with how long a group commit took and how many changes
	// were in it.
	Committed(took time.Duration, changes int)
	// Happened is called with each event: about a key or a token once it is durable,
	// and about a lockdown once it is in force. Locks may be held.
	Happened(event.Event)
}

// Limiter admits requests. It is safe for concurrent use. There must be one
// per store.
type Limiter struct {
	store     store.Store
	nodes               // that share it, if several do
	follower  *follower // nil where the store is not shared
	committer *commit.Committer[*batch]
	digest    *integrity.Digest // nil without an anchor
	shadow    *integrity.Shadow
	clock     *commit.Watch
	log       *slog.Logger
	observe   Observer  // or nil
	lockdown  *Lockdown // or nil
	ids       ids

	cache      // of the keys that are in use
	unknown    unknowns
	authority  // over what callers may do and see
	tokens     *access.Tokens
	tokenStops tokenStops

	fingerprints
	stale staleRule

	outbox   *event.Outbox
	auditLog audit.Log
	onces    onces
	sums     commit.Sums

	// Every request writes holds and reads closed, so they are not in one cache line.
	holds     atomic.Int64
	waiting   atomic.Int64 // requests that wait for the store
	turns     turns
	exiting   func() bool
	forfeited atomic.Int64
	damaged                          // records, which are left out
	dueResume atomic.Pointer[[]byte] // where the next sweep of due keys begins; nil: at the front
	closed    atomic.Bool
	// contradicted is what Contradicted returned when the Limiter was closed.
	contradicted atomic.Bool
	// removed says that the node was removed from the store while this Limiter ran: what
	// it has in memory was counted then.
	removed atomic.Bool

	retention // of ended keys and of the audit log
	jobs      jobs

	stop     chan struct{} // closed to end the sweepers and the jobs
	sweepers sync.WaitGroup
}

// Open takes over a store: it recovers what the shadow counter remembers of a
// crash, makes that durable under a new session, and only then serves.
func Open(o Options) (_ *Limiter, err error) {
	if o.Disk == nil {
		o.Disk = store.Files{}
	}
	if o.Clock == nil {
		o.Clock = commit.SystemClock{}
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.Logger = Scrubbed(o.Logger)
	l := &Limiter{
		store: o.Store, log: o.Logger, observe: o.Observe, lockdown: o.Lockdown,
		turns: turns{patience: cmp.Or(o.Turn, DefaultTurn), most: cmp.Or(o.TurnBytes, math.MaxInt64)}, exiting: o.Exiting,
		ids:       newIDs(),
		stop:      make(chan struct{}),
		retention: retention{retained: make(chan struct{}, 1)},
		jobs:      jobs{wake: make(chan struct{}, 1), stopped: make(chan struct{})},
	}
	l.cache.clear()
	defer func() {
		if err == nil {
			return
		}
		l.closed.Store(true) // so that no lockdown writes through it
		if l.committer != nil {
			l.committer.Close()
		}
		err = errors.Join(err, l.digest.Close(), l.shadow.Close())
	}()
	if o.Shadow != "" {
		if l.shadow, err = integrity.OpenShadow(o.Disk, o.Shadow); err != nil {
			return nil, err
		}
	}
	if err := l.join(&o); err != nil {
		return nil, err
	}
	if o.Anchor != "" {
		if l.digest, err = integrity.Open(o.Disk, o.Anchor, o.Store); err != nil {
			return nil, err
		}
	}
	if o.After != nil && !o.Repaired {
		if err := l.digest.Succeeds(o.After.digest); err != nil {
			return nil, err
		}
	}
	if err := l.readClock(o.Clock, o.After); err != nil {
		return nil, err
	}
	l.damaged.log, l.damaged.clock = l.log, l.clock
	jobs, err := l.readBooks()
	if err != nil {
		return nil, err
	}
	if o.After != nil && !o.Repaired && o.After.Contradicted() {
		if err := l.auditLog.Succeeds(&o.After.auditLog); err != nil {
			return nil, err
		}
	}
	l.startCommitter(&o, jobs)
	l.attempts = access.NewAttempts(l.clock, l.reportAttempts)
	l.Retain(o.Retain)
	if err := l.takeShare(); err != nil {
		return nil, err
	}
	if err := l.recover(o.Roles, o.After); err != nil {
		return nil, err
	}
	if l.tokens, err = access.ReadTokens(l.store, l.committer.Writer(), func(id string, err error) { l.leaveOut("reading admin tokens", id, err) }); err != nil {
		return nil, err
	}
	if err := l.SetRoles(o.Roles); err != nil {
		return nil, err
	}
	l.jobs.heardOf(jobs)
	l.recallJobs(jobs)
	if err := l.outbox.SetHooks(o.Hooks); err != nil {
		return nil, err
	}
	l.KeepAudit(o.KeepAudit)
	l.SetStale(o.StaleAfter, o.StaleRevoke)
	if l.lockdown != nil {
		l.lockdown.join(l)
		if l.shared != nil {
			if err := l.followLockdown(); err != nil {
				return nil, err
			}
		}
	}
	if o.After != nil { // from here on nothing may fail: running requests have left the former Limiter
		if err := l.inherit(o.After); err != nil {
			return nil, err
		}
	}
	if err := l.follower.open(); err != nil {
		return nil, err
	}
	l.sweepers.Go(l.sweepLoop)
	l.sweepers.Go(l.upkeepLoop)
	if l.shared != nil {
		l.sweepers.Go(l.countLoop)
	}
	go l.jobsLoop()
	return l, nil
}

// readBooks reads the state that every commit is kept in step with, and the jobs.
func (l *Limiter) readBooks() (jobs []Job, err error) {
	err = l.store.View(func(r store.Reader) error {
		head, err := audit.ReadChain(r)
		if err != nil {
			return err
		}
		l.auditLog.Follow(head)
		if l.shared == nil { // otherwise transactions read it
			if l.onces.known, err = countOnces(r); err != nil {
				return err
			}
		}
		if err := store.CheckFormat(r); err != nil {
			return fmt.Errorf("reading store: %w", err)
		}
		if l.sums.Durable, err = commit.ReadTally(r); err != nil {
			return err
		}
		if jobs, err = readJobs(r); err != nil {
			return fmt.Errorf("reading jobs: %w", err)
		}
		return nil
	})
	return jobs, err
}

// startCommitter starts the committer with everything that takes part in commits.
func (l *Limiter) startCommitter(o *Options, jobs []Job) {
	events := event.Options{Store: o.Store, Clock: l.clock, Posted: o.Posted, Stopping: l.stopping,
		Damaged: func(row []byte, err error) { l.leaveOut("telling of events", fmt.Sprintf("%q", row), err) }}
	if o.Observe != nil {
		events.Happened = o.Observe.Happened
	}
	l.outbox = event.NewOutbox(events)
	b := &batch{
		clock: l.clock, mark: &commit.ClockMark{Clock: l.clock}, log: &l.auditLog, onces: &l.onces, outbox: l.outbox,
		revocations: &revocations{ofLive: l.liveRevocation, picked: l.picksStored}, sums: &l.sums, node: l.node(),
	}
	for i := range jobs {
		b.revocations.last = max(b.revocations.last, jobs[i].Number)
	}
	with := commit.Options[*batch]{
		Store: o.Store, Log: o.Logger, Patience: cmp.Or(o.Patience, commit.DefaultPatience), Participants: b.participants(),
		Batch: func(t *commit.Transaction) *batch {
			b.Transaction = t
			return b
		},
	}
	if l.digest != nil {
		with.Guard = l.digest
	}
	if o.Observe != nil {
		with.Observe = o.Observe.Committed
	}
	l.committer = commit.New(with)
	l.outbox.Start(l.committer.Writer())
}

// closePatience is how long Close waits for a database. Whatever it has not taken by then
// counts as used.
const closePatience = 10 * time.Second

// Close gives back what is reserved and unused, writes what is known, and
// closes the store. Requests still in flight count as used up to their bound.
func (l *Limiter) Close() error {
	contradicted := l.Contradicted() // a closed store does not say whether it is in doubt
	if l.closed.Swap(true) {
		return store.ErrClosed
	}
	l.contradicted.Store(contradicted)
	closeStore := sync.OnceValue(l.store.Close)
	if l.shared != nil {
		defer time.AfterFunc(closePatience, func() { closeStore() }).Stop() // its error is returned below
	}
	l.outbox.Feeds.Close()
	close(l.stop)
	l.sweepers.Wait()
	<-l.jobs.stopped
	l.attempts.Flush()
	if l.Failed() == nil {
		l.redoStops()
		l.redoTokenStops()
	}
	if err := l.tokens.SaveUses(); err != nil && l.Failed() == nil {
		l.log.Error("saving when admin tokens were used last", "error", err)
	}
	if l.awaitsBlocks() {
		// Blocks on their way are given back as well. If the store does not answer, they
		// count as used, and what follows meets the same error.
		_ = l.committer.Do(func(*batch) error { return nil }, nil)
	}
	now := l.clock.Now().UnixNano()
	l.everyAccount(func(a *account, k *Live) {
		if k != nil && k.inUse() {
			k.used(now)
		}
		l.save(a, k, true)
	})
	l.committer.Close()
	l.LogAuditHead()
	var failed error
	if err := l.Failed(); err != nil {
		failed = fmt.Errorf("the store had failed: %w", err)
	}
	return errors.Join(failed, l.leaveShadow(), l.digest.Close(), closeStore())
}

// awaitsBlocks reports whether the committer has yet to answer for an account.
func (l *Limiter) awaitsBlocks() (awaits bool) {
	l.everyAccount(func(a *account, _ *Live) { awaits = awaits || a.asked })
	return awaits
}

// leaveShadow closes the shadow. Requests that outlive it settle in memory only.
func (l *Limiter) leaveShadow() error {
	l.shadow.Stop()
	l.everyAccount(func(a *account, _ *Live) { a.slot = nil })
	return l.shadow.Close()
}
