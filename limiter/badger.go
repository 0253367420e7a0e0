package limiter

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// badgerStore is the Store of one server: an embedded Badger directory.
type badgerStore struct {
	db  *badger.DB
	dir string
}

// minFree is the free space below which nothing is written, in bytes: a full
// disk would end the process with SIGBUS inside Badger, which writes to mapped
// files.
const minFree = 4 * memTable

const memTable = 16 << 20

// OpenBadger opens the Badger directory dir, making it with mode 0700 when it
// is missing. An error that wraps ErrLocked says that another process has it.
func OpenBadger(dir string, log *slog.Logger) (Store, error) {
	// Badger's own files are world-readable: the directory is what protects
	// them.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the store's directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("opening store: %s may be read by others (mode %04o); run: chmod 700 %s", dir, mode, dir)
	}
	if err := enoughSpace(dir); err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	opts := badger.DefaultOptions(dir).
		WithSyncWrites(true).           // acknowledged means on disk
		WithDetectConflicts(false).     // there is one committer
		WithValueThreshold(4096).       // records stay in the LSM tree: no value-log GC
		WithMemTableSize(memTable).     // the defaults keep 90 MB more resident
		WithNumMemtables(2).            //
		WithBlockCacheSize(16 << 20).   //
		WithValueLogFileSize(64 << 20). //
		WithVerifyValueChecksum(true).  //
		WithMetricsEnabled(false).      // they are global to the process
		WithLogger(badgerLogger{log}).  //
		WithBloomFalsePositive(0.001).  // a flood of unknown keys reads next to no block
		WithNumVersionsToKeep(1)        //
	opts.ChecksumVerificationMode = 3 // options.OnTableAndBlockRead
	db, err := badger.Open(opts)
	if err != nil && !isLocked(err) && hasEmptyFile(dir) {
		// A kill between creating a file and giving it its size leaves it
		// empty: Badger fails on it once and has removed it by then.
		db, err = badger.Open(opts)
	}
	if isLocked(err) {
		return nil, fmt.Errorf("opening store %s: %w", dir, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", dir, err)
	}
	return &badgerStore{db, dir}, nil
}

// isLocked recognises Badger's error by its text; it has no sentinel.
func isLocked(err error) bool {
	return err != nil && strings.Contains(err.Error(), "Cannot acquire directory lock")
}

func enoughSpace(dir string) error {
	free, err := freeSpace(dir)
	if err != nil {
		return fmt.Errorf("asking for the free space of %s: %w", dir, err)
	}
	if free < minFree {
		return fmt.Errorf("%w: %d MB are free in %s, and %d MB must be", ErrNoSpace, free>>20, dir, minFree>>20)
	}
	return nil
}

func hasEmptyFile(dir string) bool {
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return false
		}
		for _, name := range names {
			if info, err := os.Stat(name); err == nil && info.Size() == 0 {
				return true
			}
		}
	}
	return false
}

func (s *badgerStore) Update(fn func(Tx) error) error {
	if err := enoughSpace(s.dir); err != nil {
		return err
	}
	return s.db.Update(func(txn *badger.Txn) error { return fn(badgerTx{txn}) })
}

func (s *badgerStore) View(fn func(Reader) error) error {
	return s.db.View(func(txn *badger.Txn) error { return fn(badgerTx{txn}) })
}

func (s *badgerStore) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing store: %w", err)
	}
	return nil
}

type badgerTx struct{ txn *badger.Txn }

func (t badgerTx) Get(key []byte) ([]byte, error) {
	item, err := t.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return item.ValueCopy(nil)
}

func (t badgerTx) Set(key, value []byte) error { return t.txn.Set(key, value) }
func (t badgerTx) Delete(key []byte) error     { return t.txn.Delete(key) }

func (t badgerTx) Scan(prefix, after []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	opts := badger.DefaultIteratorOptions
	opts.Prefix = prefix
	opts.Reverse = reverse
	it := t.txn.NewIterator(opts)
	defer it.Close()
	seek := after
	switch {
	case after != nil:
	case reverse:
		// The largest key with the prefix is below prefix + 0xff…: no key of
		// ours starts with 0xff after its prefix.
		seek = append(bytes.Clone(prefix), 0xff)
	default:
		seek = prefix
	}
	for it.Seek(seek); it.ValidForPrefix(prefix); it.Next() {
		item := it.Item()
		key := item.KeyCopy(nil)
		if after != nil && bytes.Equal(key, after) {
			continue
		}
		value, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		more, err := fn(key, value)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// badgerLogger puts Badger's own lines behind the limiter's logger, its
// chatter at debug level.
type badgerLogger struct{ log *slog.Logger }

func (l badgerLogger) Errorf(format string, args ...any)   { l.log.Error(line(format, args)) }
func (l badgerLogger) Warningf(format string, args ...any) { l.log.Warn(line(format, args)) }
func (l badgerLogger) Infof(format string, args ...any)    { l.log.Debug(line(format, args)) }
func (l badgerLogger) Debugf(format string, args ...any)   { l.log.Debug(line(format, args)) }

func line(format string, args []any) string {
	return "badger: " + strings.TrimSpace(fmt.Sprintf(format, args...))
}

// Interface guards
var (
	_ Store         = (*badgerStore)(nil)
	_ Tx            = badgerTx{}
	_ badger.Logger = badgerLogger{}
)
