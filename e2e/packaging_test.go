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
	for _, want := range []string{"\nUSER 10001:10001\n", "\nVOLUME /data /config /var/lib/till\n", "\nHEALTHCHECK ", "XDG_DATA_HOME=/data", "-m 0700 /data /config /var/lib/till /run/caddy\n", "443/udp"} {
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
	s.eventually("it is not ready without its anchor", func() bool { // while it looks again, it says so
		out, err := s.command("till", "ready").CombinedOutput()
		if err == nil {
			t.Fatalf("without its anchor: %s", out)
		}
		return strings.Contains(string(out), "not ready: the store is in doubt")
	})
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
		"/var/lib/till", "/var/lib/till.old", "/var/lib/till/store", "/var/lib/caddy", "/var/lib/caddy/caddy/till", "/var/lib/caddy/config",
		"/var/backups", "/var/backups/till-", "/var/backups/till-2026-11-24.bak", "/mnt/other-volume", "/mnt/other-volume/till.anchor",
		"/etc/cron.daily/till", "/run/caddy", "/run/caddy/admin.sock", "/etc/till/database", "/etc/till/database-ca.pem",
		// In containers, of which docs/cluster.md has an example.
		"/run/secrets/database", "/run/secrets/seal_key", "/run/secrets/openai", "/run/secrets/password", "/var/lib/postgresql/data",
	}
	paths := readByUsers(t)
	path := regexp.MustCompile(`(?:^|[^\w/.]|file\.|unix/)(/(?:etc|var|run|usr/bin|mnt)/[\w./-]*\w-?)`)
	unit := regexp.MustCompile(`(?:systemctl (?:start|stop|reload|restart|enable --now)|journalctl -u) (\S+)`)
	used := make(map[string]bool)
	for _, name := range paths {
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

// readByUsers are the files whose text users get to read.
func readByUsers(t *testing.T) (paths []string) {
	t.Helper()
	for _, pattern := range []string{"../docs/*.md", "../*.go", "../cli/*.go"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	paths = slices.DeleteFunc(paths, func(path string) bool { return strings.HasSuffix(path, "_test.go") })
	return append(paths, "../README.md", "../SECURITY.md", "../CONTRIBUTING.md", "../init/till.service", "../Caddyfile.example", "../xcaddy.Dockerfile")
}

// TestTheUnitLetsTheServerWriteWhereUsersAreTold: what a page, a fix of doctor or a comment
// has the server write is in a directory that the unit makes, or the line that the unit
// takes for it stands beside it.
func TestTheUnitLetsTheServerWriteWhereUsersAreTold(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../init/till.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := string(b)
	if !strings.Contains(unit, "\nProtectSystem=strict\n") {
		t.Fatal("the unit lets the server write anywhere")
	}
	var own []string
	for _, m := range regexp.MustCompile(`(?m)^(State|Runtime)Directory=(.+)$`).FindAllStringSubmatch(unit, -1) {
		for name := range strings.FieldsSeq(m[2]) {
			own = append(own, map[string]string{"State": "/var/lib/", "Runtime": "/run/"}[m[1]]+name)
		}
	}
	written := regexp.MustCompile(`(?:anchor|store badger|seal_key_file|badger:|--store|--anchor|admin unix/) ?(/[\w./-]*\w)`)
	line := regexp.MustCompile(`\bReadWritePaths=(/[\w./-]*\w)`)
	elsewhere := 0
	for _, name := range readByUsers(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var named []string
		for _, m := range line.FindAllStringSubmatch(string(text), -1) {
			if named = append(named, m[1]); !strings.Contains(unit, m[0]+"\n") {
				t.Errorf("%s has the line %s, and the unit has not", name, m[0])
			}
		}
		for _, m := range written.FindAllStringSubmatch(string(text), -1) {
			within := func(dir string) bool { return m[1] == dir || strings.HasPrefix(m[1], dir+"/") }
			switch {
			case slices.ContainsFunc(own, within):
			case slices.ContainsFunc(named, within):
				elsewhere++
			default:
				t.Errorf("%s has the server write %s, where the unit does not let it, and does not say: ReadWritePaths=%s", name, m[1], filepath.Dir(m[1]))
			}
		}
	}
	if len(own) != 3 || elsewhere < 3 {
		t.Errorf("the unit makes %v, and %d places elsewhere were found", own, elsewhere)
	}
}
