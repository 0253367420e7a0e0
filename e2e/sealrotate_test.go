package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// caddyTill runs a command against the server and returns what it printed.
func (s *server) caddyTill(args ...string) string {
	s.t.Helper()
	out, err := s.command(append([]string{"till"}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("caddy till %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// The runbook "Rotate the seal key".
func TestTheSealKeyRotatesWhileKeysGoOn(t *testing.T) {
	t.Parallel()
	s, _ := sealedServer(t, "")
	works := func(what, key string) {
		t.Helper()
		if status, code := s.sends(key); status != http.StatusOK {
			t.Errorf("%s: %d %s", what, status, code)
		}
	}
	mint := func() (id, key string) {
		return s.mint(object{"upstream": "x", "upstream_key": sealedReal, "max_activations": 50})
	}
	id, first := mint()
	works("before", first)
	before := s.caddyTill("seal")
	out := s.caddyTill("seal", "rotate")
	if !regexp.MustCompile(`(?m)^[0-9a-f]{16}  seals  0 .*\n[0-9a-f]{16}  opens  1 `).MatchString(out) {
		t.Errorf("seal rotate printed\n%s", out)
	}
	_, second := mint()
	for _, again := range []func(){func() {}, s.reload, func() { s.stop(); s.start() }, func() { s.kill9(); s.start() }} {
		again()
		works("sealed before the rotation", first)
		works("sealed after it", second)
	}

	// The old seal key goes once no key needs it.
	third := s.rotate(id, object{"upstream_key": sealedReal})
	old := regexp.MustCompile(`[0-9a-f]{16}`).FindString(before)
	if out := s.caddyTill("seal"); !strings.Contains(out, "Not needed any more: "+old) {
		t.Errorf("seal printed\n%s", out)
	}
	file := filepath.Join(s.dir, "caddy", "till", "seal.key")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	at := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "# "+old) })
	if at < 0 {
		t.Fatalf("%d lines, and none is about %s", len(lines), old)
	}
	if err := os.WriteFile(file, []byte(strings.Join(slices.Delete(lines, at, at+2), "")), 0o600); err != nil {
		t.Fatal(err)
	}
	s.eventually("the old seal key is gone, without a reload", func() bool { return !strings.Contains(s.caddyTill("seal"), old) })
	works("rotated", third)
	works("sealed after the rotation", second)
	// A file that lost a seal key which is needed is neither taken nor built upon.
	if err := os.WriteFile(file, []byte(sealKeyB), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := s.command("till", "seal", "rotate").CombinedOutput(); err == nil || !strings.Contains(string(out), "need it") {
		t.Errorf("seal rotate: %v\n%s", err, out)
	}
	works("rotated, though its seal key left the file", third)
	for _, line := range lines {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && strings.Contains(s.output()+out, line) {
			t.Error("a seal key was shown")
		}
	}
}
