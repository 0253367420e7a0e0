package limiter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// DefaultRetain is how long an ended key stays listed.
const DefaultRetain = 90 * 24 * time.Hour

// agreeing is how long the clock must have run on by itself before anything is
// forgotten, if it was far ahead of the store's at the start: a server that was off
// for days cannot be distinguished from one whose clock is wrong.
const agreeing = 24 * time.Hour

// retention is how long ended keys and entries of the audit log are kept.
type retention struct {
	retain     atomic.Int64  // nanoseconds that ended keys stay
	keepAudit  atomic.Int64  // nanoseconds; 0: for ever
	retained   chan struct{} // holds one token when one of these has changed
	forgetFrom time.Time     // nothing is forgotten before then
}

// Retain sets how long ended keys stay listed. After that they are forgotten:
// record, strings, salts and history go, so that none of their boxes ever opens;
// their use stays in the sums, and the audit log stays. 0: DefaultRetain.
func (r *retention) Retain(d time.Duration) {
	d = cmp.Or(d, DefaultRetain)
	if r.retain.Swap(int64(d)) != int64(d) {
		r.wakeUpkeep()
	}
}

// wakeUpkeep has the sweeper forget at once what has been kept too long.
func (r *retention) wakeUpkeep() {
	select {
	case r.retained <- struct{}{}:
	default:
	}
}

// forgetLater puts off forgetting if the clock is far ahead of the latest time that the
// store has seen. Zero: it has seen none.
func (r *retention) forgetLater(now, seen time.Time) {
	if !seen.IsZero() && now.Sub(seen) > agreeing {
		r.forgetFrom = now.Add(agreeing)
	}
}

// mayForget reports whether the time is known well enough to delete anything by it. If
// the end of the wait is further away than the wait was, the clock was repaired meanwhile.
func (l *Limiter) mayForget() bool {
	wait := l.forgetFrom.Sub(l.clock.Now())
	return l.clock.Doubt() == 0 && (wait <= 0 || wait > agreeing)
}

// sweepPatience is how long the sweeper waits for the other nodes: a stop waits for the
// sweeper.
const sweepPatience = time.Second

// sweepShared bounds the keys that one commit forgets where several nodes share the store:
// the rows of each key are looked up one after the other, and no other node commits
// meanwhile.
const sweepShared = 16

// sweepEnded forgets keys that ended long enough ago.
func (l *Limiter) sweepEnded() {
	if !l.mayForget() || !l.leads() {
		return
	}
	most := sweepKeys
	if l.shared != nil {
		most = sweepShared
	}
	var after []byte
	for !l.stopping() {
		before := l.clock.Now().Add(-time.Duration(l.retain.Load()))
		found, err := store.Read(l.store, func(r store.Reader) ([]position, error) {
			return entriesUntil(r, indexSpace(byEnd), after, before.Unix(), most)
		})
		if err == nil && len(found) == 0 {
			return
		}
		if err == nil && l.shared != nil { // some may have been written a moment ago
			var behind []string
			if behind, err = l.shared.Settled(sweepPatience); err == nil && len(behind) > 0 {
				return // the next sweep finds them again
			}
		}
		var rest []string
		leftOut := func(id string, err error) { l.leaveOut("forgetting keys that have ended", id, err) }
		if err == nil {
			after = found[len(found)-1].at
			err = apart(idsOf(found), func(some []string) error {
				others, err := l.forgetEnded(some, before)
				if len(some) == 1 && errors.Is(err, store.ErrTooBig) {
					others, err = some, nil
				}
				rest = append(rest, others...)
				return err
			}, leftOut)
		}
		for _, id := range rest {
			if err != nil || l.stopping() {
				break
			}
			err = apart([]string{id}, func([]string) error { return l.forgetOne(id) }, leftOut)
			if errors.Is(err, store.ErrTooBig) { // the others still have to be forgotten
				if err = fmt.Errorf("key %s: %w", id, err); l.reports("forgetting keys that have ended", err) {
					l.log.Error("forgetting an ended key failed", "error", err)
				}
				err = nil
			}
		}
		if err != nil {
			if !errors.Is(err, store.ErrClosed) {
				l.log.Error("forgetting ended keys failed", "error", err)
			}
			return
		}
	}
}

// forgetOne forgets a key that is in memory, or has a family, or is too much for one commit.
func (l *Limiter) forgetOne(id string) error {
	err := l.forgetWithin(context.Background(), itself, id, sweepPatience)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrAlive) || errors.Is(err, ErrFamily) || errors.Is(err, ErrInUse) {
		return nil // it has gone, or lives again, or has to wait
	}
	return err
}

// forgetEnded forgets, in one commit, those keys that are not in memory and have no
// family, and returns the others.
func (l *Limiter) forgetEnded(ids []string, before time.Time) (rest []string, err error) {
	var gone []string
	err = l.committer.DoPatiently(func(b *batch) error {
		rest, gone = nil, nil
		if err := l.fetchKeys(b, ids); err != nil {
			return err
		}
		for _, id := range ids {
			key, acct, err := record.ReadKey(b, id)
			switch {
			case errors.Is(err, store.ErrNotFound):
				continue
			case err != nil:
				return err
			case key.EndedStatus == "" || key.EndedAt.After(before):
				continue
			case key.Attached() || key.Delegate || l.known(id):
				rest = append(rest, id)
				continue
			}
			if err := b.erase(itself, key, acct.Counted()); err != nil {
				return err
			}
			gone = append(gone, id)
		}
		return nil
	}, func() {
		for _, id := range gone {
			if k := l.inMemory(id); k != nil {
				l.drop(k)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if len(gone) > 0 {
		l.log.Info("ended keys were forgotten", "keys", len(gone))
	}
	return rest, nil
}

// forgetHistory forgets the history of an ended key in several commits, where it is too
// much for one.
func (l *Limiter) forgetHistory(by Caller, k *Live) error {
	if err := l.recordEnd(by, k); err != nil {
		return err
	}
	id := k.Key().ID
	all := func([]byte) (gone, more bool) { return true, true }
	err := commit.Prune(l.committer.Writer(), l.store, l.stopping, record.HourPrefix(id), all, func(t *commit.Transaction, _ []byte) error {
		key, _, err := record.ReadKey(t, id)
		if err == nil && key.EndedStatus == "" {
			err = ErrAlive // since a moment ago
		}
		return err
	})
	if err == nil && l.stopping() {
		err = store.ErrClosed // some of it may be left
	}
	return err
}

// erase removes everything that the store holds of a key except its entries in the
// audit log; used is the key's use, which stays in the sums.
func (b *batch) erase(by Caller, key *record.Key, used record.Amounts) error {
	var gone [][]byte
	err := b.Scan(record.HourPrefix(key.ID), nil, false, func(hour, _ []byte) (bool, error) {
		gone = append(gone, slices.Clone(hour))
		return true, nil
	})
	if err != nil {
		return err
	}
	account, err := record.KeyAccount(key.ID)
	if err != nil {
		return err
	}
	if err := b.setAccount(account, false, nil); err != nil {
		return err
	}
	if b.node != "" {
		parts, err := readParts(b, account)
		if err != nil {
			return err
		}
		for i := range parts {
			gone = append(gone, parts[i].key)
		}
		gone = append(gone, crossedKey(key.ID))
	}
	gone = append(gone, record.RecordKey(key.ID))
	if key.Due != 0 {
		gone = append(gone, record.DueKey(key.Due, key.ID))
	}
	for _, lookup := range key.Lookups() {
		gone = append(gone, record.LookupKey(lookup))
	}
	if err := store.DeleteAll(b, append(gone, key.SaltKeys()...)); err != nil {
		return err
	}
	sums, err := b.sums.Change(b.Transaction)
	if err != nil {
		return err
	}
	sums.Forgotten.Add(used)
	if err := b.count(key.Recorded(), ""); err != nil {
		return err
	}
	if err := b.index(key, nil); err != nil {
		return err
	}
	return b.audit(by.entry(audit.ActKeyForget, key.ID, record.Changes(key, nil)))
}
