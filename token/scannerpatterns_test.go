package token

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// gitleaks is run when this is set, as `make thorough` does: building it takes a
// minute.
const (
	gitleaksVariable = "TILL_GITLEAKS"
	gitleaksVersion  = "github.com/zricethezav/gitleaks/v8@v8.30.1"
)

// patterns are the regular expressions in a scanner's configuration.
func patterns(t *testing.T, file, line string) []*regexp.Regexp {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "docs", file))
	if err != nil {
		t.Fatal(err)
	}
	var all []*regexp.Regexp
	for _, m := range regexp.MustCompile(line).FindAllStringSubmatch(string(b), -1) {
		all = append(all, regexp.MustCompile(m[1]))
	}
	return all
}

func TestTheScannersPatternsMatchWhatIsMinted(t *testing.T) {
	t.Parallel()
	const box = ".AQIDBAUGBwgJCgsMDQ4PEBES-_A"
	for _, scanner := range []struct{ file, line string }{
		{"scanners/gitleaks.toml", `(?m)^regex = '''(.+)'''$`},
		{"scanners/trufflehog.yaml", `(?m)^      (?:key|token): '\((.+)\)'$`},
		{"leaks.md", "(?m)^\\| (?:scoped key|admin token) \\| `([^`]+)`"},
	} {
		all := patterns(t, scanner.file, scanner.line)
		if len(all) != 2 {
			t.Errorf("%s: %d patterns", scanner.file, len(all))
			continue
		}
		for range 20 {
			key, admin := minted(t, MintKey), minted(t, MintAdmin)
			text := "x=\"" + key + "\", sk-" + key + box + " " + admin + "."
			if got := all[0].FindAllString(text, -1); len(got) != 2 || got[0] != key || got[1] != key+box {
				t.Errorf("%s: found %d keys", scanner.file, len(got))
			}
			if got := all[1].FindAllString(text, -1); len(got) != 1 || got[0] != admin {
				t.Errorf("%s: found %d tokens", scanner.file, len(got))
			}
		}
	}
}

func TestTheExampleInTheDocsHasARightChecksum(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join("..", "docs", "leaks.md"))
	if err != nil {
		t.Fatal(err)
	}
	if got := found(string(b)); len(got) != 1 {
		t.Errorf("%d strings with a right checksum", len(got))
	}
}

func TestGitleaksFindsKeysByTheRulesInTheDocs(t *testing.T) {
	t.Parallel()
	if os.Getenv(gitleaksVariable) == "" {
		t.Skip("not asked for: " + gitleaksVariable + "=1 builds gitleaks and runs it")
	}
	if out, err := exec.Command("go", "run", gitleaksVersion, "version").CombinedOutput(); err != nil {
		t.Skipf("gitleaks CANNOT BE INSTALLED here, so its rules were tried as regular expressions alone: %v\n%s", err, out)
	}
	dir := t.TempDir()
	key, admin := minted(t, MintKey), minted(t, MintAdmin)
	for name, text := range map[string]string{
		"a.py":  "client = OpenAI(api_key=\"" + key + "\")\n",
		"b.env": "\nTILL_TOKEN=" + admin + "\n",
		"c.txt": "till_sk_short and nothing else\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rules, err := filepath.Abs("../docs/scanners/gitleaks.toml")
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.json")
	out, err := exec.Command("go", "run", gitleaksVersion, "dir", dir, "--config", rules, "--report-path", report, "--exit-code", "0").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var findings []struct {
		RuleID, File, Secret string
		StartLine            int
	}
	if err := json.Unmarshal(b, &findings); err != nil {
		t.Fatal(err)
	}
	byRule := map[string]string{}
	for _, f := range findings {
		if strings.HasPrefix(f.RuleID, "till-") {
			byRule[f.RuleID] += filepath.Base(f.File) + " " + f.Secret
		}
	}
	if len(byRule) != 2 || byRule["till-scoped-key"] != "a.py "+key || byRule["till-admin-token"] != "b.env "+admin {
		t.Errorf("gitleaks found %v", byRule)
	}
}
