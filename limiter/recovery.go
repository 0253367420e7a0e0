package limiter

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/integrity"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// recover turns what the shadow counter remembers into records, and begins a
// new session. It may be cut off at any point and run again.
func (l *Limiter) recover(roles map[string]record.Role, after *Limiter) error {
	boot := store.BootID()
	var last, next integrity.Session
	var remembered []integrity.Remembered
	err := l.store.View(func(r store.Reader) error {
		b, _, err := store.Find(r, l.sessionKey())
		if err == nil && len(b) == integrity.SessionLen && l.shadow != nil {
			last = integrity.Session(b)
			remembered = l.shadow.Recall(last, boot)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("reading store: %w", err)
	}
	known := make(map[record.AccountID]bool, len(roles))
	for name := range roles {
		known[record.RoleAccount(name)] = true
	}
	now, former := l.clock.Now().UnixNano(), after.ledger()
	// To forget old hours, each account scans its history backwards, and Badger first sorts the
	// transaction's own writes. In this order, no scan runs into rows that others have deleted.
	slices.SortFunc(remembered, func(a, b integrity.Remembered) int { return bytes.Compare(b.ID[:], a.ID[:]) })
	const perTransaction = 256
	for len(remembered) > 0 {
		n := min(len(remembered), perTransaction)
		err := apart(remembered[:n], func(some []integrity.Remembered) error {
			return l.committer.DoPatiently(func(b *batch) error {
				still, _, err := store.Find(b, l.sessionKey())
				if err != nil {
					return err
				}
				if !bytes.Equal(still, last[:]) { // another node removes this one, and counts what it had
					return nil
				}
				return recoverAccounts(b, some, known, now, former)
			}, nil)
		}, func(a integrity.Remembered, err error) { // its reservations count as spent
			l.leaveOut("recovering budgets", a.ID.KeyID(), err)
		})
		if err != nil {
			return fmt.Errorf("recovering budgets: %w", err)
		}
		remembered = remembered[n:]
	}
	if _, err := rand.Read(next[:]); err != nil {
		return fmt.Errorf("beginning session: %w", err)
	}
	err = l.committer.DoPatiently(func(b *batch) error {
		if err := b.Set(store.FormatKey, []byte(store.Format)); err != nil {
			return err
		}
		if l.shared != nil {
			if err := b.Delete(removalKey(l.node())); err != nil { // it has come back
				return err
			}
			switch _, err := b.Get(l.sessionKey()); {
			case errors.Is(err, store.ErrNotFound) && after != nil: // also if this commit's answer is lost
				after.removed.Store(true)
			case err != nil && !errors.Is(err, store.ErrNotFound):
				return err
			}
		}
		return errors.Join(b.Set(l.sessionKey(), next[:]), makeFingerprintKey(b))
	}, nil)
	if err != nil {
		return fmt.Errorf("beginning session: %w", err)
	}
	if l.shadow != nil {
		l.shadow.Begin(next, boot)
	}
	l.fingerprints.secret, err = store.Read(l.store, readFingerprintKey)
	return err
}

// sessionKey is the key of the session to which this limiter's shadow belongs.
func (l *Limiter) sessionKey() []byte {
	if l.shared == nil {
		return record.MetaSession
	}
	return record.NodeKey(l.node(), "session")
}

// recoverAccounts brings what the shadow saw into the records. Anything that does not
// add up is left alone, and so counts as spent. former is the ledger of the limiter that this
// one follows, whose history is not lost either; nil: it follows none.
func recoverAccounts(b *batch, accounts []integrity.Remembered, roles map[record.AccountID]bool, now int64, former ledger) error {
	var rows [][]byte
	for i := range accounts {
		rows = append(append(rows, accountRows(accounts[i].ID, b.node)...), hourRow(accounts[i].ID, cmp.Or(min(accounts[i].Last, now), now)))
	}
	if err := store.Fetch(b, rows...); err != nil {
		return err
	}
	for i := range accounts {
		seen := &accounts[i]
		rec, there, err := record.FindAccount(b, seen.ID)
		if err != nil {
			return err
		}
		if !there {
			if !roles[seen.ID] {
				continue
			}
			rec.Lineage = seen.Lineage // of a role that was being used for the first time
		}
		id := seen.ID.KeyID()
		_, ofKey, err := store.Find(b, record.RecordKey(id))
		if err != nil {
			return err
		}
		own, err := b.own(seen.ID, &rec)
		if err != nil {
			return err
		}
		if rec.Lineage == seen.Lineage { // otherwise a renewal came between the two
			recoverAccount(&rec, &own, seen, former, now)
		}
		if ofKey && former == nil {
			if err := recoverHistory(b, id, &rec, &own, now); err != nil {
				return err
			}
		}
		if err := b.setOwn(seen.ID, &rec, &own); err != nil {
			return err
		}
		if err := b.setAccount(seen.ID, !ofKey, &rec); err != nil {
			return err
		}
	}
	return nil
}

// accountRows names the records of an account, of its key, and of a node's part.
func accountRows(id record.AccountID, node string) [][]byte {
	return [][]byte{record.AccountKey(id), record.RecordKey(id.KeyID()), record.PartKey(id, node)}
}

// hourRow names the record of one hour in the history of an account's key.
func hourRow(id record.AccountID, at int64) []byte {
	return record.HourKey(id.KeyID(), time.Unix(0, at).UTC().Truncate(time.Hour).Unix())
}

// recoverAccount brings what the shadow saw of an account into its record: the amounts spent
// and those that requests held. Only the former limiter can tell the two apart. If it is lost,
// so are the requests, and the amounts they held count as spent; otherwise they may give
// these back.
func recoverAccount(r *record.Account, own *record.Part, seen *integrity.Remembered, former ledger, now int64) {
	for k, used := range seen.Used {
		if used >= 0 && used <= record.MaxAmount {
			own.Reserved[k] = used // more: an overdraft, or use without a limit, that was not yet recorded
		}
	}
	own.Settled = own.Reserved
	if spent, known := former.spent(seen.ID, r.Lineage); known {
		for k := range own.Settled {
			own.Settled[k] = min(own.Settled[k], spent[k])
		}
	}
	r.Last = max(r.Last, min(seen.Last, now)) // the clock may have been set back
	if r.First == 0 {
		r.First = r.Last
		if seen.First > 0 && seen.First < r.Last {
			r.First = seen.First
		}
	}
}

// recoverHistory adds use that is missing in a key's history to the hour of its last use.
// The types of the missing tokens are no longer known.
func recoverHistory(b *batch, id string, r *record.Account, own *record.Part, now int64) error {
	used := durable(own)
	missing := used
	for k := range missing {
		missing[k] = max(used[k]-own.Booked[k], 0)
	}
	own.Booked = used
	own.Kinds.Unmeasured += max(used[record.Tokens]-own.Kinds.Sum(), 0)
	if missing == (record.Amounts{}) {
		return nil
	}
	hour := Bucket{
		Start: time.Unix(0, cmp.Or(r.Last, now)).UTC().Truncate(time.Hour),
		Kinds: record.TokenKinds{Unmeasured: missing[record.Tokens]},
	}
	hour.book(&missing)
	return writeHours(b, id, []Bucket{hour})
}
