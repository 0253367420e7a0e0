package e2e

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// shell runs a line of a runbook with the built Caddy as caddy.
func (s *server) shell(line string) string {
	s.t.Helper()
	cmd := s.command()
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", "caddy() { '" + caddyBinary + "' \"$@\"; }\n" + line}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("%s: %v\n%s", line, err, out.String())
	}
	return out.String()
}

func (s *server) inDir(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// The runbooks "A key leaked" and "The real key leaked" of docs/runbooks.md,
// line by line.
func TestTheRunbooksForLeaksWorkAsWritten(t *testing.T) {
	t.Parallel()
	runbook, err := os.ReadFile("../docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	s, to := sealedServer(t, "")
	written := func(line string) string {
		t.Helper()
		if !strings.Contains(string(runbook), line) {
			t.Errorf("the runbook does not say: %s", line)
		}
		return line
	}
	id, key := s.mint(object{"name": "nightly", "max_activations": 50})
	s.inDir("ticket.txt", strings.Repeat("line\n", 13)+"Authorization: Bearer "+key+"\n")
	out := s.shell(written("caddy till leak - < ticket.txt"))
	want := "-:14  " + key[:12] + "...  " + id + " (nightly)  revoked\nFound 1 string in 1 file; 1 revoked, 0 unknown.\n"
	if out != want {
		t.Errorf("printed\n%swant\n%s", out, want)
	}
	s.refuses("the leaked key", key, http.StatusForbidden, "till_key_revoked")
	if out := s.shell(written("caddy till show nightly")); !strings.Contains(out, "revoked") {
		t.Error(out)
	}
	written("caddy till audit --key key_01M8…")
	if out := s.shell("caddy till audit --key " + id); !strings.Contains(out, "key.leak") {
		t.Error(out)
	}
	_, rotated := s.mint(object{"name": "hourly", "max_activations": 50})
	written("caddy till rotate nightly")
	s.shell("caddy till rotate hourly")
	s.refuses("the rotated key", rotated, http.StatusForbidden, "till_key_revoked")

	// The real key.
	const next = "sk-real-next-1234567890abcdef"
	to.Accept(next)
	sealedID, sealed := s.mint(object{"upstream": "x", "upstream_key": sealedReal, "max_activations": 50})
	s.inDir("real.key", sealedReal+"\n")
	s.inDir("new.key", next+"\n")
	dependents := written("caddy till list --upstream-key - < real.key")
	if out := s.shell(dependents); !strings.Contains(out, sealedID) || strings.Contains(out, id) {
		t.Error(out)
	}
	out = s.shell(strings.ReplaceAll(written("caddy till rotate KEY --upstream-key - < new.key"), "KEY", sealedID))
	to.Retire(sealedReal)
	s.refuses("the string with the leaked real key", sealed, http.StatusForbidden, "till_key_revoked")
	var fresh string
	for _, word := range strings.Fields(out) {
		if strings.HasPrefix(word, "till_sk_") {
			fresh = word
			break
		}
	}
	if status, code := s.sends(fresh); status != http.StatusOK {
		t.Errorf("the new string: %d %s", status, code)
	}
	if out := s.shell(dependents); strings.Contains(out, sealedID) {
		t.Errorf("after the rotation:\n%s", out)
	}
}

func TestStaleAfterIsWhatTheCaddyfileSays(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{more: "stale_after 1s revoke"})
	id, _ := s.mint(object{"max_activations": 500})
	var entry object
	s.eventually("the key is stale", func() bool {
		status, answer := s.api("GET", "/stale", nil)
		if keys, ok := answer["keys"].([]any); ok && status == http.StatusOK && len(keys) == 1 {
			entry = keys[0].(object)
		}
		return entry != nil
	})
	if entry["reason"] != "never_used" || entry["key"].(object)["id"] != id || entry["fix"] != "caddy till revoke "+id+" --reason unused" {
		t.Errorf("%v", entry)
	}
	s.replace("stale_after 1s revoke", "stale_after 30d")
	s.reload()
	if _, answer := s.api("GET", "/stale", nil); len(answer["keys"].([]any)) != 0 {
		t.Errorf("after the reload: %v", answer)
	}
}
