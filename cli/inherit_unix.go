//go:build unix

package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// What root restores or migrates is for a server that runs as another user, and that
// refuses to start with files of anybody else. So what root makes is given to whoever owns
// the directory in which it is made.

// estate is what is going to be made at a path, and whose it will be.
type estate struct {
	in       *os.Root // the directory, which is there already
	name     string   // what is made in it
	uid, gid int
}

// inherit is called before anything is made at some paths, and pass once all is there.
func inherit(notes io.Writer, paths ...string) (pass func() error, err error) {
	var all []*estate
	for _, path := range paths {
		e, err := estateAt(path)
		if err != nil {
			return nil, err
		}
		if e != nil {
			all = append(all, e)
		}
	}
	return func() (err error) {
		for _, e := range all {
			err = errors.Join(err, e.pass())
		}
		if len(all) == 0 && os.Geteuid() == 0 {
			fmt.Fprintf(notes, "It belongs to root. The start of init/till.service gives /var/lib/till to the server's user;\nelsewhere, and without that unit: chown -R USER %s\n", paths[0])
		}
		return err
	}, nil
}

// estateAt returns nil unless root calls, there is nothing at the path, and the directory
// is another's.
func estateAt(path string) (*estate, error) {
	path, err := filepath.Abs(path)
	if err != nil || os.Geteuid() != 0 {
		return nil, err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	e := &estate{name: filepath.Base(path)}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		// It stays the same one, even if its owner puts a link in its place.
		if e.in, err = os.OpenRoot(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
		e.name = filepath.Base(dir)
	}
	if err != nil {
		return nil, err
	}
	info, err := e.in.Stat(".")
	if err == nil {
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 {
			e.uid, e.gid = int(owner.Uid), int(owner.Gid)
			return e, nil
		}
	}
	return nil, errors.Join(err, e.in.Close())
}

// pass gives all of it to its owner, if it was made.
func (e *estate) pass() error {
	err := fs.WalkDir(e.in.FS(), e.name, func(name string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = e.in.Lchown(name, e.uid, e.gid)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err = errors.Join(err, e.in.Close()); err != nil {
		path := filepath.Join(e.in.Name(), e.name)
		return fmt.Errorf("%s is not given to the owner of the directory it is in: %w; run: chown -R %d:%d %s", path, err, e.uid, e.gid, path)
	}
	return nil
}
