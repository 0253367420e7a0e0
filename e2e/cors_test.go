package e2e

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

func TestBrowsersOfAnAllowedOriginMayCallAndReadRefusals(t *testing.T) {
	t.Parallel()
	other := upstreamtest.Start(t, upstreamtest.OpenAI, realKey)
	s := newServer(t, options{upstream: "cors https://app.example.com",
		more: "upstream other openai {\n\tto " + other.URL + "\n\tcredential {env.MOCK_KEY}\n}"})
	id, key := s.mint(object{"max_activations": 1})
	_, foreign := s.mint(object{"max_activations": 1, "upstream": "other"})

	preflight := func(origin string) *http.Response {
		r, err := http.NewRequest("OPTIONS", "http://"+s.addr+"/v1/chat/completions?key="+key, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Method", "POST")
		r.Header.Set("Access-Control-Request-Headers", "authorization,content-type,x-stainless-os")
		r.Header.Set("Sec-Fetch-Mode", "cors")
		res, _ := s.must(r)
		return res
	}
	res := preflight("https://app.example.com")
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin":  "https://app.example.com",
		"Access-Control-Allow-Methods": "POST",
		"Access-Control-Allow-Headers": "authorization,content-type,x-stainless-os",
		"Access-Control-Max-Age":       "600",
		"Till-Refusal":                 "",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("preflight: %s is %q, want %q", name, got, want)
		}
	}
	if res.StatusCode != http.StatusNoContent || res.Header.Get("Access-Control-Allow-Credentials") != "" || !strings.Contains(strings.Join(res.Header["Vary"], ","), "Origin") {
		t.Errorf("preflight: %d %v", res.StatusCode, res.Header)
	}
	if n := s.used(id); n != 0 {
		t.Errorf("a preflight used %d", n)
	}
	if res := preflight("https://evil.example.com"); res.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another origin: %d %v", res.StatusCode, res.Header)
	}
	// The preflight of another origin is a request like any other: it had
	// the key and used it up.
	for name, test := range map[string]struct {
		key, origin, allowed string
		status               int
	}{
		"a refusal to a dead key":       {key, "https://app.example.com", "https://app.example.com", http.StatusPaymentRequired},
		"a refusal to no key":           {"x", "https://app.example.com", "https://app.example.com", http.StatusUnauthorized},
		"another origin":                {key, "https://evil.example.com", "", http.StatusPaymentRequired},
		"the key of another upstream":   {foreign, "https://app.example.com", "", http.StatusOK},
		"no origin":                     {key, "", "", http.StatusPaymentRequired},
		"an origin that is no web page": {key, "null", "", http.StatusPaymentRequired},
	} {
		header := []string{}
		if test.origin != "" {
			header = []string{"Origin", test.origin}
		}
		res, _ := s.must(s.request(context.Background(), test.key, header...))
		if got := res.Header.Get("Access-Control-Allow-Origin"); got != test.allowed || res.StatusCode != test.status {
			t.Errorf("%s: %d, allowed %q, want %d, %q", name, res.StatusCode, got, test.status, test.allowed)
		}
		if exposes := strings.Contains(res.Header.Get("Access-Control-Expose-Headers"), "Till-Activations-Remaining"); exposes != (test.allowed != "") {
			t.Errorf("%s: exposes %q", name, res.Header.Get("Access-Control-Expose-Headers"))
		}
	}
	_, fresh := s.mint(object{"max_activations": 1})
	res, _ = s.must(s.request(context.Background(), fresh, "Origin", "https://app.example.com"))
	if res.StatusCode != http.StatusOK || len(res.Header["Access-Control-Allow-Origin"]) != 1 {
		t.Errorf("an answer: %d %v", res.StatusCode, res.Header)
	}
}

// TestScriptsMayReadWhatTheUpstreamLetsThem beside what till says, as an MCP client
// in a page has to read its session:
// https://modelcontextprotocol.io/specification/2025-06-18/basic/transports#session-management
func TestScriptsMayReadWhatTheUpstreamLetsThem(t *testing.T) {
	t.Parallel()
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Mcp-Session-Id", "1")
		w.Header().Set("Access-Control-Allow-Origin", "https://other.example.com")
		w.Header()["Access-Control-Expose-Headers"] = r.URL.Query()["exposes"]
	}))
	t.Cleanup(there.Close)
	s := newServer(t, options{vendor: upstreamtest.Any, to: there.URL, upstream: "cors https://app.example.com"})
	_, key := s.mint(object{"max_activations": 100})
	for name, test := range map[string]struct {
		origin, query string
		has, hasNot   []string
	}{
		"no list":           {"https://app.example.com", "", []string{"Till-Key", "Mcp-Session-Id", "Link", "Etag"}, []string{"X-Total", "*"}},
		"a list":            {"https://app.example.com", "exposes=X-Total,mcp-session-id&exposes=X-Page", []string{"Till-Key", "Mcp-Session-Id", "X-Total", "X-Page"}, []string{"mcp-session-id", "*"}},
		"all":               {"https://app.example.com", "exposes=*", []string{"Till-Key", "*"}, nil},
		"a foreign page":    {"https://evil.example.com", "exposes=X-Total", nil, []string{"Till-Key", "X-Total"}},
		"no page":           {"", "exposes=X-Total", nil, []string{"Till-Key", "X-Total"}},
		"what are no names": {"https://app.example.com", "exposes=a%3Bb&exposes=X-Total", []string{"Till-Key", "X-Total"}, []string{"a;b"}},
	} {
		r := s.bare("GET", "/mcp?"+test.query, "")
		r.Header.Set("Authorization", "Bearer "+key)
		if test.origin != "" {
			r.Header.Set("Origin", test.origin)
		}
		res, _ := s.must(r)
		exposed := strings.Split(strings.Join(res.Header["Access-Control-Expose-Headers"], "|"), ", ")
		for _, want := range test.has {
			if !slices.Contains(exposed, want) {
				t.Errorf("%s: %q is not in %q", name, want, exposed)
			}
		}
		for _, not := range test.hasNot {
			if slices.Contains(exposed, not) {
				t.Errorf("%s: %q is in %q", name, not, exposed)
			}
		}
		if slices.Contains(res.Header["Access-Control-Allow-Origin"], "https://other.example.com") {
			t.Errorf("%s: %v", name, res.Header)
		}
	}
}
