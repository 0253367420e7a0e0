package limiter

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Batches are cut well below half of what one Badger transaction takes with a
// 16 MB memtable (about 2.5 MB and 26,000 entries).
const (
	maxBatchBytes   = 1 << 20
	maxBatchEntries = 8192
)

// batch is the transaction that the committer writes several changes in. It
// knows how large it has grown, and keeps the sums over all keys in step with
// what is written.
type batch struct {
	Tx
	entries, bytes int
	readKey, read  []byte // the account that was read last: who writes one has just read it
	sums           *tally // as they are after this batch; nil until one changes

	now time.Time // the store is told it; zero: not now

	clock   teller // what time entries of the audit log get
	chain   chain  // the audit log with what this batch adds to it
	chained bool   // it adds something
	onces   int    // calls under idempotency keys that are known after it

	job    int64                // the number of the last job
	doomed func(id string) *job // nil: none is

	outbox *outbox // nil: none
	posts  []posted
	told   []told

	reindex bool // write every index entry, as there is none yet

	digest  *digest // before this batch; nil without an anchor
	store   [16]byte
	buckets map[uint16]sum // those that change
	rooted  sum            // what the records in the root itself change of it
	root    sum            // after this batch
}

func (b *batch) full() bool { return b.bytes >= maxBatchBytes || b.entries >= maxBatchEntries }

func (b *batch) Get(key []byte) ([]byte, error) {
	if b.read != nil && bytes.Equal(key, b.readKey) {
		return b.read, nil
	}
	value, err := b.Tx.Get(key)
	if err == nil && bytes.HasPrefix(key, []byte(spaceAccounts)) {
		b.readKey, b.read = key, value
	}
	return value, err
}

func (b *batch) Set(key, value []byte) error {
	if err := b.moveRooted(key, value, true); err != nil {
		return err
	}
	b.read = nil
	b.entries++
	b.bytes += len(key) + len(value)
	return b.Tx.Set(key, value)
}

func (b *batch) Delete(key []byte) error {
	if err := b.moveRooted(key, nil, false); err != nil {
		return err
	}
	b.read = nil
	b.entries++
	b.bytes += len(key)
	return b.Tx.Delete(key)
}

// moveRooted takes the root along when one of its own records is written, or
// deleted.
func (b *batch) moveRooted(key, value []byte, written bool) error {
	if b.digest == nil || !isRooted(key) {
		return nil
	}
	before, err := b.Get(key)
	switch {
	case err == nil:
		b.rooted.take(b.digest.hash(key, before))
	case !errors.Is(err, ErrNotFound):
		return err
	}
	if written {
		b.rooted.add(b.digest.hash(key, value))
	}
	return nil
}

// tally returns the sums, for changing them.
func (b *batch) tally() (*tally, error) {
	b.entries++ // whoever changes them has written something
	if b.sums != nil {
		return b.sums, nil
	}
	t, err := readTally(b)
	if err != nil {
		return nil, err
	}
	b.sums = &t
	return b.sums, nil
}

// setAccount writes an account's record.
func (b *batch) setAccount(id accountID, forRole bool, rec *accountRecord) error {
	return b.moveAccount(id, forRole, rec)
}

// deleteAccount removes the account of a key.
func (b *batch) deleteAccount(id accountID) error {
	return b.moveAccount(id, false, nil)
}

// moveAccount puts a record (nil: none) in place of what was there, and takes
// the sums and the index along.
func (b *batch) moveAccount(id accountID, forRole bool, rec *accountRecord) error {
	key := accountKey(id)
	var counted Amounts
	var after []byte
	if rec != nil {
		counted, after = rec.counted(), rec.encode()
	}
	var former *accountRecord
	before, err := b.Get(key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	change := counted
	if before != nil {
		old, err := decodeAccount(before)
		if err != nil {
			return err
		}
		change = change.minus(old.counted())
		former = &old
	}
	if !forRole {
		if err := b.indexUse(id, former, rec); err != nil {
			return err
		}
	}
	if !forRole && change != (Amounts{}) {
		t, err := b.tally()
		if err != nil {
			return err
		}
		t.Counted.add(change)
	}
	if b.digest != nil {
		bucket := bucketOf(id)
		s, ok := b.buckets[bucket]
		if !ok {
			s = b.digest.buckets[bucket]
		}
		if before != nil {
			s.take(b.digest.hash(key, before))
		}
		if after != nil {
			s.add(b.digest.hash(key, after))
		}
		if b.buckets == nil {
			b.buckets = make(map[uint16]sum)
		}
		b.buckets[bucket] = s
	}
	if after == nil {
		return b.Delete(key)
	}
	return b.Set(key, after)
}

func (b *batch) setClock(now time.Time) error {
	return b.Set(metaClock, binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano())))
}

// finish writes what the changes have in common.
func (b *batch) finish() error {
	if b.entries == 0 {
		return nil
	}
	if !b.now.IsZero() {
		if err := b.setClock(b.now); err != nil {
			return err
		}
	}
	if b.sums != nil {
		v, err := json.Marshal(b.sums)
		if err != nil {
			return err
		}
		if err := b.Set(metaTally, v); err != nil {
			return err
		}
	}
	if b.chained {
		if err := b.Set(metaAudit, b.chain.encode()); err != nil {
			return err
		}
	}
	if b.digest == nil {
		return nil
	}
	b.root = b.digest.root
	b.root.add(b.rooted)
	for bucket, s := range b.buckets {
		b.root.take(b.digest.bucketRoot(bucket, b.digest.buckets[bucket]))
		b.root.add(b.digest.bucketRoot(bucket, s))
		if err := b.Set(bucketKey(bucket), s[:]); err != nil {
			return err
		}
	}
	c := commitRecord{seq: b.digest.seq + 1, root: b.root, previous: b.digest.root, store: b.store}
	return b.Set(metaCommit, c.encode())
}

func readTally(r Reader) (tally, error) {
	t := tally{Keys: make(map[Status]int64)}
	v, err := r.Get(metaTally)
	switch {
	case errors.Is(err, ErrNotFound):
		return t, nil
	case err != nil:
		return t, err
	}
	if err := json.Unmarshal(v, &t); err != nil {
		return t, fmt.Errorf("tally: %w: %w", errRecord, err)
	}
	return t, nil
}
