package integrity

import (
	"errors"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Rebuild makes a new digest and a new anchor for a store from its records. The caller
// goes through the records in as many transactions as it likes, each of which may run
// more than once: Begin starts a run of one, and Committed says that it is durable. The
// store stays in doubt until the transaction of Finish is durable.
//
// A nil *Rebuild does nothing: a store that several nodes share has no anchor.
type Rebuild struct {
	digest  Digest
	changed map[uint16]sum // by how much the present transaction changes each bucket
}

// NewRebuild makes an anchor at path, and puts the store in doubt.
func NewRebuild(s store.Store, disk store.Disk, path string) (*Rebuild, error) {
	a := &anchor{path: path, disk: disk}
	if err := a.create(); err != nil {
		return nil, err
	}
	r := &Rebuild{digest: Digest{anchor: a}, changed: make(map[uint16]sum)}
	if err := s.Update(PutInDoubt); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return r, nil
}

// PutInDoubt makes a store disagree with every anchor, until a rebuild has ended.
func PutInDoubt(tx store.Tx) error { return tx.Set(record.MetaCommit, (&commitRecord{}).encode()) }

// Begin starts a run of a transaction. Nothing of an earlier run remains.
func (r *Rebuild) Begin() {
	if r != nil {
		clear(r.changed)
	}
}

// Add counts the record of an account that is in the store from now on.
func (r *Rebuild) Add(id record.AccountID, value []byte) { r.change(id, value, (*sum).add) }

// Take stops counting the record of an account because another one replaces it.
func (r *Rebuild) Take(id record.AccountID, value []byte) { r.change(id, value, (*sum).take) }

func (r *Rebuild) change(id record.AccountID, value []byte, by func(*sum, sum)) {
	if r != nil {
		c := r.changed[record.BucketOf(id)]
		by(&c, r.digest.hash(record.AccountKey(id), value))
		r.changed[record.BucketOf(id)] = c
	}
}

// Finish writes the digest of all records as they stand after this transaction, which is
// the last one. No account changes in it.
func (r *Rebuild) Finish(tx store.Tx) error {
	d := &r.digest
	root, err := d.sumRooted(tx)
	if err != nil {
		return err
	}
	for bucket, s := range d.buckets {
		root.add(d.bucketRoot(uint16(bucket), s))
		if s == (sum{}) {
			err = tx.Delete(record.BucketKey(uint16(bucket)))
		} else {
			err = tx.Set(record.BucketKey(uint16(bucket)), s[:])
		}
		if err != nil {
			return err
		}
	}
	d.next = root
	return tx.Set(record.MetaCommit, (&commitRecord{seq: 1, root: root, store: d.anchor.store}).encode())
}

// Committed notes that a transaction is durable.
func (r *Rebuild) Committed() {
	if r == nil {
		return
	}
	for bucket, c := range r.changed {
		r.digest.buckets[bucket].add(c)
	}
	clear(r.changed)
}

// Seal makes the last transaction known to the anchor, once that is durable.
func (r *Rebuild) Seal() error {
	a := r.digest.anchor
	a.seq, a.root = 1, r.digest.next
	return a.replace()
}

// Close closes the anchor.
func (r *Rebuild) Close() error { return r.digest.Close() }
