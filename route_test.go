package till

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
)

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// routed is what a target does with a request.
func routed(t *testing.T, u *Upstream, name, method, target string, header ...string) (*exchange, *record.Refusal) {
	t.Helper()
	to, err := u.provision(name)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	escaped := normalizePath(r.URL.EscapedPath())
	path, err := scope.CleanPath(escaped)
	if err != nil {
		return nil, &record.Refusal{Code: record.CodeBadRequest}
	}
	there, refusal := to.route(r, &record.Key{ID: "key_1", Upstream: name}, path, escaped)
	return &exchange{location: there, target: to}, refusal
}

func TestRequestsGoWhereTheyWereMatched(t *testing.T) {
	t.Parallel()
	openai := &Upstream{}
	based := &Upstream{Preset: "openai", To: []string{"https://gateway.example.com/base"}}
	mcp := &Upstream{To: []string{"https://h.example.com/mcp"}}
	slashed := &Upstream{To: []string{"https://h.example.com/mcp/"}}
	live := &Upstream{Preset: "gemini", Upgrades: []string{"/ws/*"}}
	github := &Upstream{To: []string{"https://api.github.com"}, Allow: []string{"GET /repos/*"}, Upgrades: []string{"/ws/*"}}
	batches := &Upstream{Preset: "openai", Allow: []string{"POST /v1/batches", "POST /v1/chat/completions"}}
	for _, test := range []struct {
		u              *Upstream
		name           string
		method, target string
		header         []string
		out            string // as sent; "" when refused
		code           record.Code
	}{
		{u: openai, name: "openai", method: "POST", target: "/v1/chat/completions", out: "/v1/chat/completions"},
		{u: openai, name: "openai", method: "POST", target: "/chat/completions", out: "/v1/chat/completions"},
		{u: openai, name: "openai", method: "POST", target: "/proxy/openai/v1/chat/completions", out: "/v1/chat/completions"},
		{u: openai, name: "openai", method: "POST", target: "/proxy/openai/chat/completions", out: "/v1/chat/completions"},
		{u: openai, name: "openai", method: "GET", target: "/v1/models/a%20b", out: "/v1/models/a%20b"},
		{u: based, name: "mine", method: "POST", target: "/v1/embeddings", out: "/base/v1/embeddings"},
		{u: mcp, name: "mcp", method: "POST", target: "/", out: "/mcp"},
		{u: mcp, name: "mcp", method: "POST", target: "/proxy/mcp", out: "/mcp"},
		{u: mcp, name: "mcp", method: "POST", target: "/proxy/mcp/", out: "/mcp"},
		{u: mcp, name: "mcp", method: "POST", target: "/x", out: "/mcp/x"},
		{u: slashed, name: "mcp", method: "POST", target: "/", out: "/mcp/"},
		{u: slashed, name: "mcp", method: "POST", target: "/proxy/mcp", out: "/mcp/"},
		{u: slashed, name: "mcp", method: "POST", target: "/x/", out: "/mcp/x/"},
		{u: openai, name: "openai", method: "POST", target: "http://till.test//v1/chat/completions", out: "/v1/chat/completions"},
		{u: openai, name: "openai", method: "POST", target: "/proxy/openai//v1/chat/completions", out: "/v1/chat/completions"},
		{u: live, name: "gemini", method: "GET", target: "http://till.test//ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent", header: []string{"Connection", "Upgrade", "Upgrade", "websocket"}, out: "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"},
		{u: openai, name: "openai", method: "GET", target: "http://till.test//v1/organization/users", code: record.CodePathNotAllowed},
		{u: openai, name: "openai", method: "GET", target: "http://till.test//../v1/models", code: record.CodeBadRequest},
		{u: openai, name: "openai", method: "GET", target: "/v1//models", code: record.CodeBadRequest},
		{u: github, name: "github", method: "GET", target: "/repos/o/r", out: "/repos/o/r"},
		{u: github, name: "github", method: "GET", target: "/proxy/github/repos/o/r", out: "/repos/o/r"},
		{u: batches, name: "b", method: "POST", target: "/v1/batches", out: "/v1/batches"},
		{u: github, name: "github", method: "GET", target: "/ws/x", header: []string{"Connection", "Upgrade", "Upgrade", "websocket"}, out: "/ws/x"},

		{u: openai, name: "openai", method: "POST", target: "/proxy/anthropic/v1/messages", code: record.CodeWrongUpstream},
		{u: openai, name: "openai", method: "POST", target: "/proxy/%6fpenai/v1/x", code: record.CodeBadRequest},
		{u: openai, name: "openai", method: "GET", target: "/%761/models", code: record.CodeBadRequest},
		{u: openai, name: "openai", method: "POST", target: "/v1/batches", code: record.CodePathNotAllowed},
		{u: openai, name: "openai", method: "POST", target: "/proxy/openai/batches/", code: record.CodePathNotAllowed},
		{u: openai, name: "openai", method: "GET", target: "/v1/organization/users", code: record.CodePathNotAllowed},
		{u: batches, name: "b", method: "POST", target: "/v1/organization/admin_api_keys", code: record.CodePathNotAllowed},
		{u: batches, name: "b", method: "GET", target: "/v1/batches", code: record.CodePathNotAllowed},
		{u: github, name: "github", method: "POST", target: "/repos/o/r", code: record.CodePathNotAllowed},
		{u: github, name: "github", method: "GET", target: "/user", code: record.CodePathNotAllowed},
		{u: openai, name: "openai", method: "GET", target: "/v1/realtime", header: []string{"Connection", "keep-alive, Upgrade", "Upgrade", "websocket"}, code: record.CodeUpgradeNotAllowed},
		{u: openai, name: "openai", method: "GET", target: "/v1/x", header: []string{"Connection", "upgrade", "Upgrade", "tcp"}, code: record.CodeUpgradeNotAllowed},
		{u: github, name: "github", method: "GET", target: "/ws/x", header: []string{"Connection", "Upgrade", "Upgrade", "h2c, websocket"}, code: record.CodeUpgradeNotAllowed},
		{u: github, name: "github", method: "GET", target: "/ws/x", header: []string{"Connection", "Upgrade", "Upgrade", "HTTP/2.0, websocket"}, code: record.CodeUpgradeNotAllowed},
		{u: openai, name: "openai", method: "POST", target: "/v1/../v1/batches", code: record.CodeBadRequest},
	} {
		x, refusal := routed(t, test.u, test.name, test.method, test.target, test.header...)
		switch {
		case test.code != "" && (refusal == nil || refusal.Code != test.code):
			t.Errorf("%s %s: %v, want %s", test.method, test.target, refusal, test.code)
		case test.code == "" && refusal != nil:
			t.Errorf("%s %s: %v", test.method, test.target, refusal)
		case test.code == "" && x.out != test.out:
			t.Errorf("%s %s is sent as %s, want %s", test.method, test.target, x.out, test.out)
		}
	}
}

func TestUpstreamsThatCannotWorkAreNamed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		u    *Upstream
		want string
	}{
		{"Bad Name", &Upstream{}, "a-z"},
		{"mine", &Upstream{}, "address is needed"},
		{"mine", &Upstream{To: []string{"ftp://x"}}, `"ftp://x"`},
		{"mine", &Upstream{To: []string{"https://u:p@x"}}, "user"},
		{"mine", &Upstream{To: []string{"https://x", "http://y"}}, "same scheme"},
		{"mine", &Upstream{To: []string{"https://x/a", "https://y/a/"}}, "same scheme and path"},
		{"mine", &Upstream{To: []string{"https://x"}, RedirectsPass: []string{"*.com"}}, "half of the internet"},
		{"mine", &Upstream{To: []string{"https://x"}, RedirectsPass: []string{"https://y"}}, `"https://y"`},
		{"mine", &Upstream{To: []string{"https://x"}, RedirectsPass: []string{"*"}}, "redirects pass takes hosts"},
		{"mine", &Upstream{To: []string{"https://x"}, RedirectsPass: []string{"y/z"}}, "redirects pass takes hosts"},
		{"mine", &Upstream{To: []string{"https://x/a/../b"}}, "unambiguously"},
		{"mine", &Upstream{To: []string{"https://x"}, Allow: []string{"GET"}}, "METHOD /pattern"},
		{"mine", &Upstream{To: []string{"https://x"}, Cookies: "some"}, "cookies"},
	} {
		if _, err := test.u.provision(test.name); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want one that names %q", test.u, err, test.want)
		}
	}
}

func TestRequestsWithoutABodyAreNotReplayable(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "DELETE", "POST"} {
		r := &http.Request{Method: method, URL: mustURL("http://x/"), Header: http.Header{"Idempotency-Key": {"1"}}}
		sendOnce(r)
		// What net/http's Request.isReplayable looks at.
		replayable := (r.Body == nil || r.Body == http.NoBody || r.GetBody != nil) &&
			(method == "GET" || method == "HEAD" || method == "OPTIONS" || r.Header["Idempotency-Key"] != nil)
		if replayable {
			t.Errorf("%s would be sent again", method)
		}
		lower := strings.ToLower("Idempotency-Key")
		if r.Body == nil && len(r.Header[lower]) != 1 {
			t.Errorf("%s lost its Idempotency-Key", method)
		}
	}
}

// TestUpgradesThatAreNoneAreDropped, and the wish for HTTP/2, while any other upgrade is
// left to be checked.
func TestUpgradesThatAreNoneAreDropped(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ came, want http.Header }{
		"Java, curl": {
			http.Header{"Connection": {"Upgrade, HTTP2-Settings"}, "Upgrade": {"h2c"}, "Http2-Settings": {"AAEAAEAAAAIAAAAB"}, "Accept": {"*/*"}},
			http.Header{"Accept": {"*/*"}},
		},
		"other options stay": {
			http.Header{"Connection": {"keep-alive, upgrade", "HTTP2-Settings,X-Hop"}, "Upgrade": {"H2C"}},
			http.Header{"Connection": {"keep-alive, X-Hop"}},
		},
		"without settings": {http.Header{"Connection": {"upgrade"}, "Upgrade": {"h2c"}}, http.Header{}},
		"no Connection":    {http.Header{"Upgrade": {"h2c"}}, http.Header{}},
		"another's":        {http.Header{"Upgrade": {"websocket"}, "Connection": {"keep-alive"}}, http.Header{"Connection": {"keep-alive"}}},
		"an empty name":    {http.Header{"Upgrade": {"", "websocket"}, "Connection": {"upgrade"}}, http.Header{"Connection": {"upgrade"}}},
		"named twice":      {http.Header{"Connection": {"Upgrade"}, "Upgrade": {"h2c, h2c", "HTTP/2.0"}}, http.Header{}},
		"a WebSocket":      {http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, nil},
		"one of both":      {http.Header{"Connection": {"Upgrade"}, "Upgrade": {"h2c, websocket"}}, nil},
		"one of both, 2":   {http.Header{"Connection": {"Upgrade"}, "Upgrade": {"h2c", "websocket"}}, nil},
		"nothing named":    {http.Header{"Connection": {"Upgrade"}}, http.Header{"Connection": {"Upgrade"}}},
	} {
		r := httptest.NewRequest("POST", "/v1/x", nil)
		r.Header = test.came.Clone()
		dropIgnoredUpgrade(r)
		want := test.want
		if want == nil {
			want = test.came
		}
		if !reflect.DeepEqual(r.Header, want) || upgrades(r) != (test.want == nil) {
			t.Errorf("%s: %v, upgrades %t", name, r.Header, upgrades(r))
		}
	}
}
