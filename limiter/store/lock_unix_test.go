//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package store_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// lockVariable names the file that TestLockHelper locks.
const lockVariable = "TILL_LOCK_FILE"

// TestLockHelper is a process on another machine, as far as a network file system shows
// it: it holds the lock of the file, and none of the directory.
func TestLockHelper(t *testing.T) {
	name := os.Getenv(lockVariable)
	if name == "" {
		t.Skip("only as a process of its own")
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err == nil {
		_, err = f.WriteAt([]byte("7 elsewhere\n"), 0)
	}
	if err == nil {
		err = f.Truncate(int64(len("7 elsewhere\n")))
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("locked")
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
}

// TestAStoreThatAnotherMachineHasOpenIsNotOpened: Badger locks the directory, which over
// NFS each machine does for itself.
func TestAStoreThatAnotherMachineHasOpenIsNotOpened(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "badger")
	open := func() error {
		s, err := store.OpenBadger(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		s.(*store.Badger).ClosePatience = 5 * time.Minute // others may keep the machine busy
		return s.Close()
	}
	for range 2 { // what is left of the first is no obstacle
		if err := open(); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, "till.lock")
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	other := exec.Command(os.Args[0], "-test.run=^TestLockHelper$")
	other.Env = append(os.Environ(), lockVariable+"="+name)
	if _, err := other.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	said, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(said).ReadString('\n'); line != "locked\n" {
		t.Errorf("the other process: %q %v", line, err)
	}
	if err := open(); !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), "(process 7 on elsewhere)") {
		t.Errorf("while another machine has it open: %v, want ErrLocked", err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait() // it was killed
	if err := open(); err != nil {
		t.Errorf("after that was killed: %v", err)
	}
}

// TestAStoreThatCannotBeLockedIsNotOpened: it is not known whether another process has
// it open.
func TestAStoreThatCannotBeLockedIsNotOpened(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "till.lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	if s, err := store.OpenBadger(dir, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it was opened")
		_ = s.Close()
	} else if !strings.Contains(err.Error(), "till.lock") {
		t.Error(err)
	}
}
