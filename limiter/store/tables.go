package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
)

// Badger ends the whole process when it opens a damaged table: it panics in a
// goroutine of its own (badger 4.9.6, Table.VerifyChecksum and initIndex). So the
// tables are read to their end beforehand, where a panic becomes an error, and Badger
// then checks only what it reads.

// verifyTables checks every table of a database that is not open. A table that the
// manifest does not name is left over from a flush or a compaction that was cut off,
// and Badger removes it.
func verifyTables(opts badger.Options) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: the list of its tables: %v", ErrDamaged, v)
		}
	}()
	file, err := os.Open(filepath.Join(opts.Dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // new, or a directory that the anchor has to judge
	}
	if err != nil {
		return err
	}
	defer file.Close()
	manifest, _, err := badger.ReplayManifestFile(file, opts.ExternalMagicVersion, opts)
	if err != nil {
		return fmt.Errorf("%w: the list of its tables: %w", ErrDamaged, err)
	}
	type one struct {
		id uint64
		of badger.TableManifest
	}
	todo := make(chan one)
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for t := range todo {
				if failed.Load() != nil {
					continue
				}
				if err := verifyTable(table.NewFilename(t.id, opts.Dir), t.of, opts); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	for id, of := range manifest.Tables {
		todo <- one{id, of}
	}
	close(todo)
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func verifyTable(path string, of badger.TableManifest, opts badger.Options) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %s: %v", ErrDamaged, path, v)
		}
	}()
	mapped, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	defer func() { err = errors.Join(err, mapped.Close(-1)) }()
	t, err := table.OpenTable(mapped, table.Options{
		ReadOnly: true, BlockSize: opts.BlockSize, ChkMode: options.NoVerification, Compression: of.Compression,
	})
	if err == nil {
		err = t.VerifyChecksum()
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	return nil
}
