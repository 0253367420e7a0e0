package limiter

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// sweepKeys bounds the keys that one commit of the sweeper examines.
const sweepKeys = 128

// sweepDue ends keys whose time is over, including those that are not in memory.
func (l *Limiter) sweepDue() {
	if !l.leads() {
		return
	}
	var after []byte
	if resume := l.dueResume.Swap(nil); resume != nil {
		after = *resume
	}
	left := 0
	for !l.stopping() {
		found, err := store.Read(l.store, func(r store.Reader) ([]position, error) {
			return entriesUntil(r, []byte(record.SpaceDue), after, l.clock.Now().Unix(), sweepKeys)
		})
		if err != nil {
			l.log.Error("looking for keys whose time is over failed", "error", err)
			return
		}
		if len(found) == 0 {
			return
		}
		after = found[len(found)-1].at
		var rest []string
		err = apart(found, func(some []position) error {
			others, err := l.endDue(some)
			rest = append(rest, others...)
			return err
		}, func(due position, err error) {
			left++
			l.leaveOut("ending keys whose time is over", due.id, err)
		})
		if err != nil {
			if !errors.Is(err, store.ErrClosed) {
				l.log.Error("ending keys whose time is over failed", "error", err)
			}
			return
		}
		for _, id := range rest {
			if l.stopping() {
				return
			}
			err := l.endIfDue(id)
			if err != nil && !errors.Is(err, store.ErrClosed) && !errors.Is(err, store.ErrNotFound) && !l.leaveOut("ending keys whose time is over", id, err) {
				l.log.Error("ending a key whose time is over failed", "key_id", id, "error", err)
			}
		}
		if left >= sweepKeys { // each took a change of its own, so the next sweep goes on after them
			l.dueResume.Store(&after)
			return
		}
	}
}

func (l *Limiter) stopping() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// endDue records, in one commit, the ends of those keys that are not in memory
// and stand alone, and returns the others.
func (l *Limiter) endDue(found []position) (rest []string, err error) {
	var ended []*record.Key
	err = l.committer.DoPatiently(func(b *batch) error {
		rest, ended = nil, nil
		if err := l.fetchKeys(b, idsOf(found)); err != nil {
			return err
		}
		for _, due := range found {
			old, acct, err := record.ReadKey(b, due.id)
			if errors.Is(err, store.ErrNotFound) {
				if err := b.Delete(due.at); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return err
			}
			if old.Attached() || old.Delegate || len(old.Former) > 0 || l.known(due.id) {
				rest = append(rest, due.id)
				continue
			}
			if l.willRevokeStored(b, old) {
				continue // the job ends it
			}
			key := old.Clone()
			k := &Live{l: l, key: key}
			account, err := record.KeyAccount(key.ID)
			if err != nil {
				return err
			}
			own, err := b.own(account, &acct)
			if err != nil {
				return err
			}
			k.restore(&acct, &own, key.Limit)
			now := l.clock.Now()
			if status, code := k.status(now); status == record.Expired && old.EndedStatus == "" && !l.mayBeUsed(old, &acct, code) {
				ended = append(ended, key)
				err = b.endKey(old, key, &acct, ownEnd(record.Expired, code, now))
			} else {
				err = writeKey(b, old, key, &acct, nil)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}, func() {
		for _, key := range ended {
			l.follow(key, nil)
		}
	})
	if err != nil {
		rest = nil
	}
	return rest, err
}

// unwritten is how long a node may have used a key before it writes that to the store.
const unwritten = saveEvery + 5*time.Second

// mayBeUsed reports whether another node may know of a later use, since which the key has not
// been idle for long enough. What this node knows is enough to refuse a request, but the end
// of a key is final.
func (l *Limiter) mayBeUsed(key *record.Key, acct *record.Account, code record.Code) bool {
	if l.shared == nil || code != record.CodeKeyIdle {
		return false
	}
	since := max(acct.Last, nanosOf(key.CreatedAt), nanosOf(key.RevivedAt))
	return l.clock.Now().UnixNano()-since < int64(key.IdleTimeout+unwritten)
}

// willRevokeStored reports whether a job will end a key that is not in memory.
func (l *Limiter) willRevokeStored(r store.Reader, key *record.Key) bool {
	for _, j := range l.jobs.running() {
		hit := j.matches(key, func(at time.Time) View {
			v, err := l.viewStored(r, key, at)
			if err != nil {
				l.log.Error("reading a key failed", "key_id", key.ID, "error", err)
			}
			return v
		})
		if hit {
			return true
		}
	}
	return false
}

// endIfDue records the end of a key whose time is over, or puts it back into
// the time index at the moment when it will be over.
func (l *Limiter) endIfDue(id string) error {
	k, err := l.load(id)
	if err != nil {
		return err
	}
	now := l.clock.Now()
	k.mu.Lock()
	code := k.timeUp(now)
	used := k.first != 0
	last := record.FromNanos(k.last)
	running := k.inflight+k.turns > 0
	var over *record.Refusal
	if code != "" {
		over = k.timeRefusal(code)
	}
	k.mu.Unlock()
	if over != nil && running {
		k.cut(over)
	}
	err = l.rewrite(id, func(b *batch, old, key *record.Key, acct *record.Account) error {
		if used && acct.First == 0 {
			acct.First = max(last.UnixNano(), 1)
		}
		acct.Last = max(acct.Last, nanosOf(last))
		if key.SweepFormer(now); !reflect.DeepEqual(key, old) {
			key.Version++ // a salt was removed
		}
		status, now, err := k.derive(b, key, acct)
		if err != nil {
			return err
		}
		if status == record.Expired && now == code && old.EndedStatus == "" && !l.mayBeUsed(old, acct, code) {
			return b.endKey(old, key, acct, ownEnd(record.Expired, code, l.clock.Now()))
		}
		return writeKey(b, old, key, acct, nil)
	}, nil)
	if err == nil {
		err = l.windUp(context.Background(), itself, id)
	}
	if errors.Is(err, errInFlight) {
		return nil // it stays due
	}
	return err
}
