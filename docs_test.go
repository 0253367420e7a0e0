package till

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream"
)

// pages are the texts for users, by their paths.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, path := range append(paths, "README.md", "CONTRIBUTING.md", "SECURITY.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = string(text)
	}
	return all
}

func TestOptionsAndPresetsAreDocumented(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for _, option := range upstreamOptions {
		if !strings.Contains(all["docs/caddyfile.md"], "| `"+option+" ") {
			t.Errorf("docs/caddyfile.md lacks the option %s", option)
		}
	}
	for _, preset := range upstream.Names() {
		if !regexp.MustCompile(`\b` + preset + `\b`).MatchString(all["docs/caddyfile.md"]) {
			t.Errorf("docs/caddyfile.md lacks the preset %s", preset)
		}
	}
}

// heading is one of a page, and mark what GitHub drops from it for its anchor.
var (
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	mark    = regexp.MustCompile(`[^\pL\pN _-]`)
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

func anchors(text string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		all = append(all, strings.ReplaceAll(mark.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}

func TestLinksOfTheDocsLeadSomewhere(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for path, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			file, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(file, ":") {
				continue // another site
			}
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", path, m[1], err)
			}
			if anchor != "" && !slices.Contains(anchors(all[target]), anchor) {
				t.Errorf("%s: %s: there is no such heading", path, m[1])
			}
		}
	}
}

// TestTestsThatTheDocsNameExist: each part of a -run pattern has a test.
func TestTestsThatTheDocsNameExist(t *testing.T) {
	t.Parallel()
	var names []string
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "node_modules" {
			return cmp.Or(err, fs.SkipDir)
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	run := regexp.MustCompile("[ `]-run '?([\\w|\\\\]+)")
	for path, text := range pages(t) {
		for _, m := range run.FindAllStringSubmatch(text, -1) {
			for _, part := range strings.Split(strings.ReplaceAll(m[1], `\|`, "|"), "|") {
				if !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, part) }) {
					t.Errorf("%s: -run %s: no test has %q in its name", path, m[1], part)
				}
			}
		}
	}
}
