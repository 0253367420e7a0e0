package commit

import (
	"bytes"

	"github.com/till-proxy/till/limiter/store"
)

// Batches are cut well below half of what one Badger transaction takes with a 16 MB
// memtable (about 2.5 MB and 26,000 entries).
const (
	maxBatchBytes   = 1 << 20
	maxBatchEntries = 8192
)

// Transaction is a store transaction in which the committer writes several changes.
// It knows how large it has grown.
type Transaction struct {
	store.Tx
	guard          Guard // nil: none
	shared         bool  // other nodes write to the store, too
	rows           bool  // it may touch only the rows that it holds
	entries, bytes int
	readKey, read  []byte // what was read last: a record is usually read just before it is written
}

func (t *Transaction) begin(tx store.Tx, shared, rows bool) {
	*t = Transaction{Tx: tx, guard: t.guard, shared: shared, rows: rows}
}

// Shared reports whether several nodes write to the store, so that memory cannot be
// relied on.
func (t *Transaction) Shared() bool { return t.shared }

// Exclusive reports whether the transaction may touch any row. Otherwise it holds a
// few, and runs beside those of other nodes.
func (t *Transaction) Exclusive() bool { return !t.rows }

// Full reports whether no further change joins the batch. A change of many parts that
// finds the batch full leaves its remaining parts to another change.
func (t *Transaction) Full() bool { return t.bytes >= maxBatchBytes || t.entries >= maxBatchEntries }

// Touch records that a participant in the batch has changed, so that a change that
// fails afterwards cannot simply be left out.
func (t *Transaction) Touch() { t.entries++ }

// Get implements Reader.
func (t *Transaction) Get(key []byte) ([]byte, error) {
	if t.read != nil && bytes.Equal(key, t.readKey) {
		return t.read, nil
	}
	value, err := t.Tx.Get(key)
	if err == nil {
		t.readKey, t.read = key, value
	}
	return value, err
}

// Set implements Tx.
func (t *Transaction) Set(key, value []byte) error {
	if err := t.write(key, value, false); err != nil {
		return err
	}
	return t.Tx.Set(key, value)
}

// Delete implements Tx.
func (t *Transaction) Delete(key []byte) error {
	if err := t.write(key, nil, true); err != nil {
		return err
	}
	return t.Tx.Delete(key)
}

func (t *Transaction) write(key, value []byte, deleted bool) error {
	if t.guard != nil {
		if err := t.guard.Wrote(t, key, value, deleted); err != nil {
			return err
		}
	}
	if bytes.Equal(key, t.readKey) {
		t.read = nil
	}
	t.entries++
	t.bytes += len(key) + len(value)
	return nil
}

// Fetch implements store.Fetcher.
func (t *Transaction) Fetch(keys [][]byte) error { return store.Fetch(t.Tx, keys...) }

// Interface guards
var (
	_ store.Tx      = (*Transaction)(nil)
	_ store.Fetcher = (*Transaction)(nil)
)
