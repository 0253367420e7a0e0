package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// paged is an upstream that answers in pages, and names its own address in them as
// GitHub's does. A key that is not the real one gets a 401.
func paged(t *testing.T) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	strangers := new(atomic.Int64)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+realKey {
			strangers.Add(1)
			http.Error(w, "a key that is not for this server", http.StatusUnauthorized)
			return
		}
		here := "http://" + r.Host
		switch r.URL.Path {
		case "/repos/o/r/issues":
			w.Header().Set("Link", fmt.Sprintf(`<%s/repositories/1/issues?page=2>; rel="next", <%s/repositories/1/issues?page=2>; rel="last"`, here, here))
			fmt.Fprint(w, `[{"number":1},{"number":2}]`)
		case "/repositories/1/issues":
			w.Header().Set("Link", fmt.Sprintf(`<%s/repositories/1/issues?page=1>; rel="prev"`, here))
			fmt.Fprint(w, `[{"number":3}]`)
		case "/redirect":
			http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
		case "/repeat":
			http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusTemporaryRedirect)
		case "/dav/a", "/dav/b":
			fmt.Fprint(w, r.Header.Get("Destination"), " ", r.Header.Get("If"), " ", r.Header.Get("Origin"))
		case "/mcp":
			fmt.Fprint(w, "mcp itself")
		case "/mcp/":
			http.Redirect(w, r, "/mcp", http.StatusTemporaryRedirect)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(up.Close)
	return up, strangers
}

// TestA401SaysHowToSendAKey tries every place where a key can be missing or wrong.
func TestA401SaysHowToSendAKey(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{upstream: "cors https://app.example.com"})
	for _, test := range []struct {
		path, origin, key string
		challenged        bool
	}{
		{path: "/v1/models", challenged: true},
		{path: "/v1/models", key: "till_sk_garbled", challenged: true},
		{path: "/v1/models", key: "sk-of-somebody", challenged: true},
		{path: "/till/self", challenged: true},
		{path: "/v1/models", origin: "https://other.example.com"},
		{path: "/v1/models", origin: "https://app.example.com"}, // its browser would ask people
		{path: "/till/self", origin: "https://app.example.com", key: "till_sk_garbled"},
	} {
		r, err := http.NewRequest("GET", "http://"+s.addr+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.key != "" {
			r.Header.Set("Authorization", "Bearer "+test.key)
		}
		if test.origin != "" {
			r.Header.Set("Origin", test.origin)
		}
		res, body := s.must(r)
		want := ""
		if test.challenged {
			want = `Basic realm="till", Bearer`
		}
		if got := res.Header.Get("WWW-Authenticate"); res.StatusCode != 401 || got != want {
			t.Errorf("%+v: %d %q %s", test, res.StatusCode, got, body)
		}
	}
	_, key := s.mint(object{"max_activations": 0})
	r, err := http.NewRequest("GET", "http://"+s.addr+"/v1/files", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	if res, _ := s.must(r); res.StatusCode == 401 || res.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("a dead key: %d %v", res.StatusCode, res.Header)
	}
}

// TestCurlLogsInWhenItIsAsked has a client that sends nothing before it is asked.
func TestCurlLogsInWhenItIsAsked(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("there is no curl here")
	}
	up, _ := paged(t)
	s := newServer(t, options{vendor: upstreamtest.Any, to: up.URL})
	_, key := s.mint(object{"max_activations": 10})
	cmd := exec.Command(curl, "-sS", "--anyauth", "-u", "x:"+key, "http://"+s.addr+"/repos/o/r/issues")
	endWithTests(cmd)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), `"number":2`) {
		t.Errorf("%v %s", err, out)
	}
}

func TestPagesAreFollowedThroughTheServer(t *testing.T) {
	t.Parallel()
	up, strangers := paged(t)
	s := newServer(t, options{vendor: upstreamtest.Any, to: up.URL})
	id, key := s.mint(object{"max_activations": 10})
	next := regexp.MustCompile(`<([^>]*)>; rel="next"`)
	for _, first := range []string{"/repos/o/r/issues", "/proxy/mock/repos/o/r/issues"} {
		var all strings.Builder
		for address := "http://" + s.addr + first; address != ""; {
			if !strings.HasPrefix(address, "http://"+s.addr+"/") {
				t.Fatalf("the next page is at %s", address)
			}
			r, err := http.NewRequest("GET", address, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+key)
			res, body := s.must(r)
			all.WriteString(body)
			address = ""
			if m := next.FindStringSubmatch(res.Header.Get("Link")); m != nil {
				address = m[1]
			}
		}
		if all.String() != `[{"number":1},{"number":2}][{"number":3}]` {
			t.Errorf("%s: %s", first, all.String())
		}
	}
	if n := strangers.Load(); n != 0 {
		t.Errorf("the upstream got %d scoped keys", n)
	}
	if n := s.used(id); n != 4 {
		t.Errorf("used %d, want 4", n)
	}
}

func TestARedirectCostsWhatItsRequestDoes(t *testing.T) {
	t.Parallel()
	up, _ := paged(t)
	s := newServer(t, options{vendor: upstreamtest.Any, to: up.URL, upstream: "redirects pass 127.0.0.1:9 *.files.example.com"})
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	id, key := s.mint(object{"max_activations": 100})
	for _, test := range []struct {
		method, path, to string
		status           int
		location, says   string
	}{
		{"GET", "/redirect", "https://a.files.example.com/x?sig=1", 302, "https://a.files.example.com/x?sig=1", ""},
		{"GET", "/redirect", "http://127.0.0.1:9/x", 302, "http://127.0.0.1:9/x", ""},
		{"GET", "/redirect", "https://a.files.example.com/x?k=" + realKey, 502, "", "shows the credential"},
		{"GET", "/redirect", "https://b.a.files.example.com/x", 502, "", "redirects pass b.a.files.example.com"},
		{"HEAD", "/redirect", "https://other.example.com/x", 502, "", ""},
		{"POST", "/redirect", "https://other.example.com/x", 502, "", "redirects pass other.example.com"},
		{"POST", "/repeat", "https://other.example.com/x", 502, "", "redirects pass other.example.com"},
		{"GET", "/redirect", "/there?x=1", 302, "/there?x=1", ""},
	} {
		before := s.used(id)
		r, err := http.NewRequest(test.method, "http://"+s.addr+test.path+"?to="+strings.NewReplacer("?", "%3F", "=", "%3D").Replace(test.to), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		res, body := s.must(r)
		if res.StatusCode != test.status || res.Header.Get("Location") != test.location || !strings.Contains(body, test.says) || strings.Contains(body, realKey) {
			t.Errorf("%s %s: %d %q %s", test.method, test.to, res.StatusCode, res.Header.Get("Location"), body)
		}
		if cost := s.used(id) - before; cost != 1 {
			t.Errorf("%s %s cost %d activations", test.method, test.to, cost)
		}
	}
}

// TestRedirectsOfAllSortsAreForwardedNTimes: a client that chooses where an upstream
// redirects to, and may create child keys, gets no request for free.
func TestRedirectsOfAllSortsAreForwardedNTimes(t *testing.T) {
	t.Parallel()
	const n = 12
	var forwarded atomic.Int64
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "https://other.example.com/")
		w.WriteHeader([]int{301, 302, 303, 307, 308}[forwarded.Add(1)%5])
	}))
	t.Cleanup(up.Close)
	s := newServer(t, options{vendor: upstreamtest.Any, to: up.URL})
	_, key := s.mint(object{"max_activations": n, "delegate": true})
	ask := func(method, path, key string) int {
		r, err := http.NewRequest(method, "http://"+s.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		res, _ := s.must(r)
		return res.StatusCode
	}
	for range 3 {
		_, child := s.child(key, object{"max_activations": 2})
		for range 4 {
			ask("GET", "/x", child)
		}
		ask("DELETE", "/till/self", child)
	}
	for i := 0; ; i++ {
		if status := ask([]string{"GET", "HEAD", "POST"}[i%3], "/x", key); status == http.StatusPaymentRequired {
			break
		} else if status != http.StatusBadGateway || i > n {
			t.Fatalf("%d after %d, when %d were forwarded", status, i, forwarded.Load())
		}
	}
	if got := forwarded.Load(); got != n-3 { // making a key below costs one
		t.Errorf("%d requests were forwarded for %d activations", got, n)
	}
}

// TestPagesOfOtherSitesDoNotUseWhatABrowserRemembers: a browser sends a key that a
// person typed in with every request that a page of another site triggers.
func TestPagesOfOtherSitesDoNotUseWhatABrowserRemembers(t *testing.T) {
	t.Parallel()
	public := upstreamtest.Start(t, upstreamtest.OpenAI, realKey)
	s := newServer(t, options{upstream: "cors https://app.example.com",
		site: "@any query site=any\n\theader @any Access-Control-Allow-Origin *\n\t@each query site=each\n\theader @each Access-Control-Allow-Origin {header.Origin}",
		more: "upstream public openai {\n\tto " + public.URL + "\n\tcredential {env.MOCK_KEY}\n\tcors *\n}"})
	id, key := s.mint(object{"max_activations": 100})
	publicID, publicKey := s.mint(object{"max_activations": 100, "upstream": "public"})
	remembered := func(key string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+key)) }
	basic, publicBasic := remembered(key), remembered(publicKey)
	for _, test := range []struct {
		method, site, mode, origin, auth string
		status                           int
		asked                            bool // that the browser asks people
	}{
		{"POST", "cross-site", "no-cors", "https://evil.example.com", basic, 400, false},
		{"POST", "cross-site", "navigate", "https://evil.example.com", basic, 400, false}, // a form
		{"POST", "cross-site", "cors", "https://evil.example.com", basic, 400, false},
		{"POST", "same-site", "cors", "https://evil.example.com", basic, 400, false},
		{"GET", "cross-site", "no-cors", "", basic, 400, false},   // a picture
		{"GET", "cross-site", "websocket", "", basic, 400, false}, //
		{"GET", "cross-site", "no-cors", "", "", 401, false},
		{"GET", "cross-site", "navigate", "", "", 401, true}, // a link that somebody follows
		{"GET", "none", "navigate", "", "", 401, true},
		{"GET", "same-origin", "cors", "", "", 401, true},
		{"POST", "cross-site", "cors", "https://app.example.com", basic, 200, false},
		{"POST", "cross-site", "cors", "https://app.example.com", "Bearer " + key, 200, false},
		{"POST", "same-origin", "cors", "", basic, 200, false},
		{"POST", "none", "navigate", "", basic, 200, false},
		{"POST", "", "", "", basic, 200, false}, // no browser
		// Without TLS a browser sends no Sec-Fetch-Site, except to its own machine.
		{"POST", "", "", "https://evil.example.com", basic, 400, false},
		{"POST", "", "", "null", basic, 400, false}, // a form whose page sends no referrer
		{"POST", "", "", "http://" + s.addr + ".evil.example.com", basic, 400, false},
		{"POST", "", "", "https://evil.example.com", "", 401, false},
		{"POST", "", "", "https://app.example.com", basic, 200, false},
		{"POST", "", "", "http://" + s.addr, basic, 200, false},
		{"POST", "", "", "https://evil.example.com", "Bearer " + key, 200, false}, // an agent in a page of its own
		{"POST", "", "", "null", "Bearer " + key, 200, false},
		// What the key's own upstream says of a page counts, and "*" names nobody.
		{"POST", "cross-site", "cors", "https://evil.example.com", publicBasic, 400, false},
		{"POST", "cross-site", "cors", "https://app.example.com", publicBasic, 400, false},
		{"POST", "cross-site", "cors", "https://evil.example.com", "Bearer " + publicKey, 200, false},
		{"POST", "same-origin", "cors", "", publicBasic, 200, false},
	} {
		before := s.used(id) + s.used(publicID)
		r, err := http.NewRequest(test.method, "http://"+s.addr+"/v1/chat/completions", strings.NewReader(`{"model":"gpt-4o","messages":[]}`))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"Sec-Fetch-Site": test.site, "Sec-Fetch-Mode": test.mode, "Origin": test.origin, "Authorization": test.auth} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		r.Header.Set("Content-Type", "application/json")
		res, body := s.must(r)
		if res.StatusCode != test.status || (res.Header.Get("WWW-Authenticate") != "") != test.asked {
			t.Errorf("%+v: %d %v %s", test, res.StatusCode, res.Header, body)
		}
		if spent := s.used(id) + s.used(publicID) - before; spent != 0 && test.status != 200 {
			t.Errorf("%+v: it cost %d", test, spent)
		}
	}
	// A header that the operator sets for the whole site lets pages read answers.
	for _, site := range []string{"any", "each"} {
		r := s.request(t.Context(), key, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Origin", "https://evil.example.com")
		r.URL.RawQuery = "site=" + site
		r.Header.Set("Authorization", basic)
		if res, body := s.must(r); res.StatusCode != 400 || res.Header.Get("Access-Control-Allow-Origin") == "" {
			t.Errorf("%s: %d %v %s", site, res.StatusCode, res.Header, body)
		}
	}
}

// TestADestinationIsTheUpstreamsOwn moves something as WebDAV clients do.
func TestADestinationIsTheUpstreamsOwn(t *testing.T) {
	t.Parallel()
	up, _ := paged(t)
	s := newServer(t, options{vendor: upstreamtest.Any, to: up.URL + "/dav"})
	_, key := s.mint(object{"max_activations": 10})
	_, scoped := s.mint(object{"max_activations": 10, "paths": []string{"/a", "/proxy/mock/a"}})
	here := "http://" + s.addr
	for _, test := range []struct {
		key, path, destination string
		status                 int
		want                   string
	}{
		{key, "/a", here + "/b", 200, up.URL + "/dav/b <" + up.URL + "/dav/b> (<urn:x>) " + up.URL},
		{key, "/proxy/mock/a", here + "/proxy/mock/b", 200, up.URL + "/dav/b "},
		{key, "/a", "/b", 200, up.URL + "/dav/b "},
		{scoped, "/a", here + "/b", 403, "may not use path /b as a destination"},
		{scoped, "/a", up.URL + "/dav/b", 403, "may not use path /b as a destination"},
		{scoped, "/a", here + "/a", 200, up.URL + "/dav/a "},
		// Who was given https://KEY@…, as rclone is, names it with the key.
		{scoped, "/a", "http://x:" + scoped + "@" + s.addr + "/a", 200, up.URL + "/dav/a "},
		{scoped, "/a", "http://x:" + scoped + "@" + s.addr + "/b", 403, "may not use path /b as a destination"},
		{key, "/a", "http://" + key + "@other.example.com/b", 400, "it holds a key"},
	} {
		r, err := http.NewRequest("MOVE", here+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+test.key)
		r.Header.Set("Destination", test.destination)
		r.Header.Set("If", "<"+here+"/b> (<urn:x>)")
		r.Header.Set("Origin", here)
		if res, body := s.must(r); res.StatusCode != test.status || !strings.Contains(body, test.want) {
			t.Errorf("%s to %s: %d %s, want %q", test.path, test.destination, res.StatusCode, body, test.want)
		}
	}
}

func TestAnAddressWithAPathIsReachedAtThatPath(t *testing.T) {
	t.Parallel()
	up, _ := paged(t)
	for _, test := range []struct {
		base, path string
		status     int
		want       string
	}{
		{"/mcp", "/", 200, "mcp itself"},
		{"/mcp", "/proxy/mock", 200, "mcp itself"},
		{"/mcp", "/proxy/mock/", 200, "mcp itself"},
		{"/mcp/", "/", 502, "may change that to " + up.URL + "/mcp"},
	} {
		s := newServer(t, options{vendor: upstreamtest.Any, to: up.URL + test.base})
		_, key := s.mint(object{"max_activations": 10})
		r, err := http.NewRequest("POST", "http://"+s.addr+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		if res, body := s.must(r); res.StatusCode != test.status || !strings.Contains(body, test.want) {
			t.Errorf("%s at %s: %d %s", test.path, test.base, res.StatusCode, body)
		}
	}
}
