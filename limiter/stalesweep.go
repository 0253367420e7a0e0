package limiter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

const (
	// DefaultStaleAfter is how long a key goes unused before it counts as stale.
	DefaultStaleAfter = 30 * 24 * time.Hour
	// staleWarning is how long before its end a stale key is reported.
	staleWarning = 24 * time.Hour
	// One sweep looks at this many keys, and acts on this many.
	staleLooks = 20_000
	staleActs  = 1000
	// staleAgain is after how long a sweep begins with the oldest keys again: resumed
	// or revived ones may come before its position.
	staleAgain = time.Hour
)

// staleRule is what the configuration says about unused keys.
type staleRule struct {
	mu     sync.Mutex
	after  time.Duration
	revoke bool
	from   []byte    // the index entry after which the next sweep begins
	whole  time.Time // when a sweep last began with the oldest key
}

// SetStale sets how long a key goes unused before it is reported as stale, and whether
// it is then revoked. 0: the default.
func (l *Limiter) SetStale(after time.Duration, revoke bool) {
	if after <= 0 {
		after = DefaultStaleAfter
	}
	l.stale.mu.Lock()
	defer l.stale.mu.Unlock()
	if l.stale.after != after || l.stale.revoke != revoke {
		l.stale.from = nil
	}
	l.stale.after, l.stale.revoke = after, revoke
}

func (l *Limiter) staleAfter() time.Duration {
	l.stale.mu.Lock()
	defer l.stale.mu.Unlock()
	return l.stale.after
}

// unusedSince is when the key was last used, or minted, or revived.
func (v *View) unusedSince() time.Time {
	return slices.MaxFunc([]time.Time{v.CreatedAt, v.LastUsedAt, v.RevivedAt}, time.Time.Compare)
}

// sweepStale reports keys that have become stale, and revokes them where the
// configuration says so: never until a day after they were reported, or half of the
// time where that is shorter. Keys become stale in the order of their last use, which
// is that of an index, so a sweep looks only at those that have become stale since
// the previous one.
func (l *Limiter) sweepStale() {
	if !l.leads() {
		return
	}
	now := l.clock.Now()
	l.stale.mu.Lock()
	after, revoke, from := l.stale.after, l.stale.revoke, l.stale.from
	if now.Sub(l.stale.whole).Abs() >= staleAgain { // or the clock had run ahead
		from, l.stale.whole = nil, now
	}
	l.stale.mu.Unlock()
	s := staleSweep{l: l, now: now, after: after, revoke: revoke, warning: min(staleWarning, after/2), resume: from}
	if err := s.run(from); err != nil && !errors.Is(err, store.ErrClosed) {
		l.log.Error("looking for stale keys failed", "error", err)
		return
	}
	l.stale.mu.Lock()
	if l.stale.after == after { // not set again meanwhile
		l.stale.from = s.resume
	}
	l.stale.mu.Unlock()
}

type staleSweep struct {
	l              *Limiter
	now            time.Time
	after, warning time.Duration
	revoke         bool

	acts    int
	waiting bool   // a key has to be looked at again
	resume  []byte // where the next sweep continues
}

func (s *staleSweep) run(from []byte) error {
	lead := s.after
	if s.revoke {
		lead -= s.warning
	}
	var entries []position
	err := store.Upkeep(s.l.store, func(r store.Reader) (err error) {
		entries, err = entriesUntil(r, indexSpace(byLastUse), from, s.now.Add(-lead).Unix()/60, staleLooks)
		return err
	})
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if s.acts >= staleActs || s.l.stopping() {
			return nil
		}
		again, err := s.look(entry.id)
		if err != nil && !s.l.leaveOut("looking for stale keys", entry.id, err) {
			return err
		}
		s.waiting = s.waiting || again
		if !s.waiting {
			s.resume = entry.at
		}
	}
	return nil
}

// look judges one key, and reports whether it must be looked at again.
func (s *staleSweep) look(id string) (again bool, err error) {
	var v View
	err = store.Upkeep(s.l.store, func(r store.Reader) error {
		if err := s.l.fetchViews(r, []string{id}); err != nil {
			return err
		}
		record, err := r.Get(record.RecordKey(id))
		if err != nil {
			return err
		}
		v, err = s.l.viewOf(r, id, record, s.now)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return false, nil // forgotten meanwhile
	}
	if err != nil {
		return false, err
	}
	since := v.unusedSince()
	unused := s.now.Sub(since)
	reported := v.StaleToldAt
	if !reported.After(since) || s.ahead(reported) {
		reported = time.Time{} // it was used after that
	}
	switch {
	case v.Status != record.Active:
		return false, nil
	case v.InFlight > 0 || v.Children > 0: // it is in use, or what it gave to children is
		return true, nil
	case reported.IsZero() && (unused >= s.after || s.revoke && unused >= s.after-s.warning):
		s.acts++
		return s.revoke, s.warn(&v, since)
	case reported.IsZero():
		return true, nil // the index is accurate to a minute
	case !s.revoke:
		return false, nil
	case unused < s.after || s.now.Sub(reported) < s.warning:
		return true, nil
	}
	s.acts++
	return false, s.end(id, since)
}

// ahead reports whether a key was reported by a clock that had run ahead. Nodes may differ a little.
func (s *staleSweep) ahead(reported time.Time) bool {
	return reported.Sub(s.now) > max(s.warning, time.Minute)
}

// errUsed says that a key was used since it was judged.
var errUsed = errors.New("the key was used meanwhile")

// end revokes a key that has been unused since then.
func (s *staleSweep) end(id string, since time.Time) error {
	k, err := s.l.load(id)
	if err != nil {
		return err
	}
	write := revoking(itself, audit.ActKeyRevoke, fmt.Sprintf("unused since %s, longer than stale_after allows", record.Stamp(since)))
	_, err = s.l.halt(itself, k, record.CodeKeyRevoked, func(b *batch, old, key *record.Key, acct *record.Account, at time.Time) error {
		if record.FromNanos(acct.Last).After(since) {
			return errUsed
		}
		return write(b, old, key, acct, at)
	})
	if errors.Is(err, errUsed) {
		return nil
	}
	if err == nil {
		s.l.windUpNow(context.Background(), itself, id)
	}
	return err
}

// warn reports once that a key is stale.
func (s *staleSweep) warn(v *View, since time.Time) error {
	e := event.Event{Name: event.KeyStale, Since: since}
	if s.revoke {
		e.EndsAt = since.Add(s.after)
		if earliest := s.now.Add(s.warning); e.EndsAt.Before(earliest) {
			e.EndsAt = earliest.UTC()
		}
	}
	err := s.l.editIn(itself, audit.ActKeyStale, v.ID, func(b *batch, key *record.Key, acct *record.Account) error {
		if key.StaleToldAt.After(since) && !s.ahead(key.StaleToldAt) || record.FromNanos(acct.Last).After(since) {
			return nil // another node has reported it, or it was used
		}
		key.StaleToldAt, e.Key = s.now.UTC(), key
		return b.emit(e)
	}, nil)
	if err == nil {
		s.l.log.Info("a key is stale", "key_id", v.ID, "unused_since", since, "revoked_at", e.EndsAt)
	}
	return err
}
