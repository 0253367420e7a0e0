package limiter_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

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
			if err := openAll(dir); !errors.Is(err, store.ErrExposed) || !strings.Contains(err.Error(), "chmod ") {
				t.Errorf("%q with mode %04o: %v", file, mode, err)
			}
			if os.Geteuid() != 0 {
				continue // may give files to nobody
			}
			if err := errors.Join(os.Chmod(path, mode&0o700), os.Chown(path, 12345, -1)); err != nil {
				t.Fatal(err)
			}
			if err := openAll(dir); !errors.Is(err, store.ErrExposed) || !strings.Contains(err.Error(), "user 12345") {
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
	s, err := store.OpenBadger(dir, discard)
	if err != nil {
		return err
	}
	s.(*store.Badger).ClosePatience = patience
	l, err := limiter.Open(limiter.Options{Patience: patience, Store: s, Shadow: filepath.Join(dir, "shadow"), Anchor: filepath.Join(dir, "anchor")})
	if err != nil {
		return errors.Join(err, s.Close())
	}
	return l.Close()
}

func TestAStoreWhoseDirectoryIsMovedAwayRefusesAndEndsNoProcess(t *testing.T) {
	t.Parallel()
	w := newBadgerWorld(t)
	k := w.mint(activations(10))
	dir := filepath.Join(w.dir, "badger")
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if code := k.use(); code != record.CodeStoreUnavailable {
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
	if n := k.drain(record.CodeActivationsExhausted); n != 10 {
		t.Errorf("%d of 10 afterwards", n)
	}
}
