package till

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

func TestRedirectsLeadWithinOrWhereTheyMay(t *testing.T) {
	t.Parallel()
	github := &Upstream{To: []string{"https://api.github.com"}, RedirectsPass: []string{"codeload.github.com", "*.githubusercontent.com", "files.example.com:8443"}}
	plain := &Upstream{To: []string{"http://10.0.0.1:8080"}, RedirectsPass: []string{"10.0.0.2:9000"}}
	web := &Upstream{To: []string{"http://web.example.com"}}
	mcp := &Upstream{To: []string{"http://mcp.example.com/mcp"}}
	slashed := &Upstream{To: []string{"http://mcp.example.com/mcp/"}}
	for _, test := range []struct {
		u        *Upstream
		target   string
		status   int
		location string
		want     string // "" if dropped or refused
		message  string // of a refusal
	}{
		{github, "/a/b", 302, "https://api.github.com/c?x=1#y", "/c?x=1#y", ""},
		{github, "/a/b", 302, "c", "/a/c", ""},
		{github, "/proxy/up/a/b", 302, "/c", "/proxy/up/c", ""},
		{github, "/a", 302, "http://api.github.com/c", "/c", ""}, // behind a proxy that terminates TLS
		{github, "/a", 302, "https://codeload.github.com/o/r/legacy.tar.gz/main?token=x", "https://codeload.github.com/o/r/legacy.tar.gz/main?token=x", ""},
		{github, "/a", 302, "https://CODELOAD.github.com:443/x", "https://CODELOAD.github.com:443/x", ""},
		{github, "/a", 302, "//codeload.github.com/x", "//codeload.github.com/x", ""},
		{github, "/a", 302, "https://objects.githubusercontent.com/x", "https://objects.githubusercontent.com/x", ""},
		{github, "/a", 302, "https://files.example.com:8443/x", "https://files.example.com:8443/x", ""},
		{github, "/a", 302, "https://agents.example.com/x", "https://agents.example.com/x", ""}, // public_url
		// Nothing may redirect to what this server answers itself: a DELETE of it
		// revokes.
		{github, "/a", 307, "/till/self", "/proxy/up/till/self", ""},
		{github, "/a", 307, "/%74ill/self", "/proxy/up/%74ill/self", ""},
		{github, "/a", 307, "https://api.github.com/till%2Fself", "/proxy/up/till%2Fself", ""},
		{github, "/a", 307, "/%70roxy/up/x", "/proxy/up/%70roxy/up/x", ""},
		{github, "/a", 307, "https://agents.example.com/till/self", "", "answers itself"},
		{github, "/a", 307, "https://agents.example.com//%74ill/self", "", "answers itself"},
		{github, "/a", 307, "https://agents.example.com/proxy/up/x", "https://agents.example.com/proxy/up/x", ""},
		{github, "/a", 302, "http://till.test/x", "", "till.test without TLS"}, // a client may use any name for this server
		{github, "/a", 302, "https://till.test/x", "", "redirects pass till.test"},
		{github, "/a", 302, "https://files.example.com/x", "", "redirects pass files.example.com"},
		{github, "/a", 302, "https://a.b.githubusercontent.com/x", "", "redirects pass a.b.githubusercontent.com"},
		{github, "/a", 302, "https://githubusercontent.com/x", "", "redirects pass githubusercontent.com"},
		{github, "/a", 302, "https://githubusercontent.com.evil.example/x", "", "redirects pass githubusercontent.com.evil.example"},
		{github, "/a", 302, "https://codeload.github.com:8443/x", "", "redirects pass codeload.github.com:8443"},
		{github, "/a", 302, "http://codeload.github.com/x", "", "codeload.github.com without TLS"},
		{github, "/a", 302, "https://u:p@codeload.github.com/x", "", "another server"},
		{github, "/a", 302, "https://codeload.github.com\\@evil.example/x", "", "not the address of a web server"},
		{github, "/a", 302, "https://evil。example／.githubusercontent.com/x", "", "to another server"}, // evil.example/ by NFKC
		{github, "/a", 302, "https://evil.example%2f.githubusercontent.com/x", "", "not the address of a web server"},
		{github, "/a", 302, "https://é.githubusercontent.com/x", "", "to another server"},
		{github, "/a", 302, "https://.githubusercontent.com/x", "", "redirects pass"},
		{github, "/a", 302, "https://[::1].githubusercontent.com/x", "", "not the address of a web server"},
		{github, "/a", 302, "https:codeload.github.com/x", "", "not the address of a web server"},
		{github, "/a", 302, "https:///codeload.github.com/x", "", "not the address of a web server"},
		{github, "/a", 302, "///codeload.github.com/x", "", "not the address of a web server"},
		{github, "/a", 302, "javascript:alert(1)", "", "not the address of a web server"},
		{github, "/a", 302, "https://éxample.org/<script>", "", "to another server"},
		{github, "/a", 302, "https://" + strings.Repeat("a", 300) + ".example/", "", "to another server"},
		{github, "/a", 201, "https://api.github.com/c", "http://till.test/c", ""}, // clients take it for an absolute address
		{github, "/a", 202, "/c", "/c", ""},
		{github, "/a", 201, "https://storage.example.com/c", "https://storage.example.com/c", ""},
		{github, "/a", 201, "https://u@api.github.com/c", "", ""},
		{plain, "/a", 302, "http://10.0.0.2:9000/x", "http://10.0.0.2:9000/x", ""},
		{plain, "/a", 302, "https://10.0.0.2:9000/x", "https://10.0.0.2:9000/x", ""},
		{plain, "/a", 302, "http://10.0.0.1:8081/x", "", "redirects pass 10.0.0.1:8081"},
		{web, "/a", 301, "https://web.example.com/a", "", "change that to https://web.example.com/a"}, // would come back for ever

		{mcp, "/", 307, "http://mcp.example.com/mcp", "/", ""},
		{mcp, "/proxy/up", 307, "/mcp", "/proxy/up", ""},
		{mcp, "/x", 307, "/mcp/y", "/y", ""},
		{mcp, "/", 307, "/mcp/", "", "change that to http://mcp.example.com/mcp/"},
		{mcp, "/", 307, "/login", "", "change that to http://mcp.example.com/login"},
		{slashed, "/", 307, "/mcp/", "/", ""},
		{slashed, "/", 307, "/mcp", "", "change that to http://mcp.example.com/mcp"},
	} {
		x, out := asked(t, test.u, httptest.NewRequest("GET", "http://till.test"+test.target, nil))
		x.target.publicOrigin = "https://agents.example.com"
		res := &http.Response{StatusCode: test.status, Header: http.Header{"Location": {test.location}}}
		refusal := x.target.relocate(res, out, x, &record.Key{ID: "key_1"})
		switch {
		case test.message == "" && refusal != nil:
			t.Errorf("%.100q is refused: %s", test.location, refusal.Message)
		case test.message != "" && (refusal == nil || !strings.Contains(refusal.Message, test.message) || len(refusal.Message) > 600):
			t.Errorf("%.100q: %v, want a refusal that says %q", test.location, refusal, test.message)
		case refusal == nil && res.Header.Get("Location") != test.want:
			t.Errorf("%.100q becomes %q, want %q", test.location, res.Header.Get("Location"), test.want)
		}
	}
}
