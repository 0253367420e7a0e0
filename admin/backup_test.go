package admin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestABackupIsWrittenCheckedAndRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mint(`{"upstream":"openai","max_activations":5,"name":"nightly"}`)
	address := w.serve()
	dir := t.TempDir()
	file := filepath.Join(dir, "till.bak")
	got := till(t, "backup", file, "--address", address)
	if got.code != 0 || !strings.HasPrefix(got.out, file+" holds 1 key, in ") {
		t.Fatalf("backup: %d, %q %q", got.code, got.out, got.err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if got := till(t, "backup", file, "--address", address); got.code != 1 || !strings.Contains(got.err, "is there already") {
		t.Errorf("over a file that is there: %d, %q", got.code, got.err)
	}
	if err := os.WriteFile(file+"3.partial", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := till(t, "backup", file+"3", "--address", address); got.code != 1 || !strings.Contains(got.err, "remove it, or name another file") {
		t.Errorf("beside one that broke off: %d, %q", got.code, got.err)
	}
	if err := os.Remove(file + "3.partial"); err != nil {
		t.Fatal(err)
	}
	w.closed = true
	if got := till(t, "backup", file+"2", "--address", address); got.code != 1 {
		t.Errorf("of a closed store: %d", got.code)
	}
	w.closed = false
	if names, err := filepath.Glob(file + "*"); err != nil || len(names) != 1 {
		t.Errorf("left behind: %q, %v", names, err)
	}

	store := filepath.Join(dir, "store")
	got = till(t, "restore", file, "--store", store)
	if got.code != 0 || got.out != store+" holds 1 key; 1 that were alive are suspended: caddy till list --status suspended\n" {
		t.Fatalf("restore: %d, %q %q", got.code, got.out, got.err)
	}
	if _, err := os.Stat(filepath.Join(store, "anchor")); err != nil {
		t.Error(err)
	}
	if got := till(t, "restore", file, "--store", store); got.code != 1 || !strings.Contains(got.err, "not empty") {
		t.Errorf("into a store that is there: %d, %q", got.code, got.err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b[:len(b)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if got := till(t, "restore", file, "--store", store+"2"); got.code != 1 || !strings.Contains(got.err, "no whole backup") {
		t.Errorf("a cut file: %d, %q", got.code, got.err)
	}
	if _, err := os.Stat(store + "2"); err == nil {
		t.Error("a store was made for a file that is no backup")
	}
}
