package admin

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// constantsOf reads the constants of a text type from the source of its package.
func constantsOf(t *testing.T, typ reflect.Type) (values []string) {
	t.Helper()
	dir, ours := strings.CutPrefix(typ.PkgPath(), "github.com/till-proxy/till/")
	if !ours {
		return nil
	}
	files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no source of %s: %v", typ, err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if name, ok := spec.Type.(*ast.Ident); !ok || name.Name != typ.Name() {
				return true
			}
			for _, v := range spec.Values {
				literal, ok := v.(*ast.BasicLit)
				if !ok {
					t.Fatalf("%s: a constant of %s that this test cannot read", path, typ)
				}
				text, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				values = append(values, text)
			}
			return true
		})
	}
	return values
}

// A value that is added to a type must be added to the list of its values.
func TestEveryTextOfFewValuesIsDescribedWithAllOfThem(t *testing.T) {
	t.Parallel()
	seen := map[reflect.Type]bool{}
	eachType(func(of reflect.Type) {
		for _, field := range fieldsOf(of) {
			typ := field.typ
			for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
				typ = typ.Elem()
			}
			if typ.Kind() != reflect.String || seen[typ] || texts[typ] != nil {
				continue
			}
			seen[typ] = true
			var described []string
			for _, v := range enums[typ] {
				described = append(described, reflect.ValueOf(v).String())
			}
			declared := slices.DeleteFunc(constantsOf(t, typ), func(v string) bool { return v == string(record.Everything) }) // no role has it
			slices.Sort(described)
			slices.Sort(declared)
			if !slices.Equal(described, declared) {
				t.Errorf("%s: the document has the values %q, and the source has %q", typ, described, declared)
			}
		}
	})
	for typ := range enums {
		if !seen[typ] {
			t.Errorf("no operation reads or writes %s", typ)
		}
	}
}
