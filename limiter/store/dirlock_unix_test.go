//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package store

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

// TestAClosedStoreIsNotLockedByACopyOfItsFile: a child that is just being started has a copy
// of everything that is open.
func TestAClosedStoreIsNotLockedByACopyOfItsFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	child, err := syscall.Dup(int(lock.(dirLock).Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(child) //nolint:errcheck // it is a test's
	if again, err := lockDir(dir); !errors.Is(err, ErrLocked) {
		t.Fatalf("locked twice: %v, %v", again, err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lockDir(dir)
	if err != nil {
		t.Fatalf("after it was closed: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// TestAFileSystemWithoutLocksIsNamed: what it cannot do no later try changes.
func TestAFileSystemWithoutLocksIsNamed(t *testing.T) {
	t.Parallel()
	for cause, want := range map[syscall.Errno]bool{
		syscall.ENOLCK: true, syscall.ENOTSUP: true, syscall.ENOSYS: true, syscall.EIO: false,
	} {
		err := notLocked("/mnt/nfs/till.lock", cause)
		if errors.Is(err, ErrNoLocks) != want || !errors.Is(err, cause) || !strings.Contains(err.Error(), "/mnt/nfs/till.lock") || strings.Contains(err.Error(), "a disk of this machine") != want {
			t.Errorf("%v: %v", cause, err)
		}
	}
}
