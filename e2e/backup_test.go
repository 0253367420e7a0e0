package e2e

import (
	"net/http"
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
	s.used(id) // nothing runs: what does counts as spent in a backup
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
	if n := s.load(key, 20, 1)[http.StatusOK]; n != 6 {
		t.Errorf("%d more, of the 6 that were left in the backup", n)
	}
	s.stop()
	s.start()
	if status := s.chat(key); status != 402 {
		t.Errorf("after a restart: %d", status)
	}
}

// TestSealedKeysRestoredWithoutSaltsAreShownAsSuch, and can be repaired: a backup has
// no salts unless they are requested.
func TestSealedKeysRestoredWithoutSaltsAreShownAsSuch(t *testing.T) {
	t.Parallel()
	s, _ := sealedServer(t, "seal_key "+sealKeyA)
	id, key := s.mint(object{"upstream": "x", "upstream_key": sealedReal, "max_activations": 10})
	if status, _ := s.sends(key); status != http.StatusOK || s.show(id)["sealed_without_salt"] != nil {
		t.Fatalf("%d, %v", status, s.show(id))
	}
	file := filepath.Join(t.TempDir(), "till.bak")
	s.caddyTill("backup", file, "--address", s.admin)
	s.stop()
	if err := os.Rename(s.store(), s.store()+".old"); err != nil {
		t.Fatal(err)
	}
	mend := "caddy till rotate " + id + " --upstream-key - < REAL-KEY"
	if out := s.caddyTill("restore", file, "--store", s.store()); !strings.Contains(out, "1 sealed key without a salt") || !strings.Contains(out, "caddy till rotate KEY --upstream-key -") {
		t.Error(out)
	}
	s.start()
	says := func(what string, shown bool) {
		t.Helper()
		show := strings.Join(strings.Fields(s.caddyTill("show", id, "--address", s.admin)), " ")
		doctor, _ := s.command("till", "doctor", "--address", s.admin).CombinedOutput() // it finds other things as well
		_, page := s.api("GET", "/keys", nil)
		for where, told := range map[string]bool{
			"show": strings.Contains(show, mend), "list": strings.Contains(s.caddyTill("list", "--address", s.admin), "1 sealed key without a salt"),
			"doctor": strings.Contains(strings.Join(strings.Fields(string(doctor)), " "), mend), "the API": s.show(id)["sealed_without_salt"] == true,
			"its list": page["keys"].([]any)[0].(object)["sealed_without_salt"] == true,
		} {
			if told != shown {
				t.Errorf("%s, %s: told %t\n%s\n%s", what, where, told, show, doctor)
			}
		}
	}
	says("suspended", true)
	if out := s.caddyTill("resume", id, "--address", s.admin); !strings.Contains(out, mend) {
		t.Error(out)
	}
	says("resumed", true)
	s.refuses("its string", key, 401, "till_key_invalid")
	says("in memory", true)
	status, answer := s.api("POST", "/keys/"+id+"/rotate", object{"upstream_key": sealedReal})
	if status != http.StatusOK {
		t.Fatal(status, answer)
	}
	if status, code := s.sends(answer["scoped_key"].(string)); status != http.StatusOK {
		t.Errorf("rotated: %d %s", status, code)
	}
	says("rotated", false)
}
