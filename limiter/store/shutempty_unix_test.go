//go:build unix

package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/store"
)

// TestOnlyAnEmptyDirectoryOfThisUserThatOthersReadIsShut: whatever else others may read or
// change is refused, and stays as it is.
func TestOnlyAnEmptyDirectoryOfThisUserThatOthersReadIsShut(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode fs.FileMode
		with func(t *testing.T, dir string) (opened string)
		shut bool
	}{
		"that all may read":           {mode: 0o755, shut: true},
		"that a group may read":       {mode: 0o750, shut: true},
		"that all may enter":          {mode: 0o711, shut: true},
		"that all may write to":       {mode: 0o777},
		"that a group may write to":   {mode: 0o775},
		"that others may write to":    {mode: 0o757},
		"of a shared volume":          {mode: fs.ModeSetgid | 0o775},
		"that gives files its group":  {mode: fs.ModeSetgid | 0o755},
		"with a sticky bit":           {mode: fs.ModeSticky | 0o755},
		"that this user cannot write": {mode: 0o555},
		"with something in it": {mode: 0o755, with: func(t *testing.T, dir string) string {
			t.Helper()
			if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
				t.Fatal(err)
			}
			return dir
		}},
		"that a link was put in place of": {mode: 0o755, with: func(t *testing.T, dir string) string {
			t.Helper()
			if err := os.Symlink(dir, dir+"-link"); err != nil {
				t.Fatal(err)
			}
			return dir + "-link"
		}},
		"of another user": {mode: 0o755, with: func(t *testing.T, dir string) string {
			t.Helper()
			if os.Geteuid() != 0 {
				t.Skip("only root may give a directory away")
			}
			if err := os.Chown(dir, 12345, -1); err != nil {
				t.Fatal(err)
			}
			return dir
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "badger")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			opened := dir
			if test.with != nil {
				opened = test.with(t, dir)
			}
			if err := os.Chmod(dir, test.mode); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			s, err := store.OpenBadger(opened, slog.New(slog.NewTextHandler(&log, nil)))
			if err == nil {
				err = s.Close()
			}
			want, mode := store.ErrExposed, test.mode
			if test.shut {
				want, mode = nil, 0o700
			}
			info, statErr := os.Stat(dir)
			if statErr != nil {
				t.Fatal(statErr)
			}
			if !errors.Is(err, want) || info.Mode() != fs.ModeDir|mode {
				t.Errorf("%v, want %v; its mode is then %v, want %v", err, want, info.Mode(), fs.ModeDir|mode)
			}
			if said := strings.Contains(log.String(), "only this user can open it"); said != test.shut {
				t.Errorf("it logs %q", log.String())
			}
		})
	}
}
