package limiter

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/integrity"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// What tests drive by hand instead of waiting for the sweeper's clock.

func (l *Limiter) SweepActive() { l.sweepActive() }
func (l *Limiter) SweepDue()    { l.redoStops(); l.redoTokenStops(); l.sweepDue() }
func (l *Limiter) SweepStale()  { l.sweepStale() }
func (l *Limiter) SweepIdle()   { l.sweepIdle() }
func (l *Limiter) SweepEnded()  { l.sweepEnded() }

// FreeSpace is what may still be written in a directory, in bytes.
func FreeSpace(dir string) (int64, error) { return store.FreeSpace(dir) }

// GivesSlot reports whether the shadow has a slot to give.
func (l *Limiter) GivesSlot() bool {
	sl := l.shadow.Take(integrity.Remembered{ID: record.AccountID{1}})
	l.shadow.Release(sl)
	return sl != nil
}

// Now is the time that limits are judged by.
func (l *Limiter) Now() time.Time { return l.clock.Now() }

// Abandon leaves a limiter as a killed process would: nothing is given back.
// The store stays as it is; only the goroutines end.
func (l *Limiter) Abandon() {
	if l.closed.Swap(true) {
		return
	}
	close(l.stop)
	l.sweepers.Wait()
	<-l.jobs.stopped
	l.committer.Close()
	if err := l.leaveShadow(); err != nil {
		panic(err) // it was open
	}
}

// Limiter returns the limiter of a key.
func (k *Live) Limiter() *Limiter { return k.l }

// CheckIndexes holds every index entry against the records: none is missing,
// none too many.
func (l *Limiter) CheckIndexes() error {
	return l.store.View(func(r store.Reader) error {
		want := make(map[string]bool)
		err := r.Scan([]byte(record.SpaceKeys), nil, false, func(at, value []byte) (bool, error) {
			key, err := record.DecodeKey(value)
			if err != nil {
				return false, err
			}
			id, err := record.KeyAccount(key.ID)
			if err != nil {
				return false, err
			}
			b, err := r.Get(record.AccountKey(id))
			if err != nil {
				return false, err
			}
			acct, err := record.DecodeAccount(b)
			if err != nil {
				return false, err
			}
			for _, entry := range append(indexKeys(key), lastUseKey(id, acct.Last)) {
				want[string(entry)] = true
			}
			return true, nil
		})
		if err != nil {
			return err
		}
		err = r.Scan([]byte(spaceIndexes), nil, false, func(entry, _ []byte) (bool, error) {
			if !want[string(entry)] {
				return false, fmt.Errorf("index entry %q leads to no record that says so", entry)
			}
			delete(want, string(entry))
			return true, nil
		})
		for entry := range want {
			err = errors.Join(err, fmt.Errorf("index entry %q is missing", entry))
		}
		return err
	})
}

// Left are the keys of the store, but for the audit log, that still name a key.
func (l *Limiter) Left(id string) (left []string, err error) {
	account, err := record.KeyAccount(id)
	if err != nil {
		return nil, err
	}
	err = l.store.View(func(r store.Reader) error {
		return r.Scan(nil, nil, false, func(key, value []byte) (bool, error) {
			audit := bytes.HasPrefix(key, []byte(record.SpaceAudit))
			if !audit && (bytes.Contains(key, []byte(id)) || bytes.Contains(value, []byte(id)) || bytes.Equal(key, record.AccountKey(account))) {
				left = append(left, string(key))
			}
			return true, nil
		})
	})
	return left, err
}

// Due counts the keys whose time is over and that were not looked at.
func (l *Limiter) Due() int {
	found, err := store.Read(l.store, func(r store.Reader) ([]position, error) {
		return entriesUntil(r, []byte(record.SpaceDue), nil, l.clock.Now().Unix(), 1<<20)
	})
	if err != nil {
		panic(err)
	}
	return len(found)
}

// Backlog is how many changes wait for the store.
func (l *Limiter) Backlog() int64 { return l.committer.Backlog() }

// ShrinkTo keeps most keys in memory.
func (l *Limiter) ShrinkTo(most int) { l.shrink(most) }

// Loaded is how many keys are in memory.
func (l *Limiter) Loaded() int { return len(l.everyLive()) }

const (
	MaxJobs    = maxJobs
	MostJobs   = mostJobs
	SweepKeys  = sweepKeys
	BulkUnread = bulkUnread
	KeepJobs   = keepJobs
	MaxWaiting = maxWaiting
)

// InMemory reports whether the key is in memory.
func (l *Limiter) InMemory(id string) bool { return l.known(id) }

// Reserved returns what is durably reserved on a key's account, by memory
// and by the store.
func (l *Limiter) Reserved(id string) (memory, stored record.Amounts, err error) {
	if memory, err = l.ReservedHere(id); err != nil {
		return memory, stored, err
	}
	err = l.store.View(func(r store.Reader) error {
		_, acct, err := record.ReadKey(r, id)
		stored = acct.Reserved
		return err
	})
	return memory, stored, err
}

// ReservedHere is what is reserved by memory alone.
func (l *Limiter) ReservedHere(id string) (memory record.Amounts, err error) {
	k, err := l.load(id)
	if err != nil {
		return memory, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reserved, nil
}

// WriteAgain is what the goroutine does that could not write at first.
func (d *Lockdown) WriteAgain() {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	if err := d.write(d.state.Load()); err == nil {
		d.endRetry()
	}
}

var (
	EncodeAccount = func(r record.Account) []byte { return r.Encode() }
)

// TimeAfter is the time that a watch tells so long after its start, when the
// wall clock was set by that much meanwhile.
func TimeAfter(start time.Time, elapsed, set time.Duration) time.Time {
	w := &commit.Watch{}
	w.Last.Store(start.UnixNano())
	return w.At(start.Add(elapsed+set), start.Add(elapsed)).UTC()
}

// AuditLines are the entries of the audit log as they are stored.
func (l *Limiter) AuditLines() (lines []string, err error) {
	err = l.store.View(func(r store.Reader) error {
		return r.Scan([]byte(record.SpaceAudit), nil, false, func(_, line []byte) (bool, error) {
			lines = append(lines, string(line))
			return true, nil
		})
	})
	return lines, err
}

// ParseAuditLine are the fields of one entry.
func ParseAuditLine(line []byte) (map[string]any, error) {
	e, err := audit.ParseLine(line)
	return e.Fields, err
}

func (l *Limiter) SweepAttempts() { l.attempts.Sweep() }

func (l *Limiter) PruneAudit() error { return l.pruneAudit() }

// Book is what the store says of one key.
type Book struct {
	Key                       *record.Key
	Given, Returned, Reserved record.Amounts
	Lineage                   uint64
	Children                  []string // whose rest has not come back
}

// Books reads all keys at one moment.
func (l *Limiter) Books() (map[string]*Book, error) {
	books := make(map[string]*Book)
	err := l.store.View(func(r store.Reader) error {
		return r.Scan([]byte(record.SpaceKeys), nil, false, func(at, _ []byte) (bool, error) {
			id := string(at[len(record.SpaceKeys):])
			key, acct, err := record.ReadKey(r, id)
			if err != nil {
				return false, err
			}
			children, err := record.ChildrenOf(r, id)
			books[id] = &Book{key, acct.Given, acct.Returned, acct.Reserved, acct.Lineage, children}
			return true, err
		})
	})
	return books, err
}

func (l *Limiter) PruneOnces() error { return l.pruneOnces() }

// Onces counts the calls under idempotency keys that the store knows, and
// compares that with what the committer thinks.
func (l *Limiter) Onces() (n int, err error) {
	err = l.store.View(func(r store.Reader) error {
		n, err = countOnces(r)
		return err
	})
	var counts int
	if err == nil {
		err = l.committer.Do(func(b *batch) error { // whose it is
			if l.shared == nil {
				counts = l.onces.known
				return nil
			}
			n, err := b.onces.count(b.Transaction)
			counts = *n
			return err
		}, nil)
	}
	if err == nil && n != counts {
		err = fmt.Errorf("the committer counts %d", counts)
	}
	return n, err
}

// WriteCommon replaces what nodes have in common.
func (l *Limiter) WriteCommon(what, value string) error {
	return l.committer.Do(func(b *batch) error { return b.Set(record.CommonKey(what), []byte(value)) }, nil)
}

// SweepAdmin does what one node does for all.
func (l *Limiter) SweepAdmin() { l.sweepAdmin() }

// FillOnces pretends that so many calls are known.
func (l *Limiter) FillOnces(n int) error {
	return l.committer.Do(func(*batch) error { return nil }, func() { l.onces.known = n })
}

// SetPatience lets callers wait for the disk for another time, while nobody does.
func (d *Lockdown) SetPatience(p time.Duration) { d.patience = p }

// TakeTurn keeps everybody else from the file until the returned function is called.
func (d *Lockdown) TakeTurn() (end func()) {
	d.turn <- struct{}{}
	return func() { <-d.turn }
}

// Paced counts the rates that are kept of keys that are not in memory.
func (l *Limiter) Paced() int {
	l.liveMu.Lock()
	defer l.liveMu.Unlock()
	return len(l.pacings)
}

// ForgetStopper makes a key's record one from before it said who suspended it.
func (l *Limiter) ForgetStopper(id string) error {
	return l.edit(itself, audit.ActKeySuspend, id, func(key *record.Key, _ *record.Account) error {
		key.SuspendedBy = record.Stopper{}
		return nil
	}, nil)
}

// Picks reports whether a filter picks a key, whatever index leads to it.
func (f *Filter) Picks(v *View, now time.Time) bool { return f.picks(v, now) }

// Save writes what memory knows of every key.
func (l *Limiter) Save() error { return l.saveAll() }

// Follows reports whether other nodes follow a row.
func Follows(row []byte) bool { return followed(row) }

// Recalled is what happens when another node asks for what is reserved of an account.
func (l *Limiter) Recalled(id record.AccountID) { l.recalled(id) }

const MaxLookUps = maxLookUps

// LeaveOut leaves out a record.
func (l *Limiter) LeaveOut(id string, err error) { l.leaveOut("being tested", id, err) }

// MaxReported is how many records are named in an hour.
const MaxReported = maxReported
