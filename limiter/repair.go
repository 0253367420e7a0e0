package limiter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/oklog/ulid/v2"
)

// Repaired is what Forfeit did.
type Repaired struct {
	Keys      int64 // that were looked at
	Forfeited int64 // keys and roles whose remaining budgets now count as spent
	Suspended int64 // keys without such a budget: nothing else stops them
}

// One commit of a repair looks at so many records, and so many bytes of them.
const (
	repairStep  = 1000
	repairBytes = 256 << 10
)

// Forfeit makes a store usable that does not agree with its anchor: whatever
// may have been spent since what it still knows counts as spent, which is every
// remaining budget, and keys that only time limits are suspended. Then the
// anchor is written anew. It may be cut off at any point and run again. Nobody
// else may have the store open.
func Forfeit(s Store, anchorPath string, now time.Time, log *slog.Logger) (done Repaired, err error) {
	a := &anchor{path: anchorPath}
	if err := os.Remove(anchorPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return done, fmt.Errorf("removing the anchor: %w", err)
	}
	if err := a.make(); err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	d := &digest{secret: a.secret}
	sums := tally{Keys: make(map[Status]int64)}
	old, err := readSums(s)
	if err != nil {
		return done, err
	}
	sums.Forgotten = old.Forgotten

	// Until the last commit, which has the new sums, the store stays in doubt:
	// its commit record is that of another anchor.
	err = s.Update(func(tx Tx) error { return tx.Set(metaCommit, (&commitRecord{}).encode()) })
	if err != nil {
		return done, err
	}
	var after []byte
	for more := true; more; {
		if after, more, err = forfeitAccounts(s, d, after, &sums, &done); err != nil {
			return done, fmt.Errorf("forfeiting budgets: %w", err)
		}
	}
	after = nil
	for more := true; more; {
		if after, more, err = forfeitKeys(s, d, after, now, &sums, &done); err != nil {
			return done, fmt.Errorf("suspending keys: %w", err)
		}
	}
	for bucket, s := range d.buckets {
		d.root.add(d.bucketRoot(uint16(bucket), s))
	}
	err = s.Update(func(tx Tx) error {
		b := &batch{Tx: tx, sums: &sums, entries: 1}
		if err := b.finish(); err != nil {
			return err
		}
		for bucket := range d.buckets {
			if err := setOrDelete(tx, bucketKey(uint16(bucket)), d.buckets[bucket]); err != nil {
				return err
			}
		}
		if err := tx.Delete(metaSession); err != nil { // no shadow is believed
			return err
		}
		return tx.Set(metaCommit, (&commitRecord{seq: 1, root: d.root, store: a.store}).encode())
	})
	if err != nil {
		return done, err
	}
	log.Warn("the store was repaired: remaining budgets count as spent", "keys", done.Keys, "forfeited", done.Forfeited, "suspended", done.Suspended)
	a.seq, a.root = 1, d.root
	return done, a.replace()
}

func setOrDelete(tx Tx, key []byte, s sum) error {
	if s == (sum{}) {
		return tx.Delete(key)
	}
	return tx.Set(key, s[:])
}

func readSums(s Store) (t tally, err error) {
	err = s.View(func(r Reader) error {
		t, err = readTally(r)
		return err
	})
	return t, err
}

// pageOf reads some records of a space. No more come after an empty page.
func pageOf(r Reader, space string, after []byte) (keys, values [][]byte, err error) {
	size := 0
	err = r.Scan([]byte(space), after, false, func(key, value []byte) (bool, error) {
		keys, values = append(keys, key), append(values, value)
		size += len(key) + len(value)
		return len(keys) < repairStep && size < repairBytes, nil
	})
	return keys, values, err
}

func forfeitAccounts(s Store, d *digest, after []byte, sums *tally, done *Repaired) (last []byte, more bool, err error) {
	err = s.Update(func(tx Tx) error {
		keys, values, err := pageOf(tx, spaceAccounts, after)
		if err != nil {
			return err
		}
		more = len(keys) > 0
		for i, key := range keys {
			last = key
			id, ok := accountOf(key)
			rec, err := decodeAccount(values[i])
			if err != nil || !ok {
				return fmt.Errorf("account %x: %w", key, errors.Join(errRecord, err))
			}
			forfeited := false
			for k, limit := range rec.Limit {
				if limit != NoLimit && rec.Reserved[k] < limit {
					rec.Reserved[k], forfeited = limit, true
				}
			}
			if forfeited {
				done.Forfeited++
			}
			v := rec.encode()
			if err := tx.Set(key, v); err != nil {
				return err
			}
			d.buckets[bucketOf(id)].add(d.hash(key, v))
			_, err = tx.Get(recordKey(idPrefix + ulid.ULID(id).String()))
			switch {
			case err == nil:
				sums.Counted.add(rec.counted())
			case !errors.Is(err, ErrNotFound):
				return err
			}
		}
		return nil
	})
	return last, more, err
}

func accountOf(key []byte) (id accountID, ok bool) {
	if len(key) != len(spaceAccounts)+2+len(id) {
		return id, false
	}
	copy(id[:], key[len(spaceAccounts)+2:])
	return id, binary.BigEndian.Uint16(key[len(spaceAccounts):]) == bucketOf(id)
}

func forfeitKeys(s Store, d *digest, after []byte, now time.Time, sums *tally, done *Repaired) (last []byte, more bool, err error) {
	err = s.Update(func(tx Tx) error {
		keys, values, err := pageOf(tx, spaceKeys, after)
		if err != nil {
			return err
		}
		more = len(keys) > 0
		for i, recordKey := range keys {
			last = recordKey
			old, err := decodeKey(values[i])
			if err != nil {
				return fmt.Errorf("key %s: %w", recordKey, err)
			}
			key := old.clone()
			id, err := keyAccount(key.ID)
			if err != nil {
				return err
			}
			done.Keys++
			at := accountKey(id)
			before, err := tx.Get(at)
			var rec accountRecord
			switch {
			case errors.Is(err, ErrNotFound): // lost: nothing is left of it
				rec = accountRecord{Lineage: 1}
				done.Forfeited++
			case err != nil:
				return err
			default:
				if rec, err = decodeAccount(before); err != nil {
					return err
				}
				d.buckets[bucketOf(id)].take(d.hash(at, before))
				sums.Counted = sums.Counted.minus(rec.counted())
			}
			for k, limit := range key.Limit {
				rec.Reserved[k] = max(rec.Reserved[k], limit)
			}
			sums.Counted.add(rec.counted())
			// A budget that renews, or none, would let a key live again whose
			// revocation was lost.
			if (key.Limit == NoLimits() || key.Renews != "") && key.EndedStatus == "" && key.SuspendedAt.IsZero() {
				key.SuspendedAt = now.UTC()
				done.Suspended++
			}
			key.Version = max(key.Version, rec.Version) + 1
			rec.Version, rec.Limit = key.Version, key.Limit
			b := &batch{Tx: tx}
			if err := writeKey(b, old, key, &rec); err != nil {
				return err
			}
			v, err := tx.Get(at)
			if err != nil || bytes.Equal(v, before) {
				return errors.Join(errors.New("an account was not written"), err)
			}
			d.buckets[bucketOf(id)].add(d.hash(at, v))
			sums.Keys[key.recorded()]++
		}
		return nil
	})
	return last, more, err
}
