package limiter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// unavailable is the refusal of a limiter that cannot answer, or nil.
func (l *Limiter) unavailable() *record.Refusal {
	if l.Failed() != nil {
		return storeRefusal("the store has failed")
	}
	if l.closed.Load() {
		return storeRefusal("the server is stopping")
	}
	if err := l.fresh(); err != nil {
		return outOfTouch(err)
	}
	return nil
}

// Failed returns why the store refuses everything since a commit failed, or nil.
// A failed Limiter stays so: close it and open another.
func (l *Limiter) Failed() error { return l.committer.Failure() }

// silentAfter is how long a commit may run before that is reported.
const silentAfter = 2 * time.Second

// Trouble returns what is wrong with the store now, or nil: that it has failed, that
// its disk is full, that it does not answer, or that this node has lost touch with
// it. Only a failure does not resolve by itself.
func (l *Limiter) Trouble(ctx context.Context) error {
	if err := l.Failed(); err != nil {
		return err
	}
	if began := l.committer.Running(); !began.IsZero() {
		if silent := time.Since(began); silent > silentAfter {
			return fmt.Errorf("%s has not answered for %s, and what needs it is refused", l.medium(), silent.Round(time.Second))
		}
	}
	if err := l.fresh(); err != nil {
		return err
	}
	if l.committer.Full() { // it may have room again without having been asked
		return l.Ping(ctx)
	}
	return nil
}

// complain logs what could not be written or read, unless the committer has said why, or complain has
// said this of a damaged record before: there may be as many such errors as requests. A store
// in doubt is refused.
func (l *Limiter) complain(what string, err error, args ...any) {
	if errors.Is(err, store.ErrDoubt) {
		l.committer.Poison(err)
	}
	if isDamaged(err) && !l.reports(what, err) {
		return
	}
	if l.Failed() == nil && !errors.Is(err, store.ErrNoSpace) && !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrClosed) {
		l.log.Error(what, append(args, "error", err)...)
	}
}

// Contradicted reports whether the limiter has failed because a record contradicts what
// this node knows, while the store that nodes share has lost no commit. Then either memory
// was wrong, or somebody has changed the record. Another limiter may follow: what this one
// has used, and holds, counts as spent there, whatever the store says.
func (l *Limiter) Contradicted() bool {
	if l.closed.Load() {
		return l.contradicted.Load()
	}
	return l.shared != nil && errors.Is(l.committer.Cause(), store.ErrDoubt) && !errors.Is(l.shared.Fresh(), store.ErrDoubt)
}

// StillFailed says why the store of a failed Limiter, which is closed, could not be opened
// again. Where nodes share it, running requests are cut: nobody could tell this node that
// a key was stopped.
func (l *Limiter) StillFailed(err error) {
	l.committer.StillFailed(err)
	if l.shared != nil {
		l.cutAll(storeRefusal("this server has lost touch with the database"))
	}
}

// cutAll cuts every request, and returns how many there were.
func (c *cache) cutAll(why *record.Refusal) (n int) {
	for _, k := range c.everyLive() {
		n += k.cutWhere(why, func(*Grant) bool { return true })
	}
	return n
}

// Ping waits until the store has answered, and returns what is wrong with it.
func (l *Limiter) Ping(context.Context) error {
	if l.closed.Load() {
		return store.ErrClosed
	}
	return l.committer.Do(func(*batch) error { return nil }, nil)
}
