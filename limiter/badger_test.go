package limiter_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
)

func TestASecondOpenOfTheSameDirectoryNamesTheProcessThatHasIt(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "badger")
	s, err := limiter.OpenBadger(dir, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = limiter.OpenBadger(dir, discard)
	if !errors.Is(err, limiter.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", os.Getpid())) {
		t.Errorf("second open: %v, want ErrLocked with process %d", err, os.Getpid())
	}
}

func TestWhatOthersMayReadOrOwnIsRefused(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"", "shadow", "anchor"} {
		for _, mode := range []os.FileMode{0o750, 0o705, 0o644, 0o620} {
			dir := filepath.Join(t.TempDir(), "badger")
			if err := openAll(dir); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, file)
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			if file == "" && mode&0o100 == 0 {
				continue // nobody can enter
			}
			if err := openAll(dir); !errors.Is(err, limiter.ErrExposed) || !strings.Contains(err.Error(), "chmod ") {
				t.Errorf("%q with mode %04o: %v", file, mode, err)
			}
			if os.Geteuid() != 0 {
				continue // may give files to nobody
			}
			if err := errors.Join(os.Chmod(path, mode&0o700), os.Chown(path, 12345, -1)); err != nil {
				t.Fatal(err)
			}
			if err := openAll(dir); !errors.Is(err, limiter.ErrExposed) || !strings.Contains(err.Error(), "user 12345") {
				t.Errorf("%q of another user: %v", file, err)
			}
			if err := os.Chown(path, 0, -1); err != nil {
				t.Fatal(err)
			}
			if err := openAll(dir); err != nil {
				t.Errorf("%q, mended: %v", file, err)
			}
		}
	}
}

// openAll opens a limiter on a Badger directory with everything in it, and
// closes it.
func openAll(dir string) error {
	s, err := limiter.OpenBadger(dir, discard)
	if err != nil {
		return err
	}
	l, err := limiter.Open(limiter.Options{Patience: patience, Store: s, Shadow: filepath.Join(dir, "shadow"), Anchor: filepath.Join(dir, "anchor")})
	if err != nil {
		return errors.Join(err, s.Close())
	}
	return l.Close()
}

func TestAReaderIsNotCutOffByAStoreThatCloses(t *testing.T) {
	t.Parallel()
	s, err := limiter.OpenBadger(filepath.Join(t.TempDir(), "badger"), discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(func(tx limiter.Tx) error { return tx.Set([]byte("k/1"), []byte("one")) }); err != nil {
		t.Fatal(err)
	}
	inside, closed := make(chan struct{}), make(chan error, 1)
	go func() {
		<-inside
		closed <- s.Close()
	}()
	err = s.View(func(r limiter.Reader) error {
		close(inside)
		for range 10000 { // while it closes
			if _, err := r.Get([]byte("k/1")); err != nil {
				return err
			}
		}
		select {
		case <-closed:
			return errors.New("closed under a reader")
		default:
			return nil
		}
	})
	if err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := s.View(func(limiter.Reader) error { return nil }); !errors.Is(err, limiter.ErrClosed) {
		t.Errorf("a read from a closed store: %v", err)
	}
}

func TestAStoreWhoseDirectoryIsMovedAwayRefusesAndEndsNoProcess(t *testing.T) {
	t.Parallel()
	w := newBadgerWorld(t)
	k := w.mint(activations(10))
	dir := filepath.Join(w.dir, "badger")
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if code := k.use(); code != limiter.CodeStoreUnavailable {
		t.Errorf("a request that needs a block: %q", code)
	}
	if err := w.Ping(ctx); err == nil || w.Failed() == nil {
		t.Errorf("the store has not failed: %v", err)
	}
	if err := os.Rename(dir+".old", dir); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil {
		t.Error("a failed store closes as if nothing had happened")
	}
	w.reopenBadger()
	if n := k.drain(limiter.CodeActivationsExhausted); n != 10 {
		t.Errorf("%d of 10 afterwards", n)
	}
}

func TestClosingAStoreWhoseDiskDoesNotAnswerWaitsOnlySoLong(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "badger")
	s, err := limiter.OpenBadger(dir, discard)
	if err != nil {
		t.Fatal(err)
	}
	limiter.SetPatience(s, 50*time.Millisecond)
	if err := s.Update(func(tx limiter.Tx) error { return tx.Set([]byte("k/1"), []byte("one")) }); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".old"); err != nil { // Badger tries to write its tables until it is there
		t.Fatal(err)
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("closing: %v", err)
	}
	if err := s.View(func(limiter.Reader) error { return nil }); !errors.Is(err, limiter.ErrClosed) {
		t.Errorf("a read while it is being closed: %v", err)
	}
	if _, err := limiter.OpenBadger(dir, discard); err == nil || !strings.Contains(err.Error(), "still closing") {
		t.Errorf("opening it meanwhile: %v", err)
	}
	if err := os.Rename(dir+".old", dir); err != nil {
		t.Fatal("opening it meanwhile has made another: ", err)
	}
	deadline := time.Now().Add(patience)
	for s, err = limiter.OpenBadger(dir, discard); err != nil; s, err = limiter.OpenBadger(dir, discard) {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	defer s.Close()
	if err := s.View(func(r limiter.Reader) error { _, err := r.Get([]byte("k/1")); return err }); err != nil {
		t.Error(err)
	}
}
