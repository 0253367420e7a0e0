package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestARestoredOldStoreGrantsNothing puts an older copy of the store's directory
// back, as a restored backup would, while the anchor lies elsewhere.
func TestARestoredOldStoreGrantsNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	anchor := filepath.Join(t.TempDir(), "till.anchor")
	s.replace("store badger ", "anchor "+anchor+"\n\t\tstore badger ")
	s.stop()
	if err := os.Remove(filepath.Join(s.store(), "anchor")); err != nil {
		t.Fatal("the default anchor is beside the store: ", err)
	}
	if err := os.RemoveAll(s.store()); err != nil {
		t.Fatal(err)
	}
	s.start()
	id, key := s.mint(object{"max_activations": 100})
	if status := s.chat(key); status != 200 {
		t.Fatal(status)
	}
	s.stop()
	old := t.TempDir()
	copyDir(t, s.store(), old)
	s.start()
	for range 49 {
		if status := s.chat(key); status != 200 {
			t.Fatal(status)
		}
	}
	s.stop()
	if err := os.RemoveAll(s.store()); err != nil {
		t.Fatal(err)
	}
	copyDir(t, old, s.store())
	s.start()
	status, answer := s.sends(key)
	if status != 503 || !strings.Contains(answer, "till_store_unavailable") {
		t.Errorf("a key of an older store: %d %s", status, answer)
	}
	if status, answer := s.api("GET", "/stats", nil); status != 503 || !strings.Contains(answer["error"].(object)["message"].(string), "caddy till repair --forfeit") {
		t.Errorf("stats: %d %v", status, answer)
	}
	doctor := s.command("till", "doctor")
	out, err := doctor.CombinedOutput()
	if doctor.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "ERROR store: the store is in doubt") || !strings.Contains(string(out), "caddy till repair --forfeit") {
		t.Errorf("doctor: %v: %s", err, out)
	}
	out, err = s.command("till", "repair", "--forfeit", "--yes", "--address", s.admin).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "1 budget spent") {
		t.Fatalf("%v: %s", err, out)
	}
	if status := s.chat(key); status != 402 {
		t.Errorf("after the repair: %d", status)
	}
	if status, answer := s.api("POST", "/keys/"+id+"/grant", object{"activations": 3}); status != 200 {
		t.Fatal(status, answer)
	}
	for i, want := range []int{200, 200, 200, 402} {
		if status := s.chat(key); status != want {
			t.Errorf("request %d after a grant of 3: %d", i, status)
		}
	}
	s.stop()
	s.start()
	if status := s.chat(key); status != 402 {
		t.Errorf("after a restart: %d", status)
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheAnchorIsNotMovedByAReload. A moved anchor would be missed only at the next
// start, when every key would be refused.
func TestTheAnchorIsNotMovedByAReload(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	_, key := s.mint(object{"max_activations": 100})
	anchor := filepath.Join(t.TempDir(), "till.anchor")
	s.replace("store badger ", "anchor "+anchor+"\n\t\tstore badger ")
	out, err := s.tryReload()
	if err == nil || !strings.Contains(out, "move "+filepath.Join(s.store(), "anchor")+" there") {
		t.Errorf("a reload with another anchor: %v\n%s", err, out)
	}
	s.oldEndpointIsGone() // one that failed replaces it, too
	if status := s.chat(key); status != 200 {
		t.Errorf("after a reload that was refused: %d", status)
	}
	s.stop()
	if err := os.Rename(filepath.Join(s.store(), "anchor"), anchor); err != nil {
		t.Fatal(err)
	}
	s.start()
	if status := s.chat(key); status != 200 {
		t.Errorf("with the anchor moved: %d", status)
	}
	s.reload()
}
