package till

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
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
		_, row, ok := strings.Cut(all["docs/caddyfile.md"], "\n| `"+option+" ")
		if row, _, _ = strings.Cut(row, "\n"); !ok || !strings.Contains(row, "Default: ") {
			t.Errorf("docs/caddyfile.md lacks the option %s, or what holds without it: %s", option, row)
		}
	}
	for _, preset := range upstream.Names() {
		if !regexp.MustCompile(`\b` + preset + `\b`).MatchString(all["docs/caddyfile.md"]) {
			t.Errorf("docs/caddyfile.md lacks the preset %s", preset)
		}
	}
}

// TestFieldsAndFiltersOfKeysAreDocumented: each is in a table of the page on keys.
func TestFieldsAndFiltersOfKeysAreDocumented(t *testing.T) {
	t.Parallel()
	page := pages(t)["docs/keys-and-limits.md"]
	for _, f := range record.KeyFields {
		name := f.Name
		if name == "custody" {
			name = "upstream_key" // the field that decides it
		}
		if row := regexp.MustCompile("(?m)^\\| [^|]*`" + name + "`[^|]* \\|"); f.Choice != record.Noted && !row.MatchString(page) {
			t.Errorf("docs/keys-and-limits.md lacks the field %s", name)
		}
	}
	_, list, _ := strings.Cut(page, "\n| `GET /till/keys` | ")
	list, _, _ = strings.Cut(list, "\n")
	names := regexp.MustCompile(`[\w.]+`).FindAllString(list, -1)
	for _, f := range limiter.FilterFields {
		if !slices.Contains(names, strings.Replace(f.Name, "label.NAME", "label.x", 1)) {
			t.Errorf("docs/keys-and-limits.md lacks the filter %s of GET /till/keys", f.Name)
		}
	}
}

// namesIn returns the names that a pattern finds in a source file.
func namesIn(t *testing.T, path, pattern string) (names []string) {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(source), -1) {
		names = append(names, m[1])
	}
	return names
}

// TestEveryRefusalCodeHasAStatus: the limiter defines the codes, and upstream their
// statuses, and neither imports the other.
func TestEveryRefusalCodeHasAStatus(t *testing.T) {
	t.Parallel()
	codes := namesIn(t, "limiter/record/refusal.go", `Code = "(till_\w+)"`)
	rows := namesIn(t, "upstream/dialect.go", `"(till_\w+)": +http\.Status`)
	if len(codes) == 0 {
		t.Error("no code was found")
	}
	for _, code := range codes {
		if !slices.Contains(rows, code) {
			t.Errorf("%s has no status, so clients get 500: give it a row in upstream/dialect.go", code)
		}
	}
	for _, code := range rows {
		if !slices.Contains(codes, code) {
			t.Errorf("%s has a status in upstream/dialect.go, and is no code in limiter/record/refusal.go", code)
		}
	}
}

// TestTheTableOfStatusesIsTrue: each code is in it once, with the statuses that clients
// get.
func TestTheTableOfStatusesIsTrue(t *testing.T) {
	t.Parallel()
	page := pages(t)["docs/keys-and-limits.md"]
	row := regexp.MustCompile("(?m)^\\| (\\d{3}[^|]*) \\|((?: `till_\\w+`)+) \\|$")
	code, number := regexp.MustCompile(`till_\w+`), regexp.MustCompile(`\d{3}`)
	documented := make(map[string]string)
	for _, m := range row.FindAllStringSubmatch(page, -1) {
		for _, c := range code.FindAllString(m[2], -1) {
			if documented[c] != "" {
				t.Errorf("%s stands in two rows", c)
			}
			documented[c] = m[1]
		}
	}
	codes := namesIn(t, "limiter/record/refusal.go", `Code = "(till_\w+)"`)
	if len(codes) != len(documented) || len(documented) == 0 {
		t.Errorf("%d codes are in the table, want %d", len(documented), len(codes))
	}
	for _, code := range codes {
		first, rest, _ := strings.Cut(documented[code], "at Messages and Responses")
		for _, path := range []string{"/v1/chat/completions", "/v1/embeddings", "/till/self", "/v1/messages", "/v1/responses"} {
			want := number.FindAllString(first, -1)
			if rest != "" && (path == "/v1/messages" || path == "/v1/responses") {
				want = number.FindAllString(rest, -1)
			}
			if got := strconv.Itoa(upstream.Status(path, code)); !slices.Contains(want, got) {
				t.Errorf("%s at %s is %s, and the table says %q", code, path, got, documented[code])
			}
		}
	}
}

// TestTheReadmeRepeatsWhatTheBenchmarksPrinted about how much of a $5 key agents can
// spend.
func TestTheReadmeRepeatsWhatTheBenchmarksPrinted(t *testing.T) {
	t.Parallel()
	all := pages(t)
	least, most := 100.0, 0.0
	for _, m := range regexp.MustCompile(`(?m)^(?:Claude Code|Codex) +\d+ \$5\.00 +\d+ +\d+ +\d+ +([\d.]+) %`).FindAllStringSubmatch(all["docs/benchmarks.md"], -1) {
		spent, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		least, most = min(least, spent), max(most, spent)
	}
	want := fmt.Sprintf("spend %.0f to %.0f %% of a $5 key", least, most)
	if !strings.Contains(strings.Join(strings.Fields(all["README.md"]), " "), want) {
		t.Errorf("README.md does not say: %s", want)
	}
}

// TestThePictureOfThePackagesIsTrue: each arrow is an import that a wall allows, each
// import follows along arrows, and each package has a row below.
func TestThePictureOfThePackagesIsTrue(t *testing.T) {
	t.Parallel()
	page := pages(t)["docs/architecture.md"]
	_, picture, _ := strings.Cut(page, "```mermaid\n")
	picture, _, _ = strings.Cut(picture, "```")
	names := map[string]string{"till": ""} // by what stands for them in the picture
	for _, m := range regexp.MustCompile(`(\w+)\[([\w/]+)\]`).FindAllStringSubmatch(picture, -1) {
		names[m[1]] = m[2]
	}
	named := func(node string) string {
		id, _, _ := strings.Cut(node, "[")
		if name, ok := names[id]; ok {
			return name
		}
		return id
	}
	arrows := make(map[string][]string)
	for _, m := range regexp.MustCompile(`(?m)^ +(\S+) --> (.+)$`).FindAllStringSubmatch(picture, -1) {
		for node := range strings.SplitSeq(m[2], " & ") {
			arrows[named(m[1])] = append(arrows[named(m[1])], named(node))
		}
	}
	var follow func(from string, found map[string]bool) map[string]bool
	follow = func(from string, found map[string]bool) map[string]bool {
		for _, to := range arrows[from] {
			found[to] = true
			follow(to, found)
		}
		return found
	}
	for from, drawn := range arrows {
		for _, to := range drawn {
			if !slices.Contains(strings.Fields(walls[from]), to) {
				t.Errorf("the picture has an arrow from %q to %q, which no wall allows", from, to)
			}
		}
	}
	for name, rules := range walls {
		found := follow(name, make(map[string]bool))
		for _, rule := range strings.Fields(rules) {
			if _, ours := walls[rule]; ours && !found[rule] {
				t.Errorf("the picture lacks that %q imports %s", name, rule)
			}
		}
		if !strings.Contains(page, "\n| `"+cmp.Or(name, ".")+"` | ") {
			t.Errorf("the table of packages lacks %q", name)
		}
	}
}

// heading matches a heading of a page, and mark what GitHub drops from it for its
// anchor.
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

// TestTestsThatTheDocsNameExist: each part of a -run pattern matches a test.
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
		for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(text, -1) {
			if !slices.Contains(names, m[1]) {
				t.Errorf("%s: there is no test %s", path, m[1])
			}
		}
	}
}

// TestFilesThatDevelopersAreSentToExist, except for those whose NAME they choose.
func TestFilesThatDevelopersAreSentToExist(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for _, page := range []string{"CONTRIBUTING.md", "docs/architecture.md"} {
		for _, m := range regexp.MustCompile("`([\\w/]+\\.(?:go|js|mjs|json|txt|md))`").FindAllStringSubmatch(all[page], -1) {
			if _, err := os.Stat(m[1]); err != nil && !strings.Contains(m[1], "NAME") {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}
