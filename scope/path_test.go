package scope

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPathTricks(t *testing.T) {
	t.Parallel()
	const bad = ""
	for _, test := range []struct{ escaped, want string }{
		{"/", "/"},
		{"/v1/chat/completions", "/v1/chat/completions"},
		{"/v1/chat/completions/", "/v1/chat/completions/"},
		{"/v1/models/gemini-3.8:generateContent", "/v1/models/gemini-3.8:generateContent"},
		{"/v1/models/a%20b", "/v1/models/a b"},
		{"/v1/models/%E2%82%AC", "/v1/models/€"},
		{"/v1/models/100%25", "/v1/models/100%"},
		{"/v1/models/100%25x", "/v1/models/100%x"},
		{"/v1/%6Dodels", "/v1/models"},
		{"/repos/o/r/...", "/repos/o/r/..."},
		{"/repos/.github/r", "/repos/.github/r"},
		{"/repos/a..b", "/repos/a..b"},
		{"/a;v=1/b", "/a;v=1/b"},
		{"/a:b@c", "/a:b@c"},
		{"/a+b", "/a+b"},
		{"/．．/x", "/．．/x"}, // fullwidth dots are letters like any other

		{"", bad}, {"*", bad}, {"v1/models", bad}, {"?x", bad}, {"http://h/v1", bad},
		{"//", bad}, {"//v1/models", bad}, {"/v1//models", bad}, {"/v1/models//", bad}, {"/v1/models///", bad},
		{"/.", bad}, {"/..", bad}, {"/./v1", bad}, {"/v1/.", bad}, {"/v1/./models", bad}, {"/v1/models/.", bad},
		{"/../v1", bad}, {"/v1/../batches", bad}, {"/v1/models/..", bad}, {"/v1/models/../", bad}, {"/v1/models/../../v1", bad},
		{"/%2e", bad}, {"/%2E%2E/x", bad}, {"/v1/%2e%2e/batches", bad}, {"/v1/.%2e/batches", bad}, {"/v1/%2e./batches", bad},
		{"/v1/%2E/models", bad}, {"/v1/..;/batches", bad}, {"/v1/..;x=1/batches", bad}, {"/v1/.;/batches", bad}, {"/v1/%2e%2e;/b", bad}, {"/v1/..%3b/b", bad}, {"/;/x", bad},
		{"/v1%2Fmodels", bad}, {"/v1%2fmodels", bad}, {"/v1/..%2f..%2fx", bad}, {"/v1/models%2f", bad}, {"/%2f", bad},
		{`/v1\models`, bad}, {`/v1/..\x`, bad}, {"/v1%5Cmodels", bad}, {"/v1%5cmodels", bad}, {"/v1/%5c..", bad},
		{"/v1%252Fmodels", bad}, {"/v1/%252e%252e/x", bad}, {"/v1/%25%32", "/v1/%2"}, {"/v1/%25%32%65", bad}, {"/v1/%252%65", bad}, {"/v1/%2525", bad}, {"/v1/%25ff", bad},
		{"/v1/models%00", bad}, {"/v1/models%0d%0a", bad}, {"/v1/%09x", bad}, {"/v1/%7f", bad}, {"/v1/\x00", bad}, {"/v1/a\nb", bad}, {"/v1/%c2%85", bad},
		{"/v1/%", bad}, {"/v1/%2", bad}, {"/v1/%zz", bad}, {"/v1/%u002e", bad}, {"/v1/%-1", bad},
		{"/v1/%c0%ae%c0%ae/x", bad}, {"/v1/%e0%80%ae", bad}, {"/v1/%ff", bad}, {"/v1/%c0%af", bad}, {"/v1/%ed%a0%80", bad},
	} {
		got, err := CleanPath(test.escaped)
		if (err != nil) != (test.want == bad) || err == nil && got != test.want {
			t.Errorf("CleanPath(%q) = %q, %v; want %q", test.escaped, got, err, test.want)
		}
		if err != nil && !errors.Is(err, ErrPath) {
			t.Errorf("CleanPath(%q): %v does not wrap ErrPath", test.escaped, err)
		}
	}
}

func TestAPathBeginsWithOneSlash(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/": "/", "//": "/", "///": "/", "/v1": "/v1", "//v1/x": "/v1/x", "///v1//x": "/v1//x", "": "", "v1": "v1", "/%2f/x": "/%2f/x", "//../x": "/../x",
	} {
		if got := OneSlash(path); got != want {
			t.Errorf("OneSlash(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestCleaningAPlainPathDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		if _, err := CleanPath("/v1/chat/completions"); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzCleanPath checks that an accepted path means the same to every reader.
func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"/v1/chat/completions", "/v1/%2e%2e/x", "/a%25b", "/%E2%82%AC", "/..;/x", "/a/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, escaped string) {
		path, err := CleanPath(escaped)
		if err != nil {
			return
		}
		if !utf8.ValidString(path) || strings.ContainsAny(path, "\\\x00\r\n") || strings.Contains(path, "//") {
			t.Fatalf("%q was accepted as %q", escaped, path)
		}
		for segment := range strings.SplitSeq(path, "/") {
			if segment == "." || segment == ".." {
				t.Fatalf("%q was accepted as %q", escaped, path)
			}
		}
		u, err := url.ParseRequestURI(escaped)
		if err == nil && !strings.Contains(escaped, "?") && u.Path != path {
			t.Fatalf("%q is %q to net/url and %q here", escaped, u.Path, path)
		}
	})
}

func TestRulesMatchBySegment(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		method, pattern string
		method2, path   string
		allow, deny     bool
	}{
		{"GET", "/repos/*", "GET", "/repos/o", true, true},
		{"GET", "/repos/*", "GET", "/repos/o/r/issues", true, true},
		{"GET", "/repos/*", "GET", "/repos", false, false},
		{"GET", "/repos/*", "GET", "/repos/", false, false},
		{"GET", "/repos/*", "GET", "/reposx", false, false},
		{"GET", "/repos/*", "POST", "/repos/o", false, false},
		{"GET", "/repos/*", "get", "/repos/o", false, true},
		{"*", "/v1/batches", "POST", "/v1/batches", true, true},
		{"*", "/v1/batches", "POST", "/v1/batches/", false, true},
		{"*", "/v1/batches", "POST", "/V1/Batches", false, true},
		{"*", "/v1/batches", "POST", "/v1/batcheſ", false, true}, // the long s folds to s
		{"*", "/v1/batches", "POST", "/v1/batches/x", false, false},
		{"*", "/v1/batches/", "POST", "/v1/batches/", true, false},
		{"*", "/repos/*/issues", "GET", "/repos/o/issues", true, true},
		{"*", "/repos/*/issues", "GET", "/repos/o/r/issues", false, false},
		{"*", "/repos/*/issues", "GET", "/repos//issues", false, false},
		{"*", "/v1/models/*:countTokens", "POST", "/v1/models/gemini-3:countTokens", true, true},
		{"*", "/v1/models/*:countTokens", "POST", "/v1/models/gemini-3:COUNTTOKENS", false, true},
		{"*", "/v1/models/*:countTokens", "POST", "/v1/models/gemini-3:generateContent", false, false},
		{"*", "/v1/models/*:countTokens", "POST", "/v1/models/a/b:countTokens", false, false},
		{"*", "/v1/beta*", "POST", "/v1/betax", true, true},
		{"*", "/v1/beta*", "POST", "/v1/betax/y", false, false},
		{"*", "/*", "GET", "/", false, false},
		{"*", "/*", "GET", "/x/y", true, true},
		{"*", "/", "GET", "/", true, true},
	} {
		r, err := ParsePathRule(test.method, test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Match(test.method2, test.path, 0); got != test.allow {
			t.Errorf("%v allows %s %s: %v, want %v", r, test.method2, test.path, got, test.allow)
		}
		if got := (PathRules{r}).matchFold(test.method2, test.path); got != test.deny {
			t.Errorf("%v denies %s %s: %v, want %v", r, test.method2, test.path, got, test.deny)
		}
	}
}

// TestRulesMayLeaveOutTheVersion, unless they begin with a wildcard, which includes it;
// and dropping a part of a path, as some servers do, makes no rule match.
func TestRulesMayLeaveOutTheVersion(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, path string
		version       int
		allow         bool
	}{
		{"/chat/completions", "/v1/chat/completions", 3, true},
		{"/v1/chat/completions", "/v1/chat/completions", 3, true},
		{"/chat/*", "/v1/chat/completions", 3, true},
		{"/v1/chat/completions", "/openai/v1/chat/completions", 7, true},
		{"/chat/completions", "/v1/chat/completions", 0, false},
		{"/*/completions", "/v1/completions", 3, true},
		{"/*/completions", "/v1/chat/completions", 3, false},
		{"/c*/completions", "/v1/chat/completions", 3, false},
		{"/v2/chat", "/v1/chat", 3, false},
		{"/repos/*", "/repos/o;v=1/r", 0, true},
		{"/repos/o;v=1/r", "/repos/o;v=1/r", 0, true},
		{"/repos/o/r", "/repos/o;v=1/r", 0, false},
		{"/models/*:countTokens", "/v1/models/m:countTokens", 3, true},
		{"/models/*:countTokens", "/v1/models/m:generateContent;:countTokens", 3, false},
		{"/v1/models/*:countTokens", "/v1/models/m:generateContent;:countTokens", 3, false},
		{"/*/public", "/a;/public", 0, true},
		{"/a*c/public", "/ab;c/public", 0, false},
	} {
		scope := Scope{Paths: []string{test.pattern}}
		if got := scope.AllowsPath(test.path, test.version); got != test.allow {
			t.Errorf("%s allows %s of version %q: %v, want %v", test.pattern, test.path, test.path[:test.version], got, test.allow)
		}
	}
}

func TestRulesThatCannotBeUsedAreNamed(t *testing.T) {
	t.Parallel()
	for _, rule := range [][2]string{
		{"get", "/x"}, {"", "/x"}, {"G T", "/x"}, {"*", "x"}, {"*", ""}, {"*", "/a/../b"}, {"*", "/a//b"},
		{"*", "/a?b"}, {"*", "/a%20b"}, {"*", "/**"}, {"*", "/a*b*c"}, {"*", "/" + strings.Repeat("x", maxRuleLen)},
	} {
		if _, err := ParsePathRule(rule[0], rule[1]); err == nil {
			t.Errorf("%q is accepted", rule)
		}
	}
}
