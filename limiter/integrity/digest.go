// Package integrity detects what a store has lost, and finds what a crash has not:
// the anchor knows the last commit, the digest what every account's record must be,
// and the shadow what was used since an account was written.
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
// bucket is checked when one of its keys is first used, and when a key is used that
// memory had let go of. Records that are read on opening in any case are in the root
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

// SumRooted is what these records add to the root.
func (d *Digest) SumRooted(r store.Reader) (all Sum, err error) {
	for _, space := range rooted {
		err = errors.Join(err, r.Scan([]byte(space), nil, false, func(key, value []byte) (bool, error) {
			all.Add(d.Hash(key, value))
			return true, nil
		}))
	}
	return all, err
}

// Sum is added and subtracted modulo 2^128, in any order.
type Sum [16]byte

func (s *Sum) Add(o Sum) {
	low, carry := bits.Add64(binary.BigEndian.Uint64(s[8:]), binary.BigEndian.Uint64(o[8:]), 0)
	high, _ := bits.Add64(binary.BigEndian.Uint64(s[:8]), binary.BigEndian.Uint64(o[:8]), carry)
	binary.BigEndian.PutUint64(s[:8], high)
	binary.BigEndian.PutUint64(s[8:], low)
}

func (s *Sum) Take(o Sum) {
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(s[8:]), binary.BigEndian.Uint64(o[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(s[:8]), binary.BigEndian.Uint64(o[:8]), borrow)
	binary.BigEndian.PutUint64(s[:8], high)
	binary.BigEndian.PutUint64(s[8:], low)
}

// Digest is the digest as of the last commit that was acknowledged, and of the batch
// that is being written. The committer owns all of it except Checked.
type Digest struct {
	Anchor  *Anchor
	Secret  [32]byte
	Store   [16]byte // the store that it belongs to
	Seq     uint64
	Root    Sum
	Buckets [record.NumBuckets]Sum
	Checked [record.NumBuckets]atomic.Bool

	Changed map[uint16]Sum // buckets
	rooted  Sum            // by how much the records in the root itself change it
	next    Sum            // the root after the batch
}

func (d *Digest) Begin(*commit.Transaction) error {
	clear(d.Changed)
	d.rooted = Sum{}
	return nil
}

// Wrote updates the sums that include a record when that is written or deleted.
func (d *Digest) Wrote(t *commit.Transaction, key, value []byte, deleted bool) error {
	id, ok := record.AccountOf(key)
	if !ok && !isRooted(key) {
		return nil
	}
	before, err := t.Get(key)
	there := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	s := &d.rooted
	if ok {
		bucket, known := d.Changed[record.BucketOf(id)]
		if !known {
			bucket = d.Buckets[record.BucketOf(id)]
		}
		s = &bucket
		defer func() { d.Changed[record.BucketOf(id)] = bucket }()
	}
	if there {
		s.Take(d.Hash(key, before))
	}
	if !deleted {
		s.Add(d.Hash(key, value))
	}
	return nil
}

func (d *Digest) Finish(t *commit.Transaction) error {
	d.next = d.Root
	d.next.Add(d.rooted)
	for bucket, s := range d.Changed {
		d.next.Take(d.BucketRoot(bucket, d.Buckets[bucket]))
		d.next.Add(d.BucketRoot(bucket, s))
		if err := t.Set(record.BucketKey(bucket), s[:]); err != nil {
			return err
		}
	}
	c := CommitRecord{Seq: d.Seq + 1, Root: d.next, previous: d.Root, Store: d.Store}
	return t.Set(record.MetaCommit, c.Encode())
}

// Seal makes a commit known to the anchor before anybody is notified of it.
func (d *Digest) Seal() error { return d.Anchor.Write(d.Seq+1, d.next) }

func (d *Digest) Committed() {
	d.Seq++
	d.Root = d.next
	for bucket, s := range d.Changed {
		d.Buckets[bucket] = s
	}
}

// Hash is the keyed hash of one record, or of one bucket's sum.
func (d *Digest) Hash(key, value []byte) (s Sum) {
	h := sha256.New()
	h.Write(d.Secret[:])
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(key)))
	h.Write(n[:])
	h.Write(key)
	h.Write(value)
	copy(s[:], h.Sum(nil))
	return s
}

// BucketRoot is what a bucket adds to the root; an empty one adds nothing.
func (d *Digest) BucketRoot(bucket uint16, s Sum) Sum {
	if s == (Sum{}) {
		return Sum{}
	}
	return d.Hash(record.BucketKey(bucket), s[:])
}

// CommitRecord is in the store from its first commit on.
type CommitRecord struct {
	Seq            uint64
	Root, previous Sum
	Store          [16]byte // which store this is
}

const commitRecordLen = 8 + 16 + 16 + 16

func (c *CommitRecord) Encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, commitRecordLen), c.Seq)
	b = append(append(append(b, c.Root[:]...), c.previous[:]...), c.Store[:]...)
	return b
}

func decodeCommit(b []byte) (c CommitRecord, err error) {
	if len(b) != commitRecordLen {
		return c, fmt.Errorf("commit: %w", record.ErrRecord)
	}
	c.Seq = binary.BigEndian.Uint64(b)
	copy(c.Root[:], b[8:])
	copy(c.previous[:], b[24:])
	copy(c.Store[:], b[40:])
	return c, nil
}

// Verify compares the store with its anchor, and loads the digest's sums.
func (d *Digest) Verify(r store.Reader, a *Anchor) error {
	b, err := r.Get(record.MetaCommit)
	switch {
	case errors.Is(err, store.ErrNotFound):
		if a.Seq > 0 {
			return store.Doubt("it is empty, and its anchor %s knows of %d commits", a.Path, a.Seq)
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
	if c.Store != a.Store {
		return store.Doubt("its anchor %s is missing or is that of another store", a.Path)
	}
	err = r.Scan([]byte(record.SpaceBuckets), nil, false, func(key, value []byte) (bool, error) {
		if len(key) != len(record.SpaceBuckets)+2 || len(value) != len(Sum{}) {
			return false, store.Doubt("a bucket's sum is not well formed")
		}
		bucket := binary.BigEndian.Uint16(key[len(record.SpaceBuckets):])
		if bucket >= record.NumBuckets {
			return false, store.Doubt("a bucket is numbered %d", bucket)
		}
		d.Buckets[bucket] = Sum(value)
		d.Root.Add(d.BucketRoot(bucket, Sum(value)))
		return true, nil
	})
	if err != nil {
		return err
	}
	all, err := d.SumRooted(r)
	if err != nil {
		return err
	}
	d.Root.Add(all)
	switch {
	case d.Root != c.Root:
		return store.Doubt("its sums do not agree with commit %d", c.Seq)
	case c.Seq < a.Seq:
		return store.Doubt("it is at commit %d, and its anchor %s at %d", c.Seq, a.Path, a.Seq)
	case c.Seq > a.Seq+1:
		return store.Doubt("its anchor %s is at commit %d, and the store at %d", a.Path, a.Seq, c.Seq)
	case c.Seq == a.Seq && c.Root != a.Root, c.Seq == a.Seq+1 && c.previous != a.Root:
		return store.Doubt("commit %d is not the one that its anchor %s knows", c.Seq, a.Path)
	}
	d.Seq = c.Seq
	return nil
}

// Succeeds compares a store that was opened again with what this process knows of it,
// to detect that an older one and its anchor were put in its place.
func (d *Digest) Succeeds(former *Digest) error {
	switch {
	case d == nil || former == nil:
	case d.Store != former.Store:
		return store.Doubt("it is another one than this server had open")
	case d.Seq < former.Seq || d.Seq == former.Seq && d.Root != former.Root:
		return store.Doubt("it is at commit %d, and this server knows of commit %d", d.Seq, former.Seq)
	}
	return nil
}

// Check compares a bucket's records with its sum, once.
func (d *Digest) Check(r store.Reader, id record.AccountID) error {
	bucket := record.BucketOf(id)
	if d.Checked[bucket].Load() {
		return nil
	}
	var found, want Sum
	prefix := record.AccountKey(id)[:len(record.SpaceAccounts)+2]
	err := r.Scan(prefix, nil, false, func(key, value []byte) (bool, error) {
		found.Add(d.Hash(key, value))
		return true, nil
	})
	if err != nil {
		return err
	}
	b, err := r.Get(record.BucketKey(bucket)) // as of the same moment as the records
	switch {
	case err == nil && len(b) == len(want):
		want = Sum(b)
	case !errors.Is(err, store.ErrNotFound):
		return errors.Join(store.Doubt("the sum of bucket %d cannot be read", bucket), err)
	}
	if found != want {
		return store.Doubt("the budgets in bucket %d are not those that were committed", bucket)
	}
	d.Checked[bucket].Store(true)
	return nil
}

// Interface guards
var _ commit.Guard = (*Digest)(nil)
