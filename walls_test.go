package till

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream"
)

// TestTheRootKnowsNoVendor: what sets vendors apart is in upstream. A sentence may name
// one as an example; names and words that a request is compared with may not.
func TestTheRootKnowsNoVendor(t *testing.T) {
	t.Parallel()
	vendor := regexp.MustCompile("(?i)goog|claude|gpt|azure|bedrock|vertex|llama|amz|x-ms|" + strings.Join(upstream.Names(), "|"))
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files := token.NewFileSet()
		var s scanner.Scanner
		s.Init(files.AddFile(path, -1, len(source)), source, nil, 0)
		for {
			at, kind, text := s.Scan()
			if kind == token.EOF {
				break
			}
			if kind == token.IDENT && vendor.MatchString(text) || kind == token.STRING && !strings.Contains(text, " ") && vendor.MatchString(text) {
				t.Errorf("%s: %s names a vendor: what it stands for belongs to upstream", files.Position(at), text)
			}
		}
	}
}

// walls lists which of our packages each package imports directly. A strict one imports
// neither Caddy nor zap nor net/http at any depth, and what is listed behind a minus is
// not imported directly. A package that is not listed may import anything but is
// imported by nobody: programs, tests and what they share.
var walls = map[string]string{
	"token":             "strict",
	"scope":             "strict",
	"limiter/store":     "strict",
	"limiter/record":    "strict token scope limiter/store",
	"limiter/postgres":  "strict limiter/store",
	"limiter/commit":    "strict limiter/record limiter/store",
	"limiter/access":    "strict limiter/commit limiter/record limiter/store token",
	"limiter/event":     "strict limiter/commit limiter/record limiter/store token",
	"limiter/audit":     "strict limiter/commit limiter/record limiter/store",
	"limiter/integrity": "strict limiter/commit limiter/record limiter/store",
	"limiter":           "strict limiter/access limiter/audit limiter/commit limiter/event limiter/integrity limiter/record limiter/store token",
	"upstream":          "token scope",
	"webhook":           "limiter limiter/event token",
	"echo":              "upstream",
	"admin/prose":       "strict",
	"admin/wire":        "limiter limiter/audit limiter/event limiter/record limiter/store token -github.com/spf13/cobra -net/http",
	"admin/clients":     "admin/wire upstream -github.com/spf13/cobra",
	"admin/console":     "limiter limiter/record token",
	"admin":             "admin/clients admin/prose admin/wire limiter limiter/audit limiter/commit limiter/event limiter/record limiter/store scope token upstream -github.com/spf13/cobra",
	"cli":               "admin/clients admin/prose admin/wire limiter limiter/audit limiter/postgres limiter/record limiter/store token upstream",
	"":                  "admin admin/console admin/wire cli echo limiter limiter/commit limiter/event limiter/postgres limiter/record limiter/store scope token upstream webhook",
}

// TestTheWallsBetweenPackagesStand checks who imports whom.
func TestTheWallsBetweenPackagesStand(t *testing.T) {
	t.Parallel()
	const module = "github.com/till-proxy/till"
	list := func(args ...string) []string {
		t.Helper()
		out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}
	for name, rules := range walls {
		allowed := strings.Fields(rules)
		unused := slices.DeleteFunc(slices.Clone(allowed), func(rule string) bool { return rule == "strict" || rule[0] == '-' })
		strict := slices.Contains(allowed, "strict")
		path := strings.TrimSuffix(module+"/"+name, "/")
		for _, dep := range list("-f", `{{join .Imports " "}}`, path) {
			ours, isOurs := strings.CutPrefix(dep, module+"/")
			switch {
			case isOurs && !slices.Contains(allowed, ours), slices.Contains(allowed, "-"+dep), strict && dep == "net/http":
				t.Errorf("%q imports %s", name, dep)
			case isOurs:
				unused = slices.DeleteFunc(unused, func(rule string) bool { return rule == ours })
				if _, known := walls[ours]; !known {
					t.Errorf("%q imports %s, which no wall is about", name, ours)
				}
			}
		}
		for _, rule := range unused {
			t.Errorf("%q no longer imports %s: take that from its wall", name, rule)
		}
		if !strict {
			continue
		}
		for _, dep := range list("-deps", path) {
			if strings.HasPrefix(dep, "github.com/caddyserver/") || strings.HasPrefix(dep, "go.uber.org/zap") {
				t.Errorf("%q imports %s", name, dep)
			}
		}
	}
}

// TestTheCommandLineLeavesKeysToTheServer lists everything that commands may use of the
// limiter: a command that needs more shows that the API lacks a call.
func TestTheCommandLineLeavesKeysToTheServer(t *testing.T) {
	t.Parallel()
	allowed := strings.Fields(`
		CheckBackup Restore Offline Restored OpenBadger Files Operator ErrLocked
		Migration Migrate Open Options Store Bystander Activations
		Verify Hash ParseHash
		ParseCount ParseUSD
		Status Statuses Active Suspended Exhausted Expired Revoked Charges ChargeSuccess Renewals Either
		StaleReasons LeakState LeakRevoked LeakGraceEnded LeakDead LeakUnknown LeakFailed`)
	paths, err := filepath.Glob("cli/*.go")
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours := make(map[string]bool) // the names of the limiter's packages in this file
		for _, spec := range file.Imports {
			if at, _ := strconv.Unquote(spec.Path.Value); strings.HasPrefix(at+"/", "github.com/till-proxy/till/limiter/") {
				if spec.Name != nil {
					t.Errorf("%s gives %s another name", path, at)
				}
				ours[filepath.Base(at)] = true
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if of, ok := s.X.(*ast.Ident); ok && of.Obj == nil && ours[of.Name] {
				if used[s.Sel.Name] = true; !slices.Contains(allowed, s.Sel.Name) {
					t.Errorf("%s: a command uses %s.%s", files.Position(s.Pos()), of.Name, s.Sel.Name)
				}
			}
			return true
		})
	}
	for _, name := range allowed {
		if !used[name] {
			t.Errorf("no command uses %s any more: take it from the list", name)
		}
	}
}
