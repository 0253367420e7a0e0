//go:build unix

package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A store that root restores or migrates is for a server that may run as another user, and
// that refuses to start with files of anybody else. So the files that root makes are given
// to the owner of the former store, or, if there is none, to the owner of the directory in
// which they are made. Root is told, because a server that runs as root does not start with
// such files.

// estate is a file or directory that is going to be made at a path, and its future
// owner.
type estate struct {
	path string
	in   *os.Root // the directory, which is there already
	name string   // what is made in it

	uid, gid int    // root's own is left as it is
	like     string // the model for the owner: the former store, or the directory; "" if it is there already
	former   bool
}

// inherit is called before anything is made at some paths, that of the store first, and
// pass once everything is there.
func inherit(notes io.Writer, paths ...string) (pass func() error, err error) {
	if os.Geteuid() != 0 {
		return func() error { return nil }, nil
	}
	var all []*estate
	for _, path := range paths {
		e, err := estateAt(path)
		if err != nil {
			return nil, err
		}
		if len(all) > 0 && all[0].former && e.like != "" { // one server opens them all
			e.uid, e.gid, e.like = all[0].uid, all[0].gid, all[0].like
		}
		if slices.ContainsFunc(all, e.isPartOf) {
			err = e.in.Close()
		} else {
			all = append(all, e)
		}
		if err != nil {
			return nil, err
		}
	}
	return func() (err error) {
		var kept []string
		for _, e := range all {
			if e.uid != 0 {
				err = errors.Join(err, e.pass(notes))
				continue
			}
			info, statErr := e.in.Lstat(e.name)
			if statErr == nil && owner(info).Uid == 0 {
				kept = append(kept, e.path)
			}
			if errors.Is(statErr, fs.ErrNotExist) {
				statErr = nil
			}
			err = errors.Join(err, statErr, e.in.Close())
		}
		if len(kept) > 0 {
			fmt.Fprintf(notes, "It belongs to root. The start of init/till.service gives /var/lib/till to the server's user;\nelsewhere, and without that unit: chown -R USER %s\n", strings.Join(kept, " "))
		}
		return err
	}, nil
}

// estateAt finds the first part of a path that is not there, or its last one.
func estateAt(path string) (*estate, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	e := &estate{path: path}
	for ; ; path = filepath.Dir(path) {
		// It stays the same one, even if its owner puts a link in its place.
		if e.in, err = os.OpenRoot(filepath.Dir(path)); err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	e.path, e.name = path, filepath.Base(path)
	if err := e.find(); err != nil {
		return nil, errors.Join(err, e.in.Close())
	}
	return e, nil
}

// find finds the future owner. A file that is there already stays as it is.
func (e *estate) find() error {
	if _, err := e.in.Lstat(e.name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir, err := e.in.Stat(".")
	if err != nil {
		return err
	}
	model, like := dir, filepath.Dir(e.path)
	if dir.Mode().Perm()&0o022 == 0 { // otherwise anybody may have put it there
		switch old, err := e.in.Lstat(e.name + ".old"); { // as docs/reliability.md moves it away
		case err == nil && old.Mode()&fs.ModeSymlink == 0:
			model, like, e.former = old, e.path+".old", true
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	e.uid, e.gid, e.like = int(owner(model).Uid), int(owner(model).Gid), like
	return nil
}

// isPartOf reports whether this estate is part of another.
func (e *estate) isPartOf(other *estate) bool {
	return e.path == other.path || strings.HasPrefix(e.path, other.path+"/")
}

func owner(info fs.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }

// pass gives all of it to its owner, if it was made.
func (e *estate) pass(notes io.Writer) error {
	_, err := e.in.Lstat(e.name)
	made := !errors.Is(err, fs.ErrNotExist)
	if made {
		err = give(e.in, e.name, e.uid, e.gid)
	} else {
		err = nil
	}
	if err = errors.Join(err, e.in.Close()); err != nil {
		return fmt.Errorf("%s is not given to %s, as %s is: %w; see what is there, then: chown -R %d:%d %s",
			e.path, userName(e.uid), e.like, err, e.uid, e.gid, e.path)
	}
	if made {
		fmt.Fprintf(notes, "%s belongs to %s now, as %s does. If the server runs as another: chown -R USER %s\n", e.path, userName(e.uid), e.like, e.path)
	}
	return nil
}

// give gives away a file of root's, or a directory with everything in it. The owner of the
// directory around it may have put something else in its place, at worst a link to a file
// of root's, and may do so at any moment: so only the file that was examined is given
// away. Nobody else changes the contents of a directory of root's.
func give(in *os.Root, name string, uid, gid int) error {
	seen, err := in.Lstat(name)
	if err != nil {
		return err
	}
	refuse := func(why string) error {
		return &fs.PathError{Op: "giving away", Path: filepath.Join(in.Name(), name), Err: errors.New(why)}
	}
	if !seen.IsDir() && !seen.Mode().IsRegular() {
		return refuse("it is neither a file nor a directory")
	}
	f, err := in.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it is only read
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !os.SameFile(seen, info):
		return refuse("another one was put in its place")
	case owner(info).Uid != 0:
		return refuse("it is not root's")
	case !info.IsDir():
		if owner(info).Nlink > 1 {
			return refuse("it has another name elsewhere")
		}
		return f.Chown(uid, gid)
	}
	entries, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	dir, err := in.OpenRoot(name)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // it is only read
	if now, err := dir.Stat("."); err != nil || !os.SameFile(seen, now) {
		return errors.Join(err, refuse("another one was put in its place"))
	}
	for _, entry := range entries {
		err = errors.Join(err, give(dir, entry.Name(), uid, gid))
	}
	if err != nil {
		return err
	}
	return f.Chown(uid, gid)
}
