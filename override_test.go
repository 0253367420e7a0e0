package till

import (
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// TestNoOverrideReachesAGuardedHandler, which would see another request than the one that
// the key was checked for.
func TestNoOverrideReachesAGuardedHandler(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.h.Guard = true
	k := s.mint(func(k *record.Key) { k.Upstream = "raw" })
	h := http.Header{"X-Kept": {"x"}}
	for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL", "X-Original-URI"} {
		h.Set(name, "DELETE")
	}
	s.inside = func(r *http.Request) {
		if len(r.Header) != 1 {
			t.Errorf("it saw %v", r.Header)
		}
	}
	if status, _, answer := s.serve(k, asks{method: "GET", path: "/x", header: h}); status != http.StatusOK {
		t.Errorf("%d %s", status, answer)
	}
}

func TestParametersThatStandForAnotherRequestAreFoundAsServersFindThem(t *testing.T) {
	t.Parallel()
	for _, query := range []string{
		"_method=DELETE", "_method", "_method=", "a=b&_method=x", "a=b;_method=x", "_METHOD=x", "_HttpMethod=PATCH", "_method_override=x",
		"x-http-method-override=x", "X-HTTP-Method=x", "x-method-override=x", "rest_route=/wp/v2/users", "$httpMethod=x", "%24httpMethod=x", "$httpHeaders=x", "%24httpHeaders=X-HTTP-Method-Override%3ADELETE%0D%0A", "$ct=text/plain", "%24ct=x",
		"%5fmethod=x", "%5f%6d%65%74%68%6f%64=x", "_method%00x=y", "+_method=x", "%20%20_method=x", ".method=x", "%2emethod=x", "rest.route=x", "rest+route=x",
		"rest%20route=x", "rest[route=x", "rest%5Broute=x", "_method[]=x", "_method[a][b]=x", "%5fmethod%5B%5D=x", "%zz=1&_method=x", "&&_method=x",
	} {
		if overriding(query) == "" {
			t.Errorf("%s: nothing was found", query)
		}
	}
	for _, query := range []string{
		"", "a=b", "method=DELETE", "a=_method", "_methods=x", "my_method=x", "route=/x", "api-version=2024-10-21", "_method%3Dx", "_method%=x", "rest_routes=x", "q=a;b", "x_http_method=y",
		"alt=sse", "%24.xgafv=1", strings.Repeat("&", 1000),
	} {
		if got := overriding(query); got != "" {
			t.Errorf("%s: found %s", query, got)
		}
	}
}

// TestNoParameterMakesARequestAnotherThanTheOneThatWasChecked, where something depends on
// its method and path: a rule of the key, of one above it, of the upstream, or its price.
func TestNoParameterMakesARequestAnotherThanTheOneThatWasChecked(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.addUpstream("listed", Upstream{To: []string{"http://listed.example.com"}, Allow: []string{"GET /x"}})
	s.addUpstream("calm", Upstream{To: []string{"http://calm.example.com"}, Free: []string{"GET /x"}})
	at := func(upstream string, scope func(*record.Key)) minted {
		return s.mint(func(k *record.Key) {
			k.Upstream = upstream
			if scope != nil {
				scope(k)
			}
		})
	}
	methods := func(k *record.Key) { k.Scope.Methods = []string{"GET"} }
	paths := func(k *record.Key) { k.Scope.Paths = []string{"/x"} }
	parent := at("raw", nil)
	child := s.offspring(t, parent)
	s.change(parent, paths)
	for name, test := range map[string]struct {
		key     minted
		guard   bool
		refused bool
		used    int64
	}{
		"a key without rules":                  {at("raw", nil), false, false, 1},
		"a key with methods":                   {at("raw", methods), false, true, 0},
		"a key with paths":                     {at("raw", paths), false, true, 0},
		"a key below one with paths":           {child, false, true, 0},
		"a preset":                             {at("openai", nil), false, true, 0},
		"an upstream with allow":               {at("listed", nil), false, true, 0},
		"what is free otherwise":               {at("calm", nil), false, false, 1},
		"a key without rules behind a guard":   {at("openai", nil), true, false, 1},
		"a key with methods behind a guard":    {at("openai", methods), true, true, 0},
		"a key with paths behind a guard":      {at("openai", paths), true, true, 0},
		"a key below one, both behind a guard": {child, true, true, 0},
	} {
		s.h.Guard = test.guard
		before, used := s.forwarded.Load(), s.view(test.key).Used[record.Activations]
		status, code, answer := s.serve(test.key, asks{method: "GET", path: "/x?_method=DELETE"})
		if refused := status == http.StatusBadRequest && code == record.CodeBadRequest && strings.Contains(answer, "_method"); refused != test.refused || !refused && status != http.StatusOK {
			t.Errorf("%s: %d %s %s", name, status, code, answer)
		}
		if n := s.forwarded.Load() - before; (n == 0) != test.refused || s.view(test.key).Used[record.Activations]-used != test.used {
			t.Errorf("%s: %d forwarded, used %d and %d before", name, n, s.view(test.key).Used[record.Activations], used)
		}
		if status, _, answer := s.serve(test.key, asks{method: "GET", path: "/x?a=_method"}); status != http.StatusOK {
			t.Errorf("%s, without it: %d %s", name, status, answer)
		}
	}
}
