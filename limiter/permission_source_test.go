package limiter_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// judged are the methods that take a Caller and are themselves how it is
// judged, or answer nothing to who may not know; closed are those for a closed store, which knows of no role, and
// which TestAClosedStoreObeysOnlyTheOperator drives; open are the methods
// that nobody calls on behalf of a caller.
var (
	judged = []string{"Authorise", "Allows", "MadeWith", "MayLink", "Replay", "Sees", "SeesReason", "Standing"}
	closed = []string{"Forfeit", "ForfeitShared", "ImagineForfeit", "Restore", "Set", "Lift"}
	open   = []string{
		"Close", "CutOverdue", "Failed", "Contradicted", "Trouble", "StillFailed", "Ping", "SetRoles", "SetStale", "KeepAudit", "LogAuditHead", "Retain", // whoever runs the limiter
		"Find", "Authenticate", "Delegate", // whoever has a secret
		"Outbox",                                                                                            // whoever delivers events
		"AuditHead", "Fingerprint", "Leads", "Nodes", "Pending", "Ready", "Roles", "Stats", "Time", "Turns", // no key is told of: any token may know
	}
)

// TestNoMethodWithoutARow reads the package's source.
func TestNoMethodWithoutARow(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var decls []ast.Decl
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		decls = append(decls, parsed.Decls...)
	}
	owners := append(embeddedIn("Limiter", decls), "Limiter") // whose methods are the limiter's
	seen := make(map[string]bool)
	for _, d := range decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || !f.Name.IsExported() {
			continue
		}
		name := f.Name.Name
		seen[name] = true
		_, row := acts[name]
		switch {
		case takesCaller(f):
			if !row && !slices.Contains(judged, name) && !slices.Contains(closed, name) {
				t.Errorf("%s takes a Caller and has no row in acts", name)
			}
		case slices.Contains(owners, methodOf(f)) && !slices.Contains(open, name):
			t.Errorf("the limiter's method %s takes no Caller, and is not among those that need none", name)
		}
	}
	for _, name := range slices.Concat(judged, closed, open) {
		if !seen[name] {
			t.Errorf("there is no %s any more: take it from its list", name)
		}
	}
}

// embeddedIn are the types that a struct has the methods of.
func embeddedIn(name string, decls []ast.Decl) (types []string) {
	for _, d := range decls {
		ast.Inspect(d, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || spec.Name.Name != name {
				return true
			}
			for _, field := range spec.Type.(*ast.StructType).Fields.List {
				if of, ok := field.Type.(*ast.Ident); ok && field.Names == nil {
					types = append(types, of.Name)
				}
			}
			return false
		})
	}
	return types
}

func takesCaller(f *ast.FuncDecl) bool {
	for _, p := range f.Type.Params.List {
		if id, ok := p.Type.(*ast.Ident); ok && id.Name == "Caller" {
			return true
		}
	}
	return false
}

func methodOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	star, ok := f.Recv.List[0].Type.(*ast.StarExpr)
	if !ok {
		return ""
	}
	id, _ := star.X.(*ast.Ident)
	if id == nil {
		return ""
	}
	return id.Name
}
