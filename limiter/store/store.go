// Package store is what the limiter needs from disks: a transactional, ordered space
// of keys and values, which Badger keeps, and the files beside it.
//
// It knows nothing of what is kept: no key, no limit, no commit. Who writes, how
// changes are grouped and what is believed after a crash is decided by the packages
// above it. Every implementation of Store passes limiter/store/storetest.
package store

import (
	"errors"
	"fmt"
	"strings"
)

// Store is a transactional, ordered space of keys and values: all that the
// limiter needs from a disk. Its contract is small so that it can be
// simulated, and every implementation must pass storetest.
//
// The limiter calls Update from one goroutine only; View and Scan may run
// beside it and see either all of an Update or nothing.
type Store interface {
	// Update runs fn on a transaction and returns nil only once everything
	// fn wrote is on stable storage. If fn or the commit fails, nothing of it
	// is visible. After a failed commit the state on disk is unknown and the
	// limiter no longer uses the Store, unless the error is ErrNoSpace or ErrTooBig.
	// 8,192 entries of 100 bytes always fit into one transaction.
	Update(fn func(Tx) error) error

	// View runs fn on a consistent, read-only snapshot. It is taken at the first
	// read at the latest. fn must not open another view, nor wait for anybody who
	// does: there may be room for few views, which would wait for each other.
	View(fn func(Reader) error) error

	// Close releases the store. Nothing may be running.
	Close() error
}

// Reader reads one consistent state. Slices it hands out are valid only until
// the function it was passed to returns.
type Reader interface {
	// Get returns the value under key, or ErrNotFound.
	Get(key []byte) ([]byte, error)

	// Scan calls fn for each key with the prefix, in ascending order (or
	// descending when reverse), starting after (before) the key after, or
	// from the edge when after is nil, until fn returns false or an error.
	Scan(prefix, after []byte, reverse bool, fn func(key, value []byte) (bool, error)) error
}

// Find returns the value under key, and whether there is one.
func Find(r Reader, key []byte) (value []byte, there bool, err error) {
	value, err = r.Get(key)
	if errors.Is(err, ErrNotFound) {
		return nil, false, nil
	}
	return value, err == nil, err
}

// Read returns what fn reads in a view.
func Read[T any](s Store, fn func(Reader) (T, error)) (found T, err error) {
	err = s.View(func(r Reader) error {
		found, err = fn(r)
		return err
	})
	return found, err
}

// Browser is a Store that few can read at a time.
type Browser interface {
	// Browse is View for work that reads many rows, such as a list or a sweep. However
	// much of it there is, it leaves room for View, which requests wait for.
	Browse(fn func(Reader) error) error
	// Upkeep is Browse for the limiter's own work, which goes on however long others
	// browse: one reads at a time, and for seconds.
	Upkeep(fn func(Reader) error) error
}

// Browse is View for work that reads many rows, and may wait for other such work.
func Browse(s Store, fn func(Reader) error) error {
	if few, ok := s.(Browser); ok {
		return few.Browse(fn)
	}
	return s.View(fn)
}

// Upkeep is Browse for the limiter's own work.
func Upkeep(s Store, fn func(Reader) error) error {
	if few, ok := s.(Browser); ok {
		return few.Upkeep(fn)
	}
	return s.View(fn)
}

// Fetcher is a Reader that has far to go for each row.
type Fetcher interface {
	// Fetch reads, all at once, rows that Get will be asked for. The rows of earlier
	// calls may be forgotten.
	Fetch(keys [][]byte) error
}

// Fetch tells a Reader which rows Get will be asked for, so that one that has far to
// go for them makes one trip.
func Fetch(r Reader, keys ...[]byte) error {
	if far, ok := r.(Fetcher); ok {
		return far.Fetch(keys)
	}
	return nil
}

// Tx is a Reader that sees its own writes. A write that no longer fits into the
// transaction is not made, and its error wraps ErrTooBig.
type Tx interface {
	Reader
	Set(key, value []byte) error
	Delete(key []byte) error
}

// DeleteAll deletes what is under these keys.
func DeleteAll(tx Tx, keys [][]byte) error {
	for _, key := range keys {
		if err := tx.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// ErrNotFound is returned by Reader.Get when the key is absent, and by the
// limiter when no key has the id asked for.
var ErrNotFound = errors.New("not found")

// ErrNoSpace is wrapped by the error of an Update that was not begun because
// the disk is nearly full. Nothing was written, and the next may go on.
var ErrNoSpace = errors.New("the disk is nearly full")

// ErrTooBig is wrapped by the error of a write, or of an Update, that is more than fits
// into one transaction. Nothing was written, and a smaller one may go on.
var ErrTooBig = errors.New("too much for one transaction")

// ErrLocked is wrapped by the error of opening a store that another process
// has open.
var ErrLocked = errors.New("the store is in use by another process")

// ErrNoLocks is wrapped by the error of opening a store on a file system that cannot tell
// whether another process has it open.
var ErrNoLocks = errors.New("the store's file system has no locks, so another process could open the store, too")

// ErrExposed is wrapped by the error of opening a store whose files others may
// read or change.
var ErrExposed = errors.New("others may read or change the store")

// ErrDamaged is wrapped by the error of opening a store whose files cannot be
// read.
var ErrDamaged = errors.New("the store's files are damaged")

// ErrClosed is returned once the store was closed.
var ErrClosed = errors.New("the store is closed")

// Format is the layout of what the limiter keeps in a store; see
// limiter/record/layout.go. A store of another format is not opened.
const Format = "till/8"

// FormatKey is the key under which a store records its format.
var FormatKey = []byte("m/format")

// ErrFormat is wrapped by the error of opening a store that another version of
// till has written.
var ErrFormat = errors.New("the store has another format")

// Unfinished begins the format of a store that a migration is still filling.
const Unfinished = "unfinished migration "

func OtherFormat(format []byte) error {
	if strings.HasPrefix(string(format), Unfinished) {
		return fmt.Errorf("%w: a migration into it is not finished: run the same command again", ErrFormat)
	}
	return fmt.Errorf("%w: %q, and this version of till reads %q: use the version that wrote it", ErrFormat, format, Format)
}

// CheckFormat refuses a store that another version of till has written.
func CheckFormat(r Reader) error {
	format, there, err := Find(r, FormatKey)
	if there && string(format) != Format {
		return OtherFormat(format)
	}
	return err
}
