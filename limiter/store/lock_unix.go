//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lockName is the file in a store's directory that is locked by the process that has the
// store open.
const lockName = "till.lock"

// lockDir locks a store's directory until the Closer that it returns is closed, or the
// process ends. Badger locks the directory itself, but on a network file system no other
// machine sees that lock. Over NFS, Linux turns the lock of a file that is open for
// writing into one of the file server, which all machines see: flock(2), "NFS details".
// The file stays where it is, because removing it would let a process lock another file
// of that name.
func lockDir(dir string) (io.Closer, error) {
	name := filepath.Join(dir, lockName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	host, _ := os.Hostname() // it only makes the error of another process clearer
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		err = fmt.Errorf("%w%s", ErrLocked, lockedBy(f, host))
	case err != nil:
		err = notLocked(name, err)
	default:
		if err = f.Truncate(0); err == nil {
			_, err = fmt.Fprintf(f, "%d %s\n", os.Getpid(), host)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return dirLock{f}, nil
}

// dirLock is the file that is locked.
type dirLock struct{ *os.File }

// Close ends the lock even for a child that this process is just starting, which has a
// copy of the open file until it becomes another program.
func (l dirLock) Close() error {
	return errors.Join(syscall.Flock(int(l.Fd()), syscall.LOCK_UN), l.File.Close())
}

// notLocked says why a file cannot be locked, other than that another process has locked it.
func notLocked(name string, err error) error {
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOLCK) {
		err = fmt.Errorf("%w: %w; put the store on a disk of this machine, or mount its file system with locks (NFS: without nolock and local_lock, and with the server's lock service running)", ErrNoLocks, err)
	}
	return fmt.Errorf("locking %s: %w", name, err)
}

// lockedBy says which process has locked the file, as that process has written there.
func lockedBy(f *os.File, here string) string {
	b, err := io.ReadAll(io.LimitReader(f, 512))
	pid, host, ok := strings.Cut(strings.TrimSpace(string(b)), " ")
	switch {
	case err != nil || !ok:
		return ""
	case host == here:
		return fmt.Sprintf(" (process %s)", pid)
	}
	return fmt.Sprintf(" (process %s on %s)", pid, host)
}
