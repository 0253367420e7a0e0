package limiter

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Time is the time by which limits are judged.
func (l *Limiter) Time() time.Time { return l.clock.Now() }

// readClock starts the clock from the time that the store has seen.
func (l *Limiter) readClock(wall commit.Clock, after *Limiter) error {
	if l.shared != nil { // the time is the database's, which no node keeps
		var mark time.Time
		if after != nil {
			mark, l.forgetFrom = after.clock.Now(), after.forgetFrom // not longer for a database that was away
		}
		l.clock = commit.NewWatch(wall, mark) // the former one follows a connection that is closed
		return nil
	}
	if after != nil {
		l.clock, l.forgetFrom = after.clock, after.forgetFrom
		return nil
	}
	mark, err := store.Read(l.store, readMark)
	if err != nil {
		return fmt.Errorf("reading store: %w", err)
	}
	l.clock = commit.NewWatch(wall, mark)
	l.forgetLater(l.clock.Now(), mark)
	if off := l.clock.Doubt(); off != 0 {
		l.log.Error("the clock is behind what the store has seen, so time stands there until it has caught up; if the clock is right, run: caddy till repair --clock",
			"behind", (-off).String())
	}
	return nil
}

// readMark reads the latest time that a store which is not shared has seen; zero: none.
func readMark(r store.Reader) (time.Time, error) {
	b, there, err := store.Find(r, record.MetaClock)
	if err != nil || !there {
		return time.Time{}, err
	}
	if len(b) != 8 {
		return time.Time{}, fmt.Errorf("clock: %w", record.ErrRecord)
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(b))).UTC(), nil
}

// writeMark writes the time that readMark reads.
func writeMark(tx store.Tx, at time.Time) error {
	return tx.Set(record.MetaClock, binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano())))
}

// RepairClock believes the machine's clock again, after it was set back or had
// run ahead; where several nodes share the store, all of them believe the clock of
// the database again.
func (l *Limiter) RepairClock(by Caller) (time.Time, error) {
	if err := l.authorise(by, record.Everything, nil); err != nil {
		return time.Time{}, err
	}
	before := l.clock.Now()
	now := l.repairClock()
	l.log.Warn("the clock was repaired", "from", before, "to", now, "by", by.Name)
	err := l.committer.Do(func(b *batch) error {
		b.mark.Set(now)
		if b.Shared() {
			if err := writeMark(b, now); err != nil {
				return err
			}
		}
		return b.audit(by.entry(audit.ActClockRepair, "", map[string]record.Delta{"time": {Before: record.Stamp(before), After: record.Stamp(now)}}))
	}, nil)
	return now.UTC(), err
}

// followClock believes the database's clock again, as another node says.
func (l *Limiter) followClock() {
	before := l.clock.Now()
	l.log.Warn("the clock was repaired by another node", "from", before, "to", l.repairClock())
}

// repairClock believes the clock again, and takes budgets back into its window.
func (l *Limiter) repairClock() time.Time {
	now := l.clock.Set()
	l.everyAccount(func(a *account, k *Live) {
		if k != nil {
			k.pacing.bound(k.key.Rate, now.UnixNano())
		}
		if a.notAfter(now.UnixNano()) && k != nil {
			l.markActive(k)
		}
	})
	l.realignAll(now)
	return now
}

// realignAll realigns everything in memory.
func (l *Limiter) realignAll(now time.Time) {
	l.everyAccount(func(a *account, k *Live) { l.realign(a, k, now) })
}

// notAfter takes the times that an account has from a clock that had run ahead back to the
// present, and reports whether they are to be saved. Callers hold the account.
func (a *account) notAfter(nanos int64) (save bool) {
	a.pace.start, a.savedAt = min(a.pace.start, nanos), min(a.savedAt, nanos)
	if a.last <= nanos {
		return false
	}
	a.last, a.savedAt = nanos, 0
	return true
}
