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

// TestTheWallsBetweenPackagesStand checks who may import whom.
func TestTheWallsBetweenPackagesStand(t *testing.T) {
	t.Parallel()
	const module = "github.com/till-proxy/till/"
	for _, test := range []struct {
		name   string
		ours   []string // packages of ours that it may import
		strict bool     // neither Caddy nor net/http nor zap
		not    []string // what it must not import either
	}{
		{"token", nil, true, nil},
		{"scope", nil, true, nil},
		{"limiter", []string{"token", "scope"}, true, nil},
		{"upstream", []string{"token", "scope"}, false, nil},
		{"webhook", []string{"token", "scope", "limiter"}, false, nil},
		{"echo", []string{"token", "scope", "upstream"}, false, nil},
		{"admin/console", []string{"token", "scope", "limiter"}, false, nil},
		{"admin/wire", []string{"token", "scope", "limiter"}, false, []string{"net/http", "github.com/spf13/cobra"}},
		{"admin/prose", nil, true, nil},
		{"admin/clients", []string{"token", "scope", "limiter", "upstream", "admin/wire"}, false, []string{"github.com/spf13/cobra"}},
		{"admin", []string{"token", "scope", "limiter", "upstream", "admin/wire", "admin/clients", "admin/prose"}, false, []string{"github.com/spf13/cobra"}},
		{"cli", []string{"token", "scope", "limiter", "upstream", "admin/wire", "admin/clients", "admin/prose"}, false, nil},
	} {
		out, err := exec.Command("go", "list", "-deps", "./"+test.name).Output()
		if err != nil {
			t.Fatal(err)
		}
		for dep := range strings.FieldsSeq(string(out)) {
			ours, isOurs := strings.CutPrefix(dep, module)
			switch {
			case dep == strings.TrimSuffix(module, "/"):
				t.Errorf("%s imports the root", test.name)
			case isOurs && ours != test.name && !slices.Contains(test.ours, ours):
				t.Errorf("%s imports %s", test.name, ours)
			case dep != "net/http" && slices.Contains(test.not, dep), // which comes with Caddy
				test.strict && (strings.HasPrefix(dep, "github.com/caddyserver/") || strings.HasPrefix(dep, "go.uber.org/zap")):
				t.Errorf("%s imports %s", test.name, dep)
			}
		}
		direct, err := exec.Command("go", "list", "-f", `{{join .Imports " "}}`, "./"+test.name).Output()
		if err != nil {
			t.Fatal(err)
		}
		for dep := range strings.FieldsSeq(string(direct)) {
			if dep == "net/http" && (test.strict || slices.Contains(test.not, dep)) {
				t.Errorf("%s imports %s", test.name, dep)
			}
		}
	}
}

// TestTheCommandLineLeavesKeysToTheServer lists all that commands may use of the
// limiter: a command that needs more of it is a call that the API lacks.
func TestTheCommandLineLeavesKeysToTheServer(t *testing.T) {
	t.Parallel()
	allowed := strings.Fields(`
		CheckBackup Restore Restored OpenBadger Files Operator ErrLocked
		VerifyAudit AuditHash ParseAuditHash
		ParseCount ParseUSD
		Status Active Suspended Exhausted Expired Revoked ChargeForwarded ChargeSuccess
		LeakState LeakRevoked LeakGraceEnded LeakDead LeakUnknown`)
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
