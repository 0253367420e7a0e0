//go:build unix

package cli

import (
	"errors"
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
	restores := func(store, anchor string, notes ...string) {
		t.Helper()
		got := till(t, "restore", file, "--store", store, "--anchor", anchor)
		if got.code != 0 || strings.Count(got.err, "chown") != len(notes) {
			t.Errorf("%+v", got)
		}
		for _, want := range notes {
			if !strings.Contains(got.err, want) {
				t.Errorf("it does not say %q: %s", want, got.err)
			}
		}
	}
	restores(store, anchor,
		filepath.Join(data, "deep")+" belongs to user 54321 now, as "+data+" does. If the server runs as another: chown -R USER "+filepath.Join(data, "deep")+"\n",
		filepath.Join(volume, "anchors")+" belongs to user 54322 now")
	belongs(filepath.Join(data, "deep"), server)
	belongs(filepath.Join(volume, "anchors"), other)
	belongs(secret, 0)

	// The former store says as whom the server runs: a container's server may be root on a
	// volume of somebody else's, and a directory of root's may have a store of the server's.
	if err := errors.Join(os.Mkdir(filepath.Join(data, "roots.old"), 0o700), os.Mkdir(filepath.Join(dir, "servers.old"), 0o700),
		os.Chown(filepath.Join(dir, "servers.old"), server, server)); err != nil {
		t.Fatal(err)
	}
	store, anchor = filepath.Join(data, "roots"), filepath.Join(volume, "roots.anchor")
	restores(store, anchor, "chown -R USER "+store+" "+anchor+"\n")
	belongs(store, 0)
	belongs(anchor, 0)
	store, anchor = filepath.Join(dir, "servers"), filepath.Join(volume, "servers.anchor")
	restores(store, anchor, store+" belongs to user 54321 now, as "+store+".old does", anchor+" belongs to user 54321 now")
	belongs(store, server)
	belongs(anchor, server)

	// Where others may write, it was anybody who put one there.
	open := owned("open", server)
	if err := errors.Join(os.Chmod(open, 0o777), os.Mkdir(filepath.Join(open, "till.old"), 0o700), os.Chown(filepath.Join(open, "till.old"), other, other)); err != nil {
		t.Fatal(err)
	}
	restores(filepath.Join(open, "till"), filepath.Join(open, "till", "anchor"), filepath.Join(open, "till")+" belongs to user 54321 now")

	// Nobody knows for whom it is in a directory of root's, nor what a first try has left.
	store, anchor = filepath.Join(dir, "till"), filepath.Join(volume, "till.anchor")
	restores(store, anchor, "chown -R USER "+store+"\n", anchor+" belongs to user 54322 now")
	belongs(store, 0)
	belongs(anchor, other)
	store = filepath.Join(data, "again")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	restores(store, filepath.Join(store, "anchor"), "chown -R USER "+store+"\n")
	belongs(store, 0)
}

// TestWhoeverOwnsTheDirectoryGetsOnlyWhatWasMade: the server's user, if an agent has taken it
// over, may put anything there before it is given away.
func TestWhoeverOwnsTheDirectoryGetsOnlyWhatWasMade(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make files for another user")
	}
	const server = 54321
	for name, put := range map[string]func(secret, at string) error{
		"a link":      os.Symlink,
		"a hard link": os.Link,
		"a link within": func(secret, at string) error {
			return errors.Join(os.Mkdir(at, 0o700), os.Symlink(secret, at+"/anchor"))
		},
		"a hard link within": func(secret, at string) error { return errors.Join(os.Mkdir(at, 0o700), os.Link(secret, at+"/anchor")) },
		"a pipe":             func(_, at string) error { return syscall.Mkfifo(at, 0o600) },
		"a directory of the user's": func(secret, at string) error {
			return errors.Join(os.Mkdir(at, 0o700), os.Chown(at, server, server), os.WriteFile(at+"/anchor", nil, 0o600))
		},
		"a link to a directory of root's": func(secret, at string) error { return os.Symlink(filepath.Base(filepath.Dir(secret)), at) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			kept := filepath.Join(dir, "kept")
			secret := filepath.Join(kept, "secret")
			if err := errors.Join(os.Chown(dir, server, server), os.Mkdir(kept, 0o700), os.WriteFile(secret, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			at := filepath.Join(dir, "till")
			pass, err := inherit(t.Output(), at)
			if err != nil {
				t.Fatal(err)
			}
			if err := put(secret, at); err != nil {
				t.Fatal(err)
			}
			if err := pass(); err == nil || !strings.Contains(err.Error(), at) {
				t.Errorf("it says %v", err)
			}
			for _, path := range []string{kept, secret} {
				if info, err := os.Stat(path); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
					t.Errorf("%s was given away: %v", path, err)
				}
			}
		})
	}
}
