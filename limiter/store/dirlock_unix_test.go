//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package store

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
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

// TestAStoreIsOpenedAsSoonAsAChildHasNoCopyOfItsDirectory: a child that is just being started
// holds Badger's lock, too.
func TestAStoreIsOpenedAsSoonAsAChildHasNoCopyOfItsDirectory(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		after time.Duration
		want  error
	}{
		"in time": {lockPatience / 2, nil},
		"never":   {time.Hour, ErrLocked},
	} {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		child, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer child.Close()
		flock := func(how int) {
			if err := syscall.Flock(int(child.Fd()), how|syscall.LOCK_NB); err != nil {
				t.Error(err)
			}
		}
		flock(syscall.LOCK_EX)
		synctest.Test(t, func(t *testing.T) {
			defer time.AfterFunc(tc.after, func() { flock(syscall.LOCK_UN) }).Stop()
			s, err := OpenBadger(dir, slog.New(slog.DiscardHandler))
			if err == nil {
				err = s.Close()
			}
			if !errors.Is(err, tc.want) {
				t.Errorf("%s: %v, want %v", name, err, tc.want)
			}
		})
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
