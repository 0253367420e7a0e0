package till

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/limiter/record"
)

// asked is an exchange whose client sent r, and the request that went out for it.
func asked(t *testing.T, u *Upstream, r *http.Request) (*exchange, *http.Request) {
	t.Helper()
	to, err := u.provision("up")
	if err != nil {
		t.Fatal(err)
	}
	x := &exchange{target: to, request: r}
	escaped := normalizePath(r.URL.EscapedPath())
	path, err := url.PathUnescape(escaped)
	if err != nil {
		t.Fatal(err)
	}
	there, refusal := to.locate(&record.Key{ID: "key_1"}, path, escaped)
	if refusal != nil {
		t.Fatal(refusal)
	}
	x.location = there
	out := &http.Request{Method: r.Method, Host: to.origins[0].host, URL: mustURL(x.out)}
	return x, out
}

func TestAddressesOfTheUpstreamComeBackAsTheClientsOwn(t *testing.T) {
	t.Parallel()
	github := &Upstream{To: []string{"https://api.github.com"}}
	enterprise := &Upstream{To: []string{"https://ghe.example.com/api/v3"}}
	several := &Upstream{To: []string{"http://10.0.0.1:8080", "http://10.0.0.2:8080"}}
	const gone = "\x00"
	for _, test := range []struct {
		u                   *Upstream
		target, name        string
		value, want, reason string
	}{
		// The form of GitHub's pagination: docs.github.com/rest/using-the-rest-api/using-pagination-in-the-rest-api.
		{github, "/repos/o/r/issues", "Link", `<https://api.github.com/repositories/1/issues?page=2>; rel="next", <https://api.github.com/repositories/1/issues?page=9>; rel="last"`,
			`<http://till.test/repositories/1/issues?page=2>; rel="next", <http://till.test/repositories/1/issues?page=9>; rel="last"`, ""},
		{github, "/proxy/up/repos/o/r/issues", "Link", `<https://api.github.com/x?page=2>; rel="next"`, `<http://till.test/proxy/up/x?page=2>; rel="next"`, ""},
		{github, "/a/b", "Link", `<c?page=2>; rel=next`, `</a/c?page=2>; rel=next`, "relative"},
		{github, "/a/b", "Link", `<?page=2>; rel=next`, `</a/b?page=2>; rel=next`, "a query alone"},
		{github, "/a/b", "Link", `<#part>; rel=next`, `<#part>; rel=next`, "a fragment alone"},
		{github, "/a", "Link", `</b>; title="a <https://api.github.com/x>, \"quoted\""; rel=next`, `</b>; title="a <https://api.github.com/x>, \"quoted\""; rel=next`, "quoted strings are no links"},
		{github, "/a", "Link", `<https://example.org/x>; rel=license, <https://API.github.com:443/y>; rel=next`, `<https://example.org/x>; rel=license, <http://till.test/y>; rel=next`, "two hosts"},
		{github, "/a", "Link", `<urn:x:y>; rel=type`, `<urn:x:y>; rel=type`, "no address of a server"},
		{github, "/a", "Link", `<http://api.github.com/y>; rel=next`, `<http://till.test/y>; rel=next`, "a key must not go there by http either"},
		{github, "/a", "Link", `<//api.github.com/y>; rel=next`, `<http://till.test/y>; rel=next`, ""},
		{github, "/a", "Link", `<https://api.github.com/y; rel=next`, gone, "not closed"},
		{github, "/a", "Link", `<https://api.github.com\@example.org/y>; rel=next`, gone, "readers differ"},
		{github, "/a", "Link", `<https:///api.github.com/y>; rel=next`, gone, "readers differ"},
		{github, "/a", "Link", `<https://x:y@api.github.com/y>; rel=next`, gone, "a user"},
		{github, "/a", "Link", `<https://api.github.com/y` + strings.Repeat("y", maxAddress) + `>; rel=next`, gone, "too long"},

		{enterprise, "/repos", "Link", `<https://ghe.example.com/api/v3/repos?page=2>; rel="next"`, `<http://till.test/repos?page=2>; rel="next"`, ""},
		{enterprise, "/repos", "Link", `</api/v3/repos?page=2>; rel="next"`, `</repos?page=2>; rel="next"`, ""},
		{enterprise, "/repos", "Link", `<https://ghe.example.com/login>; rel="next"`, gone, "outside of the base"},
		{enterprise, "/repos", "Link", `<https://ghe.example.com/api/v3>; rel="root"`, `<http://till.test/>; rel="root"`, "the base itself"},
		{enterprise, "/proxy/up/repos", "Link", `<https://ghe.example.com/api/v3>; rel="root"`, `<http://till.test/proxy/up>; rel="root"`, ""},
		{enterprise, "/repos", "Link", `<https://ghe.example.com/api/v30/x>; rel="next"`, gone, "another base"},

		{several, "/a", "Operation-Location", "http://10.0.0.2:8080/ops/1?api-version=2", "http://till.test/ops/1?api-version=2", "any of the addresses"},
		{several, "/a", "Operation-Location", "http://10.0.0.3:8080/ops/1", "http://10.0.0.3:8080/ops/1", ""},

		// learn.microsoft.com/azure/azure-resource-manager/management/async-operations
		{github, "/a", "Azure-Asyncoperation", "https://api.github.com/ops/1", "http://till.test/ops/1", ""},
		// ai.google.dev/gemini-api/docs/files: a resumable upload
		{github, "/a", "X-Goog-Upload-Url", "https://api.github.com/upload?upload_id=1", "http://till.test/upload?upload_id=1", ""},
		{github, "/a", "X-Goog-Upload-Control-Url", "https://api.github.com/upload?upload_id=1", "http://till.test/upload?upload_id=1", ""},
		// OData 4.01 part 1, section 8.3.4
		{github, "/a", "Odata-Entityid", "https://api.github.com/People('x')", "http://till.test/People('x')", ""},
		{github, "/a/b", "Content-Location", "c", "/a/c", ""},
		{github, "/proxy/up/a/b", "Content-Location", "/c", "/proxy/up/c", ""},
		{github, "/a", "Content-Location", "https://api.github.com/c", "http://till.test/c", ""},
		{github, "/a", "Sourcemap", "/a.map", "/a.map", ""},
		{github, "/a", "Refresh", "5; url=https://api.github.com/c", "5; url=http://till.test/c", ""},
		{github, "/a", "Refresh", `0;URL='/c'`, `0;URL='/c'`, ""},
		{github, "/proxy/up/a", "Refresh", `0, /c`, `0, /proxy/up/c`, ""},
		{github, "/a", "Refresh", "5", "5", ""},
		{github, "/a", "Refresh", "5; url=https://example.org/", "5; url=https://example.org/", ""},
		{github, "/a", "X-Anything", "https://api.github.com/c?d=e#f", "http://till.test/c?d=e#f", ""},
		{github, "/a", "X-Anything", "https://api.github.com/a%20b/%E2%82%AC", "http://till.test/a%20b/%E2%82%AC", ""},
		{github, "/a", "X-Anything", "https://api.github.com/proxy/z", "http://till.test/proxy/up/proxy/z", "a path that is till's own"},
		{github, "/a", "X-Anything", "see https://api.github.com/c", "see https://api.github.com/c", "text"},
		{github, "/a", "X-Anything", "https://api.github.com.example.org/c", "https://api.github.com.example.org/c", "another host"},
		{github, "/a", "Access-Control-Allow-Origin", "https://api.github.com", "http://till.test", "an origin"},
		{github, "/a", "Etag", `"https://api.github.com/c"`, `"https://api.github.com/c"`, ""},
	} {
		r := httptest.NewRequest("GET", "http://till.test"+test.target, nil)
		x, out := asked(t, test.u, r)
		h := http.Header{test.name: {test.value}, "X-Other": {"https is fine"}}
		x.target.translate(h, out, x)
		want := []string{test.want}
		if test.want == gone {
			want = nil
		}
		if !slices.Equal(h[test.name], want) || h.Get("X-Other") == "" {
			t.Errorf("%s %s: %.200q becomes %.200q, want %.200q (%s)", test.target, test.name, test.value, h[test.name], want, test.reason)
		}
	}
}

func TestAServerIsKnownHoweverItsAddressIsSpelled(t *testing.T) {
	t.Parallel()
	for _, same := range [][]string{
		{"https://api.example.com", "https://API.example.com.", "https://api.example.com:", "https://api.example.com:443", "https://api.example.com.:0443", "http://api.example.com", "http://api.example.com:80"},
		{"https://api.example.com:8443", "https://api.example.com:08443", "https://api.example.com.:8443"},
		{"https://bücher.example", "https://xn--bcher-kva.example", "https://BÜCHER.example", "https://bücher。example"},
		{"http://[::1]:8080", "http://[0:0:0:0:0:0:0:1]:8080", "http://[::0001]:08080"},
		{"http://[2001:db8::a]", "http://[2001:DB8:0::A]:80", "http://[2001:db8::a]:"},
	} {
		for _, configured := range same {
			if strings.HasSuffix(configured, ":") || strings.Contains(configured, ":0") || strings.HasPrefix(configured, "http:") != strings.HasPrefix(same[0], "http:") {
				continue // a configuration states it plainly
			}
			to, err := (&Upstream{To: []string{configured}}).provision("up")
			if err != nil {
				t.Fatal(err)
			}
			for _, address := range same {
				if u, err := parseAddress(address + "/x"); err != nil || !to.matches(u) {
					t.Errorf("%s is not known as %s: %v", address, configured, err)
				}
			}
			for _, other := range []string{"https://api.example.org", "https://api.example.com:8444", "https://bucher.example", "http://[::2]:8080", "http://[::1]:8081", "https://[2001:db8::b]"} {
				if u, err := parseAddress(other); err != nil || to.matches(u) {
					t.Errorf("%s is taken for %s: %v", other, configured, err)
				}
			}
		}
	}
}

func TestOneBadValueDoesNotTakeTheOthers(t *testing.T) {
	t.Parallel()
	x, out := asked(t, &Upstream{To: []string{"https://api.example.com"}}, httptest.NewRequest("GET", "http://till.test/a", nil))
	h := http.Header{"Link": {`</a>; rel=self`, `<https:///x>; rel=next`, `<https://api.example.com/b>; rel=last`}}
	x.target.translate(h, out, x)
	if want := []string{`</a>; rel=self`, `<http://till.test/b>; rel=last`}; !slices.Equal(h["Link"], want) {
		t.Errorf("%q, want %q", h["Link"], want)
	}
}

// TestAddressesAreThoseThatTheClientUsed has the ways in which a client's address
// of this server differs from what this server sees.
func TestAddressesAreThoseThatTheClientUsed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		change  func(r *http.Request, vars map[string]any)
		public  string
		request string
		want    string
	}{
		{name: "TLS", change: func(r *http.Request, _ map[string]any) { r.TLS = new(tls.ConnectionState) }, want: "https://till.test/c"},
		{name: "a port", change: func(r *http.Request, _ map[string]any) { r.Host = "till.test:8443" }, want: "http://till.test:8443/c"},
		{name: "a proxy that is not trusted", change: func(r *http.Request, _ map[string]any) {
			r.Header.Set("X-Forwarded-Proto", "https")
			r.Header.Set("X-Forwarded-Host", "agents.example.com")
		}, want: "http://till.test/c"},
		{name: "a trusted proxy", change: func(r *http.Request, vars map[string]any) {
			vars[caddyhttp.TrustedProxyVarKey] = true
			r.Header.Set("X-Forwarded-Proto", "https")
			r.Header.Set("X-Forwarded-Host", "agents.example.com")
		}, want: "https://agents.example.com/c"},
		{name: "a proxy that public_url implies", public: "https://till.test", want: "https://till.test/c"},
		{name: "another public_url", public: "https://agents.example.com", want: "http://till.test/c"},
		{name: "no host", change: func(r *http.Request, _ map[string]any) { r.Host = "" }, want: "/c"},
		{name: "a host that is none", change: func(r *http.Request, _ map[string]any) { r.Host = "a>;b" }, want: "/c"},
		{name: "a prefix that was taken", request: "/git/hub/a", want: "http://till.test/git/hub/c"},
		{name: "a prefix that readers differ about", request: "//evil.example/a", want: "http://till.test/c"},
	} {
		r := httptest.NewRequest("GET", "http://till.test/a", nil)
		vars := map[string]any{}
		if test.change != nil {
			test.change(r, vars)
		}
		ctx := context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars)
		if test.request != "" {
			original := *r
			original.URL = &url.URL{Path: test.request}
			ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, original)
		}
		x, out := asked(t, &Upstream{To: []string{"https://api.example.com"}}, r.WithContext(ctx))
		x.target.publicOrigin = test.public
		h := http.Header{"Operation-Location": {"https://api.example.com/c"}}
		x.target.translate(h, out, x)
		if got := h.Get("Operation-Location"); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestTranslatingAPlainAnswerDoesNotAllocate(t *testing.T) {
	x, out := asked(t, &Upstream{To: []string{"https://api.example.com"}}, httptest.NewRequest("GET", "http://till.test/a", nil))
	h := http.Header{"Content-Type": {"application/json"}, "Date": {"x"}, "Etag": {`"h"`}, "X-Request-Id": {"1"}, "Server": {"hhhhhhhhhh"}}
	if n := testing.AllocsPerRun(100, func() { x.target.translate(h, out, x) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzAnswerAddresses checks that no address of the upstream is left where a client
// would follow it, and that the result is a valid header value.
func FuzzAnswerAddresses(f *testing.F) {
	for _, s := range []string{
		`<https://up.example.com/base/x?page=2>; rel="next", </base/y>; title="<"`, "https://up.example.com/base", "5; url=https://up.example.com/base/x",
		"//up.example.com/base/x", "https:up.example.com", `https:\\up.example.com`, "/base/../x", "../x", "https://UP.example.com.:443/base/%2e%2e/x", "<>", `<"`, "///up.example.com/", "http://UP.eXAmple.Com:", "/base/%74ill/self", "https://up.example.com:00443/",
	} {
		f.Add(s)
	}
	u := &Upstream{To: []string{"https://up.example.com/base"}}
	to, err := u.provision("up")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if strings.ContainsAny(value, "\r\n\x00") {
			return // net/http passes none
		}
		value = strings.Trim(value, " \t") // as net/http does
		x := &exchange{target: to, request: httptest.NewRequest("GET", "http://till.test/a/b", nil)}
		out := &http.Request{Method: "GET", Host: "up.example.com", URL: mustURL("/base/a/b")}
		res := &http.Response{StatusCode: 302, Header: http.Header{"Location": {value}}}
		if to.relocate(res, out, x, &record.Key{}) == nil && value != "" {
			translated := res.Header.Get("Location")
			if !strings.HasPrefix(translated, "/") && !strings.HasPrefix(translated, "#") || strings.HasPrefix(translated, "//") || strings.Contains(translated, "\\") {
				t.Fatalf("Location: %q becomes %q", value, translated)
			}
			if path, _, _ := strings.Cut(translated, "?"); strings.HasPrefix(path, "/") && ownPath(path) {
				t.Fatalf("Location: %q becomes %q, which is this server's own", value, translated)
			}
		}
		for _, name := range []string{"Link", "Refresh", "Content-Location", "Operation-Location"} {
			h := http.Header{name: {value}}
			to.translate(h, out, x)
			for _, translated := range h[name] {
				if strings.ContainsAny(translated, "\r\n\x00") {
					t.Fatalf("%s: %q becomes %q", name, value, translated)
				}
				if name == "Refresh" || name == "Link" {
					continue
				}
				if u, err := url.Parse(strings.TrimSpace(translated)); err == nil && strings.EqualFold(strings.TrimSuffix(u.Hostname(), "."), "up.example.com") && (u.Scheme == "http" || u.Scheme == "https") && strings.TrimLeft(u.Port(), "0") == "" {
					t.Fatalf("%s: %q becomes %q", name, value, translated)
				}
			}
			if name == "Link" && len(h[name]) == 1 {
				_, ok := eachLink(h[name][0], func(address string) (string, bool) {
					if u, err := url.Parse(address); err == nil && u.Host == "up.example.com" && (u.Scheme == "http" || u.Scheme == "https") {
						t.Fatalf("Link: %q becomes %q", value, h[name][0])
					}
					return address, true
				})
				if !ok {
					t.Fatalf("Link: %q becomes %q, which cannot be read", value, h[name][0])
				}
			}
		}
	})
}
