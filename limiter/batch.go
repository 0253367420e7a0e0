package limiter

import (
	"encoding/json"
	"errors"
	"fmt"
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
	sums           *tally // as they are after this batch; nil until one changes
}

func (b *batch) full() bool { return b.bytes >= maxBatchBytes || b.entries >= maxBatchEntries }

func (b *batch) Set(key, value []byte) error {
	b.entries++
	b.bytes += len(key) + len(value)
	return b.Tx.Set(key, value)
}

func (b *batch) Delete(key []byte) error {
	b.entries++
	b.bytes += len(key)
	return b.Tx.Delete(key)
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

// setAccount writes an account's record. before is what stood there.
func (b *batch) setAccount(id accountID, forRole bool, before, after *accountRecord) error {
	if delta := after.counted().minus(before.counted()); !forRole && delta != (Amounts{}) {
		t, err := b.tally()
		if err != nil {
			return err
		}
		t.Counted.add(delta)
	}
	return b.Set(accountKey(id), after.encode())
}

// finish writes what the changes have in common.
func (b *batch) finish() error {
	if b.sums == nil {
		return nil
	}
	v, err := json.Marshal(b.sums)
	if err != nil {
		return err
	}
	return b.Set(metaTally, v)
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
