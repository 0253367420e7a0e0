package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Disk holds the two files beside the store: the anchor and the shadow counter. It is
// all that the limiter needs from a disk besides its Store, so that both can be
// simulated together, with every fault between two steps.
type Disk interface {
	// ReadFile returns a file's content. The error wraps fs.ErrNotExist when
	// there is no such file, and ErrExposed when others may read or change it.
	ReadFile(path string) ([]byte, error)

	// Replace puts a file in place of the previous one, if there is one: all of
	// it or nothing, and on stable storage once it returns nil.
	Replace(path string, content []byte) error

	// Open opens an existing file for writing within its size.
	Open(path string) (File, error)

	// Map maps a file of that size, or of less, into memory, and makes the file
	// if it is missing or has another size. What is written to it outlives the
	// process, but not a power cut.
	Map(path string, size int) (Mapping, error)
}

// File is a file that is written in place.
type File interface {
	WriteAt(b []byte, at int64) (int, error)
	// Sync returns nil once what was written is on stable storage.
	Sync() error
	Close() error
}

// Mapping is a file in memory.
type Mapping interface {
	Bytes() []byte
	Close() error
}

// BootIDLen is the length of a boot's name; see [BootID].
const BootIDLen = 36

// Files is the machine's own disk.
type Files struct{}

// ReadFile implements Disk.
func (Files) ReadFile(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		err = private(path)
	}
	return b, err
}

// Replace implements Disk.
func (Files) Replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	next := path + ".new"
	if err := WriteSynced(next, content); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// WriteSynced makes a new file, replacing one that was left there, and never follows
// a link that was put there.
func WriteSynced(path string, b []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Open implements Disk.
func (Files) Open(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return dataFile{f}, nil
}

// dataFile syncs a file's content alone.
type dataFile struct{ *os.File }

func (f dataFile) Sync() error { return syncData(f.File) }

// Map implements Disk.
func (Files) Map(path string, size int) (Mapping, error) {
	info, err := os.Stat(path)
	if err == nil {
		err = private(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	file, openErr := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if openErr != nil {
		return nil, openErr
	}
	// The file is written out, or filled where it has holes, rather than
	// truncated to size: a page that finds no space later would end the process
	// with SIGBUS.
	if err != nil || info.Size() != int64(size) {
		err = writeOut(file, size)
	} else {
		err = allocate(file, int64(size))
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	mem, err := mapFile(file, size)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return mapping{mem, file}, nil
}

func writeOut(f *os.File, size int) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(make([]byte, size), 0)
	return err
}

type mapping struct {
	mem  []byte
	file *os.File
}

func (m mapping) Bytes() []byte { return m.mem }
func (m mapping) Close() error  { return errors.Join(unmapFile(m.mem), m.file.Close()) }

// Interface guards
var (
	_ Disk    = Files{}
	_ File    = dataFile{}
	_ Mapping = mapping{}
)
