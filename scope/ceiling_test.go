package scope

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

func TestAScopeIsComparedWithItsCeiling(t *testing.T) {
	t.Parallel()
	network := netip.MustParsePrefix
	for _, test := range []struct {
		name           string
		scope, ceiling Scope
		field, rule    string
	}{
		{"nothing limits anything", Scope{}, Scope{}, "", ""},
		{"anything is within no ceiling", Scope{Models: []string{"gpt-5"}}, Scope{}, "", ""},
		{"all models", Scope{}, Scope{Models: []string{"gpt-5"}}, "models", ""},
		{"the same model", Scope{Models: []string{"gpt-5"}}, Scope{Models: []string{"gpt-5"}}, "", ""},
		{"a model of a family", Scope{Models: []string{"gpt-5-mini", "gpt-5-*"}}, Scope{Models: []string{"gpt-*"}}, "", ""},
		{"a wider family", Scope{Models: []string{"gp*"}}, Scope{Models: []string{"gpt-*"}}, "models", "gp*"},
		{"a family where a model is allowed", Scope{Models: []string{"gpt-5*"}}, Scope{Models: []string{"gpt-5"}}, "models", "gpt-5*"},
		{"every model", Scope{Models: []string{"*"}}, Scope{Models: []string{"gpt-*"}}, "models", "*"},
		{"another method", Scope{Methods: []string{"POST", "GET"}}, Scope{Methods: []string{"POST"}}, "methods", "GET"},
		{"a smaller network", Scope{IPs: []netip.Prefix{network("10.1.0.0/16")}}, Scope{IPs: []netip.Prefix{network("10.0.0.0/8")}}, "", ""},
		{"a larger network", Scope{IPs: []netip.Prefix{network("10.0.0.0/7")}}, Scope{IPs: []netip.Prefix{network("10.0.0.0/8")}}, "ips", "10.0.0.0/7"},
		{"the other family", Scope{IPs: []netip.Prefix{network("::/0")}}, Scope{IPs: []netip.Prefix{network("0.0.0.0/0")}}, "ips", "::/0"},
		{"a path below", Scope{Paths: []string{"/repos/a/*"}}, Scope{Paths: []string{"/repos/*"}}, "", ""},
		{"a path beside", Scope{Paths: []string{"/repo"}}, Scope{Paths: []string{"/repos/*"}}, "paths", "/repo"},
		{"everything below where one segment is allowed", Scope{Paths: []string{"/repos/*"}}, Scope{Paths: []string{"/repos/*/issues"}}, "paths", "/repos/*"},
		{"a name that some servers end early", Scope{Paths: []string{"/v1/a;*x"}}, Scope{Paths: []string{"/v1/*x"}}, "paths", "/v1/a;*x"},
		{"a name below a version that is open", Scope{Paths: []string{"/a/x"}}, Scope{Paths: []string{"/*/x"}}, "paths", "/a/x"},
		{"a name where all is open", Scope{Paths: []string{"/a/x"}}, Scope{Paths: []string{"/*"}}, "", ""},
		{"a wider segment", Scope{Paths: []string{"/v1/a*"}}, Scope{Paths: []string{"/v1/ab*"}}, "paths", "/v1/a*"},
	} {
		if field, rule := test.scope.Beyond(test.ceiling); field != test.field || rule != test.rule {
			t.Errorf("%s: beyond in %q by %q, want %q by %q", test.name, field, rule, test.field, test.rule)
		}
	}
}

// TestWhatACoveredPatternMatchesIsMatchedByItsCeiling tries random patterns
// against random paths.
func TestWhatACoveredPatternMatchesIsMatchedByItsCeiling(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	some := func(letters []string, segments int) string {
		var b strings.Builder
		for range 1 + r.IntN(segments) {
			b.WriteString("/")
			for range r.IntN(3) {
				b.WriteString(letters[r.IntN(len(letters))])
			}
		}
		return b.String()
	}
	covered := 0
	for range 200_000 {
		wide, narrow := some([]string{"a", "b", "*", "a;"}, 3), some([]string{"a", "b", "*", "a;"}, 3)
		if strings.Contains(wide, "**") || strings.Contains(narrow, "**") || !validPattern(wide) || !validPattern(narrow) || !coversPath(wide, narrow) {
			continue
		}
		covered++
		path, version := some([]string{"a", "b", "a;"}, 4), 0
		if head, _ := heads(path); r.IntN(2) == 0 && len(head) < len(path) && !strings.Contains(head, ";") {
			version = len(head)
		}
		if _, err := CleanPath(path); err != nil {
			continue
		}
		if allows(narrow, path, version) && !allows(wide, path, version) {
			t.Fatalf("seed %d: %s covers %s, but only that allows %s of version %q", seed, wide, narrow, path, path[:version])
		}
	}
	if covered < 1000 {
		t.Errorf("seed %d: only %d patterns were covered", seed, covered)
	}
}

func validPattern(p string) bool {
	_, err := ParsePathRule("*", p)
	return err == nil
}

func ExampleScope_Beyond() {
	fmt.Println(Scope{Models: []string{"gpt-5"}}.Beyond(Scope{Models: []string{"gpt-5-mini"}}))
	// Output: models gpt-5
}
