package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
)

func TestABackupIsWrittenCheckedAndRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.NewKey(`{"upstream":"openai","max_activations":5,"name":"nightly"}`)
	address := w.Serve()
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
	if got := till(t, "backup", file, "--address", address); got.code != 1 || !strings.Contains(got.err, "exists already") {
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
	w.Closed = true
	if got := till(t, "backup", file+"2", "--address", address); got.code != 1 {
		t.Errorf("of a closed store: %d", got.code)
	}
	w.Closed = false
	if names, err := filepath.Glob(file + "*"); err != nil || len(names) != 1 {
		t.Errorf("left behind: %q, %v", names, err)
	}

	store := filepath.Join(dir, "store")
	got = till(t, "restore", file, "--store", store)
	if got.code != 0 || got.out != store+" holds 1 key; 1 that were alive are suspended: caddy till list --status suspended\n"+
		"What was rotated away or narrowed since is in force again: rotate or update such\nkeys before you resume them.\n" {
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
	if got := till(t, "restore", file, "--store", store+"2"); got.code != 1 || !strings.Contains(got.err, "not a complete backup") {
		t.Errorf("a cut file: %d, %q", got.code, got.err)
	}
	if _, err := os.Stat(store + "2"); err == nil {
		t.Error("a store was made for a file that is no backup")
	}
}

// TestRestoreAsksWhereTheStoreIs: a store that is restored to a place where the
// server does not look leaves the server with an empty store.
func TestRestoreAsksWhereTheStoreIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.NewKey(`{"upstream":"openai","max_activations":5}`)
	dir := t.TempDir()
	file, store, anchor := filepath.Join(dir, "till.bak"), filepath.Join(dir, "store"), filepath.Join(dir, "elsewhere")
	if got := till(t, "backup", file, "--address", w.Serve()); got.code != 0 {
		t.Fatal(got)
	}
	config := func(name, till string) string {
		path := filepath.Join(dir, name+".json")
		if err := os.WriteFile(path, []byte(`{"apps":{`+till+`}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	named := config("named", `"till":{"store":{"module":"badger","path":"`+store+`"},"anchor":"`+anchor+`","upstreams":{"x":{"credential":"{file./no/such}"}}}`)
	for _, test := range []struct {
		args []string
		code int
		err  string
	}{
		{nil, 2, "say where the store is"},
		{[]string{"--store", store, "--config", named}, 2, "say where the store is"},
		{[]string{"--config", named, "--anchor", anchor}, 2, "the Caddyfile names it"},
		{[]string{"--config", config("none", `"http":{}`)}, 1, "no till app"},
		{[]string{"--config", config("default", `"till":{}`)}, 1, "say --store DIR"},
		{[]string{"--config", config("env", `"till":{"store":{"path":"{env.TILL_NOT_SET_HERE}"}}`)}, 1, "say --store DIR"},
		{[]string{"--config", named}, 0, ""},
	} {
		if got := till(t, append([]string{"restore", file}, test.args...)...); got.code != test.code || !strings.Contains(got.err, test.err) {
			t.Errorf("restore %v: %d %s%s", test.args, got.code, got.out, got.err)
		}
	}
	if _, err := os.Stat(anchor); err != nil {
		t.Error(err)
	}
}

// TestADashIsAPipe holds for every command that reads or writes a file.
func TestADashIsAPipe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.NewKey(`{"upstream":"openai","max_activations":5}`)
	address := w.Serve()
	dir := t.TempDir()
	backup := till(t, "backup", "-", "--address", address)
	if keys, err := limiter.CheckBackup(strings.NewReader(backup.out)); err != nil || keys != 1 || backup.code != 0 {
		t.Fatalf("backup: %d keys, %v; %d %s", keys, err, backup.code, backup.err)
	}
	store := filepath.Join(dir, "store")
	if got := tillReading(t, backup.out[:len(backup.out)-1], "restore", "-", "--store", store); got.code != 1 || !strings.Contains(got.err, "not a complete backup") {
		t.Errorf("restore of a part: %+v", got)
	}
	if got := tillReading(t, backup.out, "restore", "-", "--store", store); got.code != 0 || !strings.Contains(got.out, "holds 1 key") {
		t.Errorf("restore: %+v", got)
	}
	export := till(t, "audit", "export", "-", "--address", address)
	if export.code != 0 || !strings.HasPrefix(export.out, "{") {
		t.Errorf("audit export: %+v", export)
	}
	if got := tillReading(t, export.out, "audit", "verify", "-"); got.code != 0 {
		t.Errorf("audit verify: %+v", got)
	}
	if got := till(t, "audit", "export", dir, "--address", address); got.code != 1 || !strings.Contains(got.err, "exists already: name another file") {
		t.Errorf("audit export over what is there: %+v", got)
	}
	if got := tillReading(t, "nothing", "leak", "-", "--address", address); got.code != 0 {
		t.Errorf("leak: %+v", got)
	}
	w.Closed = true
	if got := till(t, "backup", "-", "--address", address); got.code != 1 {
		t.Errorf("backup of a closed store: %+v", got)
	}
	if names, err := filepath.Glob("-*"); err != nil || len(names) > 0 {
		t.Errorf("files were made: %q %v", names, err)
	}
}
