package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTheImageIsSmallAndUnprivileged reads the Dockerfile; `make package` runs
// what it builds.
func TestTheImageIsSmallAndUnprivileged(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../xcaddy.Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	froms := regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(text, -1)
	if len(froms) != 2 {
		t.Fatalf("%d stages, want 2", len(froms))
	}
	for _, from := range froms {
		if !regexp.MustCompile(`^[a-z]+:[0-9]+\.[0-9]`).MatchString(from[1]) {
			t.Errorf("image %s is not pinned", from[1])
		}
	}
	if !strings.Contains(text, "RUN ./scripts/package.sh ") {
		t.Error("the image is not built by the script that make package runs")
	}
	_, last, _ := strings.Cut(text, "\nFROM "+froms[1][1])
	for _, want := range []string{"\nUSER caddy\n", "\nVOLUME /data /config /var/lib/till\n", "\nHEALTHCHECK ", "XDG_DATA_HOME=/data", "-m 0700 /data /config /var/lib/till /run/caddy\n", "443/udp"} {
		if !strings.Contains(last, want) {
			t.Errorf("the image lacks %q", want)
		}
	}
	if strings.Contains(last, "COPY . ") || strings.LastIndex(last, "\nUSER ") < strings.LastIndex(last, "\nRUN ") {
		t.Error("the last stage holds the sources, or runs as root")
	}
}

// TestTheHealthCheckOfTheImage runs it as it stands there. It goes on while the store is in
// doubt or closed, which a restart does not mend, and ends with the server.
func TestTheHealthCheckOfTheImage(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../xcaddy.Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	check := regexp.MustCompile(`(?m)^HEALTHCHECK .* CMD caddy (.+)$`).FindSubmatch(b)
	if check == nil {
		t.Fatal("the image has no health check that caddy answers")
	}
	s := newServer(t, options{})
	healthy := func() bool {
		t.Helper()
		out, err := s.command(strings.Fields(string(check[1]))...).CombinedOutput()
		t.Logf("%s", out)
		return err == nil
	}
	if !healthy() {
		t.Error("a server in order is not healthy")
	}
	s.stop()
	if healthy() {
		t.Error("a server that does not run is healthy")
	}
	if err := os.Remove(filepath.Join(s.store(), "anchor")); err != nil {
		t.Fatal(err)
	}
	s.start()
	if out, err := s.command("till", "ready").CombinedOutput(); err == nil || !strings.Contains(string(out), "not ready: the store is in doubt") {
		t.Fatalf("without its anchor: %v, %s", err, out)
	}
	if !healthy() {
		t.Error("a server whose store is in doubt would be restarted for ever")
	}
}

// TestOneSetOfPathsAndNames: the pages, the unit and the image use the same paths and
// names. A path or a unit outside this set is a mistake, or has to be added here and
// everywhere.
func TestOneSetOfPathsAndNames(t *testing.T) {
	t.Parallel()
	known := []string{
		"/etc/caddy/Caddyfile", "/usr/bin/caddy", "/etc/systemd/system",
		"/etc/till", "/etc/till/openai.key", "/etc/till/openai.key.new", "/etc/till/seal.key", "/etc/till/seal-2.key", "/etc/till/hook.key", "/etc/till/prices.json",
		"/var/lib/till", "/var/lib/till.old", "/var/lib/caddy", "/var/lib/caddy/config",
		"/var/backups", "/var/backups/till-", "/var/backups/till-2026-11-24.bak", "/mnt/other-volume/till.anchor",
		"/etc/cron.daily/till", "/run/caddy/admin.sock", "/etc/till/database", "/etc/till/database-ca.pem",
		// In containers, of which docs/cluster.md has an example.
		"/run/secrets/database", "/run/secrets/seal_key", "/run/secrets/openai", "/run/secrets/password", "/var/lib/postgresql/data",
	}
	paths, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	sources, err := filepath.Glob("../*.go")
	if err != nil {
		t.Fatal(err)
	}
	commands, err := filepath.Glob("../cli/*.go")
	if err != nil {
		t.Fatal(err)
	}
	paths = append(append(append(paths, sources...), commands...), "../README.md", "../SECURITY.md", "../CONTRIBUTING.md", "../init/till.service", "../Caddyfile.example", "../xcaddy.Dockerfile")
	path := regexp.MustCompile(`(?:^|[^\w/.]|file\.|unix/)(/(?:etc|var|run|usr/bin|mnt)/[\w./-]*\w-?)`)
	unit := regexp.MustCompile(`(?:systemctl (?:start|stop|reload|restart|enable --now)|journalctl -u) (\S+)`)
	used := make(map[string]bool)
	for _, name := range paths {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range path.FindAllStringSubmatch(string(b), -1) {
			if used[m[1]] = true; !slices.Contains(known, m[1]) {
				t.Errorf("%s names %s, which is nowhere else", name, m[1])
			}
		}
		for _, m := range unit.FindAllStringSubmatch(string(b), -1) {
			if m[1] != "till" {
				t.Errorf("%s has the unit %s, and init/ has till", name, m[1])
			}
		}
	}
	for _, path := range known {
		if !used[path] {
			t.Errorf("nothing names %s any more", path)
		}
	}
}
