package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// reads is a reader of docs/reliability.md, on whose server a key is to be named
// KEY.
func (s *server) reads(id string) *reader {
	s.t.Helper()
	bin := filepath.Join(s.dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink(caddyBinary, filepath.Join(bin, "caddy")); err != nil && !os.IsExist(err) {
		s.t.Fatal(err)
	}
	return &reader{server: s, env: map[string]string{}, becomes: map[string]string{
		"/var/lib/till": s.store(), "/var/backups/till.bak": filepath.Join(s.dir, "till.bak"), " KEY": " " + id,
	}}
}

func runbook(t *testing.T, title string) string {
	t.Helper()
	return document(t, "reliability.md", "## Runbook: "+title+"\n", "\n## ")
}

func TestRunbooksOfBackupAndRestore(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_activations": 10})
	gone, goneKey := s.mint(object{"max_activations": 10})
	if status := s.chat(key); status != http.StatusOK {
		t.Fatal(status)
	}
	r := s.reads(id)
	r.run(runbook(t, "take a backup"))
	if status, answer := s.api("POST", "/keys/"+gone+"/revoke", object{}); status != http.StatusOK {
		t.Fatal(status, answer) // which the backup does not know
	}
	r.run(runbook(t, "restore a backup"))
	if !strings.Contains(r.printed, "store.restore") {
		t.Errorf("the audit log says\n%s", r.printed)
	}
	if status := s.chat(key); status != http.StatusOK {
		t.Errorf("a key that was resumed: %d", status)
	}
	s.refuses("a key that nobody resumed", goneKey, http.StatusForbidden, "till_key_suspended")
}

// TestARestoreKeepsTheSealKeyAndALockdown: both are in the directory that the
// runbook moves away, as they are where nothing else is configured.
func TestARestoreKeepsTheSealKeyAndALockdown(t *testing.T) {
	t.Parallel()
	store := filepath.Join(t.TempDir(), "till")
	s := newServer(t, options{store: store, more: "seal_key_file " + filepath.Join(store, "seal.key")})
	id, key := s.mint(object{"upstream_key": realKey, "max_activations": 10})
	if status := s.chat(key); status != http.StatusOK {
		t.Fatal(status)
	}
	r := s.reads(id)
	r.line("caddy till backup /var/backups/till.bak --with-seal --address " + s.admin)
	r.line("caddy till lockdown --address " + s.admin)
	r.run(runbook(t, "restore a backup"))
	s.refuses("a key under a lockdown", key, http.StatusForbidden, "till_locked_down")
	r.line("caddy till lockdown --lift --address " + s.admin)
	if status := s.chat(key); status != http.StatusOK {
		t.Errorf("a sealed key that was resumed: %d", status)
	}
}

func TestRunbooksOfAStoreInDoubt(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_activations": 10})
	_, timed := s.mint(object{"expires_in": "1h"})
	if status := s.chat(key); status != http.StatusOK {
		t.Fatal(status)
	}
	s.stop()
	if err := os.Remove(filepath.Join(s.store(), "anchor")); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.refuses("a key of a store in doubt", key, http.StatusServiceUnavailable, "till_store_unavailable")
	r := s.reads(id)
	r.run(runbook(t, `"the store may be older than what it had acknowledged"`))
	if !strings.Contains(r.printed, "suspended") {
		t.Errorf("what was suspended is listed as\n%s", r.printed)
	}
	if n := s.load(key, 200, 4)[http.StatusOK]; n != 100 {
		t.Errorf("%d after a grant of 100", n)
	}
	s.refuses("a key that only time limits", timed, http.StatusForbidden, "till_key_suspended")
}

func TestRunbooksOfClockDiskAndLockdown(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_activations": 10})
	r := s.reads(id)
	r.run(runbook(t, `"the clock is behind what the store has seen"`))
	r.run(runbook(t, `"nothing is admitted that needs the disk"`))
	r.run(runbook(t, "stop everything"))
	if status := s.chat(key); status != http.StatusOK {
		t.Errorf("afterwards: %d", status)
	}
}
