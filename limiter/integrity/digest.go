// Package integrity detects what a store has lost, and finds what a crash has spared:
// the anchor knows the last commit, the digest what every account's record must be,
// and the shadow what was used since an account's record was written.
//
// It knows records by their place in the store, not by their meaning; what counts as
// spent after a crash is decided by the packages above it.
package integrity

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// The digest says what every account's record must be, so that a store which has lost
// or reverted a part of itself is detected: Badger opens such a store without an
// error. Accounts lie in buckets. For each bucket the store keeps the sum of its
// records' hashes, and for all buckets one root, which the anchor knows. Sums are
// changed in step with the records, so it is never necessary to read them all: a
// bucket is checked when one of its keys is first used, and again when a key is used
// that memory had let go of. Records that are read on opening anyway are in the root
// themselves: see rooted.
//
// The hashes are keyed with a secret that only the anchor has. They detect damage,
// but not an attacker who can write both.

// rooted are the records that are in the root themselves: admin tokens, so that a
// revoked one does not come back; jobs, so that keys do not survive a job that was to
// end them; the time that was seen; and the audit log's head.
var rooted = []string{record.SpaceTokens, record.SpaceJobs, string(record.MetaClock), string(record.MetaAudit)}

func isRooted(key []byte) bool {
	return slices.ContainsFunc(rooted, func(space string) bool { return len(key) >= len(space) && string(key[:len(space)]) == space })
}

// sumRooted is what the rooted records add to the root.
func (d *Digest) sumRooted(r store.Reader) (all sum, err error) {
	for _, space := range rooted {
		err = errors.Join(err, r.Scan([]byte(space), nil, false, func(key, value []byte) (bool, error) {
			all.add(d.hash(key, value))
			return true, nil
		}))
	}
	return all, err
}

// sum is added and subtracted modulo 2^128, in any order.
type sum [16]byte

func (s *sum) add(o sum) {
	low, carry := bits.Add64(binary.BigEndian.Uint64(s[8:]), binary.BigEndian.Uint64(o[8:]), 0)
	high, _ := bits.Add64(binary.BigEndian.Uint64(s[:8]), binary.BigEndian.Uint64(o[:8]), carry)
	binary.BigEndian.PutUint64(s[:8], high)
	binary.BigEndian.PutUint64(s[8:], low)
}

func (s *sum) take(o sum) {
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(s[8:]), binary.BigEndian.Uint64(o[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(s[:8]), binary.BigEndian.Uint64(o[:8]), borrow)
	binary.BigEndian.PutUint64(s[:8], high)
	binary.BigEndian.PutUint64(s[8:], low)
}

// Digest is the digest as of the last acknowledged commit, and of the batch that is
// being written. The committer owns all of it except checked. A store without an anchor
// has a nil *Digest.
type Digest struct {
	anchor  *anchor
	seq     uint64
	root    sum
	buckets [record.NumBuckets]sum
	checked [record.NumBuckets]atomic.Bool

	changed map[uint16]sum // buckets
	rooted  sum            // by how much the records in the root itself change it
	next    sum            // the root after the batch
}

// Open compares a store with its anchor. It makes an anchor for a store that is empty,
// if there is none.
func Open(disk store.Disk, path string, s store.Store) (*Digest, error) {
	var d *Digest
	err := s.View(func(r store.Reader) error {
		_, there, err := store.Find(r, store.FormatKey)
		if err != nil {
			return err
		}
		d, err = open(disk, path, r, !there)
		return err
	})
	if err == nil && d.seq > d.anchor.seq {
		// The last commit was cut off before the anchor knew of it. The next one
		// may be, too, and the anchor must never be two behind.
		err = d.anchor.write(d.seq, d.root)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Compare returns an error if a store does not agree with its anchor.
func Compare(disk store.Disk, path string, r store.Reader) error {
	d, err := open(disk, path, r, false)
	return errors.Join(err, d.Close())
}

// open opens the anchor and loads the sums; see openAnchor. The caller closes the digest,
// even after an error.
func open(disk store.Disk, path string, r store.Reader, fresh bool) (*Digest, error) {
	a, err := openAnchor(disk, path, fresh)
	d := &Digest{anchor: a, changed: make(map[uint16]sum)}
	if err == nil {
		err = d.load(r)
	}
	return d, err
}

// Close closes the anchor. A nil *Digest has none.
func (d *Digest) Close() error {
	if d == nil {
		return nil
	}
	return d.anchor.close()
}

func (d *Digest) Begin(*commit.Transaction) error {
	clear(d.changed)
	d.rooted = sum{}
	return nil
}

// Wrote updates the sums that include a record when that is written or deleted.
func (d *Digest) Wrote(t *commit.Transaction, key, value []byte, deleted bool) error {
	id, ok := record.AccountOf(key)
	if !ok && !isRooted(key) {
		return nil
	}
	before, there, err := store.Find(t, key)
	if err != nil {
		return err
	}
	s := &d.rooted
	if ok {
		bucket, known := d.changed[record.BucketOf(id)]
		if !known {
			bucket = d.buckets[record.BucketOf(id)]
		}
		s = &bucket
		defer func() { d.changed[record.BucketOf(id)] = bucket }()
	}
	if there {
		s.take(d.hash(key, before))
	}
	if !deleted {
		s.add(d.hash(key, value))
	}
	return nil
}

func (d *Digest) Finish(t *commit.Transaction) error {
	d.next = d.root
	d.next.add(d.rooted)
	for bucket, s := range d.changed {
		d.next.take(d.bucketRoot(bucket, d.buckets[bucket]))
		d.next.add(d.bucketRoot(bucket, s))
		if err := t.Set(record.BucketKey(bucket), s[:]); err != nil {
			return err
		}
	}
	c := commitRecord{seq: d.seq + 1, root: d.next, previous: d.root, store: d.anchor.store}
	return t.Set(record.MetaCommit, c.encode())
}

// Seal makes a commit known to the anchor before anybody is notified of it.
func (d *Digest) Seal() error { return d.anchor.write(d.seq+1, d.next) }

func (d *Digest) Committed() {
	d.seq++
	d.root = d.next
	for bucket, s := range d.changed {
		d.buckets[bucket] = s
	}
}

// hash is the keyed hash of one record, or of one bucket's sum.
func (d *Digest) hash(key, value []byte) (s sum) {
	h := sha256.New()
	h.Write(d.anchor.secret[:])
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(key)))
	h.Write(n[:])
	h.Write(key)
	h.Write(value)
	copy(s[:], h.Sum(nil))
	return s
}

// bucketRoot is what a bucket adds to the root; an empty one adds nothing.
func (d *Digest) bucketRoot(bucket uint16, s sum) sum {
	if s == (sum{}) {
		return sum{}
	}
	return d.hash(record.BucketKey(bucket), s[:])
}

// commitRecord is in the store from its first commit on.
type commitRecord struct {
	seq            uint64
	root, previous sum
	store          [16]byte // which store this is
}

const commitRecordLen = 8 + 16 + 16 + 16

func (c *commitRecord) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, commitRecordLen), c.seq)
	b = append(append(append(b, c.root[:]...), c.previous[:]...), c.store[:]...)
	return b
}

func decodeCommit(b []byte) (c commitRecord, err error) {
	if len(b) != commitRecordLen {
		return c, fmt.Errorf("commit: %w", record.ErrRecord)
	}
	c.seq = binary.BigEndian.Uint64(b)
	copy(c.root[:], b[8:])
	copy(c.previous[:], b[24:])
	copy(c.store[:], b[40:])
	return c, nil
}

// load compares the store with its anchor, and loads the digest's sums.
func (d *Digest) load(r store.Reader) error {
	a := d.anchor
	b, err := r.Get(record.MetaCommit)
	switch {
	case errors.Is(err, store.ErrNotFound):
		if a.seq > 0 {
			return store.Doubt("it is empty, and its anchor %s knows of %d commits", a.path, a.seq)
		}
		if _, err := r.Get(store.FormatKey); !errors.Is(err, store.ErrNotFound) {
			return store.Doubt("it does not say at which commit it is (%v)", err)
		}
		return nil
	case err != nil:
		return err
	}
	c, err := decodeCommit(b)
	if err != nil {
		return store.Doubt("%v", err)
	}
	if c.store != a.store {
		return store.Doubt("its anchor %s is missing or is that of another store", a.path)
	}
	err = r.Scan([]byte(record.SpaceBuckets), nil, false, func(key, value []byte) (bool, error) {
		if len(key) != len(record.SpaceBuckets)+2 || len(value) != len(sum{}) {
			return false, store.Doubt("a bucket's sum is not well formed")
		}
		bucket := binary.BigEndian.Uint16(key[len(record.SpaceBuckets):])
		if bucket >= record.NumBuckets {
			return false, store.Doubt("a bucket is numbered %d", bucket)
		}
		d.buckets[bucket] = sum(value)
		d.root.add(d.bucketRoot(bucket, sum(value)))
		return true, nil
	})
	if err != nil {
		return err
	}
	all, err := d.sumRooted(r)
	if err != nil {
		return err
	}
	d.root.add(all)
	switch {
	case d.root != c.root:
		return store.Doubt("its sums do not agree with commit %d", c.seq)
	case c.seq < a.seq:
		return store.Doubt("it is at commit %d, and its anchor %s at %d", c.seq, a.path, a.seq)
	case c.seq > a.seq+1:
		return store.Doubt("its anchor %s is at commit %d, and the store at %d", a.path, a.seq, c.seq)
	case c.seq == a.seq && c.root != a.root, c.seq == a.seq+1 && c.previous != a.root:
		return store.Doubt("commit %d is not the one that its anchor %s knows", c.seq, a.path)
	}
	d.seq = c.seq
	return nil
}

// Succeeds compares a store that was opened again with what this process knows of it,
// to detect an older one that was put in its place together with its anchor.
func (d *Digest) Succeeds(former *Digest) error {
	switch {
	case d == nil || former == nil:
	case d.anchor.store != former.anchor.store:
		return store.Doubt("it is another one than this server had open")
	case d.seq < former.seq || d.seq == former.seq && d.root != former.root:
		return store.Doubt("it is at commit %d, and this server knows of commit %d", d.seq, former.seq)
	}
	return nil
}

// Check compares a bucket's records with its sum, once.
func (d *Digest) Check(r store.Reader, id record.AccountID) error {
	if d == nil {
		return nil
	}
	bucket := record.BucketOf(id)
	if d.checked[bucket].Load() {
		return nil
	}
	var found, want sum
	prefix := record.AccountKey(id)[:len(record.SpaceAccounts)+2]
	err := r.Scan(prefix, nil, false, func(key, value []byte) (bool, error) {
		found.add(d.hash(key, value))
		return true, nil
	})
	if err != nil {
		return err
	}
	b, err := r.Get(record.BucketKey(bucket)) // as of the same moment as the records
	switch {
	case err == nil && len(b) == len(want):
		want = sum(b)
	case !errors.Is(err, store.ErrNotFound):
		return errors.Join(store.Doubt("the sum of bucket %d cannot be read", bucket), err)
	}
	if found != want {
		return store.Doubt("the budgets in bucket %d are not those that were committed", bucket)
	}
	d.checked[bucket].Store(true)
	return nil
}

// Recheck has the bucket of an account compared again, because memory lets go of what it
// knows of the account: from now on the store must be right.
func (d *Digest) Recheck(id record.AccountID) {
	if d != nil {
		d.checked[record.BucketOf(id)].Store(false)
	}
}

// Interface guards
var _ commit.Guard = (*Digest)(nil)
