package store

import (
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"path/filepath"
	"testing"
	"time"
)

// TestAFloodOfUnknownKeysReadsNoDisk asks a store that holds keys for others:
// Badger's filters answer, and next to no block of a table is looked at.
func TestAFloodOfUnknownKeysReadsNoDisk(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "badger")
	const keys, unknown = 20_000, 20_000
	lookup := func(i uint64) []byte {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, i))
		return append([]byte("l/"), sum[:]...)
	}
	open := func() *Badger {
		s, err := OpenBadger(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		b := s.(*Badger)
		b.ClosePatience = 5 * time.Minute // others may keep the machine busy
		return b
	}
	s := open()
	for from := uint64(0); from < keys; from += 1000 {
		err := s.Update(func(tx Tx) error {
			for i := from; i < from+1000; i++ {
				if err := tx.Set(lookup(i), []byte("key_00000000000000000000000000")); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil { // which writes a table
		t.Fatal(err)
	}
	s = open()
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	looked := func() uint64 {
		m := s.db.BlockCacheMetrics()
		return m.Hits() + m.Misses()
	}
	ask := func(from, n uint64) (found int) {
		for i := from; i < from+n; i++ {
			err := s.View(func(r Reader) error {
				_, err := r.Get(lookup(i))
				return err
			})
			if err == nil {
				found++
			}
		}
		return found
	}
	if found := ask(0, 100); found != 100 || looked() == 0 {
		t.Fatalf("%d of 100 keys found, looking at %d blocks: this measures nothing", found, looked())
	}
	before := looked()
	if found := ask(keys, unknown); found != 0 {
		t.Fatalf("%d unknown keys found", found)
	}
	if blocks := looked() - before; blocks > unknown/20 {
		t.Errorf("%d unknown keys made Badger look at %d blocks, want next to none", unknown, blocks)
	} else {
		t.Logf("%d unknown keys: %d blocks looked at", unknown, blocks)
	}
}
