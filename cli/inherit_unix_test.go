//go:build unix

package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestWhatRootRestoresIsTheServers: a server refuses to start with a store or an anchor of
// another user.
func TestWhatRootRestoresIsTheServers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make files for another user")
	}
	const server, other = 54321, 54322
	w := newWorld(t)
	w.NewKey(`{"upstream":"openai","max_activations":5}`)
	dir := t.TempDir()
	file := filepath.Join(dir, "till.bak")
	if got := till(t, "backup", file, "--address", w.Serve()); got.code != 0 {
		t.Fatal(got)
	}
	owned := func(name string, uid int) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
		return path
	}
	belongs := func(path string, uid uint32) {
		t.Helper()
		n := 0
		err := filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil && (info.Sys().(*syscall.Stat_t).Uid != uid || info.Sys().(*syscall.Stat_t).Gid != uid) {
				t.Errorf("%s does not belong to %d", path, uid)
			}
			n++
			return err
		})
		if err != nil || n == 0 {
			t.Errorf("%s: %v", path, err)
		}
	}
	data, volume := owned("data", server), owned("volume", other)
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	store, anchor := filepath.Join(data, "deep", "till"), filepath.Join(volume, "anchors", "till.anchor")
	if got := till(t, "restore", file, "--store", store, "--anchor", anchor); got.code != 0 || strings.Contains(got.err, "chown") {
		t.Fatalf("%+v", got)
	}
	belongs(filepath.Join(data, "deep"), server)
	belongs(filepath.Join(volume, "anchors"), other)
	belongs(secret, 0)

	// Whoever owns the directory may put links in it, and gets nothing that they lead to.
	within, instead := filepath.Join(data, "within"), filepath.Join(data, "instead")
	pass, err := inherit(t.Output(), filepath.Join(within, "store"), instead)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(within, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{filepath.Join(within, "store"), instead} {
		if err := os.Symlink(secret, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := pass(); err == nil || !strings.Contains(err.Error(), instead) {
		t.Errorf("a link in place of what was made: %v", err)
	}
	belongs(secret, 0)
	if err := os.Remove(filepath.Join(within, "store")); err != nil {
		t.Fatal(err)
	}
	belongs(within, server)

	// Nobody knows for whom it is in a directory of root's.
	store = filepath.Join(dir, "till")
	if got := till(t, "restore", file, "--store", store); got.code != 0 || !strings.Contains(got.err, "chown -R USER "+store+"\n") {
		t.Errorf("%+v", got)
	}
	belongs(store, 0)
}
