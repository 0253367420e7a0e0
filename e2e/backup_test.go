package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestABackupOfARunningServerIsRestored follows the runbook in docs, word for
// word.
func TestABackupOfARunningServerIsRestored(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_activations": 10})
	for range 4 {
		if status := s.chat(key); status != 200 {
			t.Fatal(status)
		}
	}
	file := filepath.Join(t.TempDir(), "till.bak")
	run := func(args ...string) string {
		t.Helper()
		out, err := s.command(append([]string{"till"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if out := run("backup", file, "--address", s.admin); !strings.Contains(out, "holds 1 key") {
		t.Error(out)
	}
	for range 2 {
		if status := s.chat(key); status != 200 {
			t.Fatal(status)
		}
	}
	s.stop()
	if err := os.Rename(s.store(), s.store()+".old"); err != nil {
		t.Fatal(err)
	}
	if out := run("restore", file, "--store", s.store()); !strings.Contains(out, "1 that were alive are suspended") {
		t.Error(out)
	}
	s.start()
	s.refuses("a restored key", key, 403, "till_key_suspended")
	run("resume", id, "--address", s.admin)
	n := 0
	for s.chat(key) == 200 {
		n++
	}
	if n > 6 || n < 1 { // what was reserved at the moment of the backup counts as spent
		t.Errorf("%d more, of the 6 that were left in the backup", n)
	}
	s.stop()
	s.start()
	if status := s.chat(key); status != 402 {
		t.Errorf("after a restart: %d", status)
	}
}
