package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Badger is the Store of a single server: an embedded Badger directory.
type Badger struct {
	db   *badger.DB
	dir  string
	lock io.Closer // of the directory

	tables   int64 // bytes of the tables, when last measured
	lookedAt time.Time

	// views lets Close wait for readers, because their snapshots are mapped
	// files.
	views  sync.RWMutex
	closed atomic.Bool
	// ClosePatience is how long Close waits for the disk. Default: 10 s.
	ClosePatience time.Duration
}

// closePatience bounds how long Close waits. Badger itself waits for as long as a
// disk does not answer, or its directory stays moved away; acknowledged writes are on
// the disk anyway.
const closePatience = 10 * time.Second

// lockPatience bounds how long OpenBadger waits for Badger's lock once it has that of lockDir.
// Badger releases its lock by closing the directory, and a child that this process is just
// starting has a copy of the open directory until it becomes another program.
const lockPatience = 2 * time.Second

// closings are the directories of stores that are still being closed.
var closings sync.Map

const memTable = 16 << 20

// Badger writes to mapped files, and a page of one that finds no space ends the
// process with SIGBUS. So nothing is written, and no store is opened, unless at least
// as much is free as Badger may write from then on by itself: minFree covers the
// batch, the memory tables that are flushed, and the log that follows them;
// compactions write what they read again before they remove it, together never more
// than the size of all tables. That is enough as long as no other process fills the
// disk within one batch.
const minFree = 4 * memTable

// OpenBadger opens the Badger directory dir, and makes it with mode 0700 if it is
// missing; an empty one of this user that others can only read is given that mode. An error
// that wraps ErrLocked says that another process has it open, on this machine or on another
// one; one that wraps ErrNoLocks says that it cannot be known, and one that wraps ErrExposed
// that others may read or change it.
func OpenBadger(dir string, log *slog.Logger) (Store, error) {
	if _, busy := closings.Load(dir); busy {
		return nil, fmt.Errorf("opening store %s: this process is still closing it, and waits for its disk, or for a backup that is still being read", dir)
	}
	// Badger's own files are world-readable: the directory is what protects
	// them.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the store's directory: %w", err)
	}
	shut, err := shutEmpty(dir)
	if err := errors.Join(private(dir), err); err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	if shut {
		log.Warn("the store's directory is empty: a new store without any keys begins there, and only this user can open it. "+
			"If there should be keys, the directory's volume may not be mounted", "directory", dir, "mode", "0700")
	}
	s := &Badger{dir: dir, ClosePatience: closePatience}
	if err := s.enoughSpace(); err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", dir, err)
	}
	opts := badger.DefaultOptions(dir).
		WithSyncWrites(true).           // acknowledged means on disk
		WithDetectConflicts(false).     // there is one committer
		WithValueThreshold(1 << 20).    // every record stays in the LSM tree: no value log that grows
		WithMemTableSize(memTable).     // the defaults keep 90 MB more resident
		WithNumMemtables(2).            //
		WithBaseTableSize(1 << 20).     // on each level: compactions keep memory for eight of the largest
		WithBlockCacheSize(16 << 20).   //
		WithNumCompactors(2).           // each keeps some 15 MB for itself
		WithValueLogFileSize(64 << 20). //
		WithVerifyValueChecksum(true).  //
		WithMetricsEnabled(false).      // they are global to the process
		WithLogger(badgerLogger{log}).  //
		WithBloomFalsePositive(0.001).  // a flood of unknown keys reads next to no block
		WithNumVersionsToKeep(1)        //
	opts.TableSizeMultiplier = 1                        // see WithBaseTableSize
	opts.LmaxCompaction = true                          // what was deleted leaves the last level, too
	opts.ChecksumVerificationMode = options.OnBlockRead // and all tables before: see verifyTables
	db, err := openDB(opts)
	for until := time.Now().Add(lockPatience); isLocked(err) && time.Now().Before(until); {
		time.Sleep(50 * time.Millisecond)
		db, err = openDB(opts) // whoever had it may have written
	}
	if err != nil && !isLocked(err) && hasEmptyFile(dir) {
		// A kill between creating a file and giving it its size leaves it
		// empty: Badger fails on it once and has removed it by then.
		db, err = openDB(opts)
	}
	if isLocked(err) {
		err = fmt.Errorf("%w%s", ErrLocked, holder(dir))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening store %s: %w", dir, err), lock.Close())
	}
	s.db, s.lock = db, lock
	return s, nil
}

// openDB opens the database. Log entries that a killed process had written but not
// synced can be read, and would be built upon, so they are synced first. Badger panics
// on some damage; that is an error like any other.
func openDB(opts badger.Options) (db *badger.DB, err error) {
	for _, name := range logs(opts.Dir) {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return nil, fmt.Errorf("syncing %s: %w", name, err)
		}
	}
	if err := verifyTables(opts); err != nil {
		return nil, err
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, v)
		}
	}()
	return badger.Open(opts)
}

func logs(dir string) []string {
	var names []string
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			continue // never: the patterns are well formed
		}
		names = append(names, found...)
	}
	return names
}

func hasEmptyFile(dir string) bool {
	for _, name := range logs(dir) {
		if info, err := os.Stat(name); err == nil && info.Size() == 0 {
			return true
		}
	}
	return false
}

// isLocked recognises Badger's error by its text; it has no sentinel.
func isLocked(err error) bool {
	return err != nil && strings.Contains(err.Error(), "Cannot acquire directory lock")
}

// holder names the process that has the store open: Badger leaves its process id in a
// file.
func holder(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "LOCK"))
	if pid, convErr := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && convErr == nil {
		return fmt.Sprintf(" (process %d)", pid)
	}
	return ""
}

// private refuses a file or directory that others may read or change.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%w: %s has mode %04o; run: chmod %o %s", ErrExposed, path, mode, mode&0o700, path)
	}
	if owner, me := ownerOf(info), os.Geteuid(); owner >= 0 && owner != me {
		return fmt.Errorf("%w: %s belongs to user %d, and this process runs as user %d; run it as user %d, or: chown -R %d %s",
			ErrExposed, path, owner, me, owner, me, path)
	}
	return nil
}

func (s *Badger) enoughSpace() error {
	free, err := FreeSpace(s.dir)
	if err != nil {
		return fmt.Errorf("asking for the free space of %s: %w", s.dir, err)
	}
	if now := time.Now(); now.Sub(s.lookedAt) >= time.Second {
		s.tables, s.lookedAt = tableBytes(s.dir), now
	}
	if floor := minFree + s.tables; free < floor {
		return fmt.Errorf("%w: %d MB are free in %s, and %d MB must be", ErrNoSpace, free>>20, s.dir, floor>>20)
	}
	return nil
}

// tableBytes is the total size of the database's tables. A table that a compaction
// has just removed counts as zero.
func tableBytes(dir string) (sum int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0 // the next write reports it
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".sst" {
			continue
		}
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

func (s *Badger) Update(fn func(Tx) error) error {
	if err := s.enoughSpace(); err != nil {
		return err
	}
	return fits(s.db.Update(func(txn *badger.Txn) error { return fn(badgerTx{txn}) }))
}

// fits adds ErrTooBig to Badger's error that a transaction takes no more: 15 % of a memory
// table, or about 26,000 entries. Badger returns that before it writes anything.
func fits(err error) error {
	if errors.Is(err, badger.ErrTxnTooBig) && !errors.Is(err, ErrTooBig) {
		return fmt.Errorf("%w: %w", ErrTooBig, err)
	}
	return err
}

func (s *Badger) View(fn func(Reader) error) error {
	if s.closed.Load() { // before the lock, too, so that no caller waits with Close
		return ErrClosed
	}
	s.views.RLock()
	defer s.views.RUnlock()
	if s.closed.Load() {
		return ErrClosed
	}
	return s.db.View(func(txn *badger.Txn) error { return fn(badgerTx{txn}) })
}

func (s *Badger) Close() error {
	s.closed.Store(true)
	closings.Store(s.dir, nil)
	done := make(chan error, 1)
	go func() {
		s.views.Lock()
		defer s.views.Unlock()
		err := errors.Join(s.db.Close(), s.lock.Close())
		closings.Delete(s.dir)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("closing store: %w", err)
		}
		return nil
	case <-time.After(s.ClosePatience):
		return fmt.Errorf("closing store %s: its disk does not answer; what was acknowledged is on it", s.dir)
	}
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

func (t badgerTx) Set(key, value []byte) error { return fits(t.txn.Set(key, value)) }
func (t badgerTx) Delete(key []byte) error     { return fits(t.txn.Delete(key)) }

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

// badgerLogger passes Badger's own lines to the limiter's logger, routine ones at
// debug level.
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
	_ Store         = (*Badger)(nil)
	_ Tx            = badgerTx{}
	_ badger.Logger = badgerLogger{}
)
