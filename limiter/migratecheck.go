package limiter

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// total sums up the records of a store that a migration copies.
type total struct {
	records, keys int64
	used          record.Amounts
	chain         audit.Verified
	sum           [sha256.Size]byte
}

// totalOf reads all of a store. change returns what each value becomes.
func (m *Migration) totalOf(s store.Store, change func(key, value []byte) ([]byte, error)) (t total, err error) {
	sum, chain := sha256.New(), new(audit.Verifier)
	for after := []byte(nil); ; {
		keys, values, err := m.page(s, after)
		if err != nil {
			return t, err
		}
		if len(keys) == 0 {
			break
		}
		after = keys[len(keys)-1]
		for i, key := range keys {
			if !m.copied(key) {
				continue
			}
			value, err := change(key, values[i])
			if err == nil {
				err = t.add(sum, chain, key, value)
			}
			if err != nil {
				return t, err
			}
		}
	}
	if err := chain.End(); err != nil {
		return t, err
	}
	t.chain = chain.Done
	copy(t.sum[:], sum.Sum(nil))
	return t, nil
}

func (t *total) add(sum hash.Hash, chain *audit.Verifier, key, value []byte) error {
	t.records++
	if _, err := fmt.Fprintf(sum, "%d %d ", len(key), len(value)); err != nil {
		return err
	}
	sum.Write(key)
	sum.Write(value)
	switch {
	case bytes.HasPrefix(key, []byte(record.SpaceKeys)):
		t.keys++
	case bytes.HasPrefix(key, []byte(record.SpaceAccounts)):
		rec, err := record.DecodeAccount(value)
		if err != nil {
			return fmt.Errorf("account %x: %w", key, err)
		}
		t.used.Add(rec.Counted())
	case bytes.HasPrefix(key, []byte(record.SpaceAudit)):
		return chain.Add(value)
	}
	return nil
}

// compare reads both stores in full; only the source if they were equal before.
func (m *Migration) compare(equal bool, done *Migrated) error {
	from, err := m.totalOf(m.From, m.moved)
	if err != nil {
		return fmt.Errorf("the source: %w", err)
	}
	done.Records, done.Keys, done.Entries, done.Used = from.records, from.keys, from.chain.Entries, from.used
	if equal {
		return nil
	}
	to, err := m.totalOf(m.To, func(_, value []byte) ([]byte, error) { return value, nil })
	if err != nil {
		return fmt.Errorf("the target: %w", err)
	}
	if from != to {
		return fmt.Errorf("the target has %d records, %d keys and %d entries of the audit log, and the source %d, %d and %d, or they differ: empty it, and begin again",
			to.records, to.keys, to.chain.Entries, from.records, from.keys, from.chain.Entries)
	}
	head, err := store.Read(m.To, audit.ReadChain)
	if err == nil && to.chain.Entries > 0 && head.Hash != to.chain.Head {
		err = errors.New("the audit log does not end where it should")
	}
	if err != nil {
		return err
	}
	return m.To.Update(func(tx store.Tx) error { return tx.Set(migrationKey, allEqual) })
}
