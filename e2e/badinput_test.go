package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// newConnections has each request come on a connection of its own. One that an
// upstream is about to close without having said so may be taken for the next request,
// which then gets no answer, and is never sent twice.
const newConnections = "transport http {\n\tkeepalive off\n}"

// rogue is an upstream that answers a path with bytes, whatever they are, and then
// closes the connection, so that it needs newConnections. A path that is not in the
// table hangs until the other side goes.
func rogue(t *testing.T, answers map[string]string) string {
	t.Helper()
	return "http://" + rogueTCP(t, func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		answer, ok := answers[r.URL.Path]
		if !ok {
			_, _ = io.Copy(io.Discard, conn) // until the other side goes
			return
		}
		_, _ = io.WriteString(conn, answer)
	})
}

func TestAnUpstreamThatMisbehavesCostsOneActivationAndAClearError(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
	type row struct {
		answer string
		status int
		code   string
		body   string                                   // what the client gets, at least
		also   func(*testing.T, string, *http.Response) // what else holds
	}
	without := func(names ...string) func(*testing.T, string, *http.Response) {
		return func(t *testing.T, path string, res *http.Response) {
			for _, name := range names {
				if v := res.Header.Get(name); v != "" {
					t.Errorf("%s: the client got %s: %s", path, name, v)
				}
			}
		}
	}
	rows := map[string]row{
		"/good":         {answer: ok, status: 200, body: "ok"},
		"/rubbish":      {answer: "SSH-2.0-OpenSSH_9.6\r\n\r\n", status: 502, code: "till_upstream_failed"},
		"/binary":       {answer: "\x16\x03\x01\x00\xff\xfe", status: 502, code: "till_upstream_failed"},
		"/nothing":      {answer: "", status: 502, code: "till_upstream_failed"},
		"/half-a-head":  {answer: "HTTP/1.1 200 OK\r\nContent-Le", status: 502, code: "till_upstream_failed"},
		"/huge-head":    {answer: "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 12<<20) + "\r\n\r\n", status: 502, code: "till_upstream_failed"},
		"/odd-status":   {answer: "HTTP/1.1 abc OK\r\n\r\n", status: 502, code: "till_upstream_failed"},
		"/two-lengths":  {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", status: 502, code: "till_upstream_failed"},
		"/cut":          {answer: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", status: 200, body: "half"},
		"/bad-chunk":    {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", status: 200, body: "half"},
		"/too-much":     {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more", status: 200, body: "ok"},
		"/cut-error":    {answer: "HTTP/1.1 400 Bad\r\nContent-Length: 100\r\n\r\nhalf", status: 502, code: "till_upstream_failed"},
		"/away":         {answer: "HTTP/1.1 302 Found\r\nLocation: https://evil.example.com/\r\nContent-Length: 0\r\n\r\n", status: 502, code: "till_upstream_failed", also: without("Location")},
		"/away-briefly": {answer: "HTTP/1.1 307 T\r\nLocation: //evil.example.com/\r\nContent-Length: 0\r\n\r\n", status: 502, code: "till_upstream_failed", also: without("Location")},
		"/script":       {answer: "HTTP/1.1 302 Found\r\nLocation: javascript:alert(1)\r\nContent-Length: 0\r\n\r\n", status: 502, code: "till_upstream_failed", also: without("Location")},
		"/here":         {answer: "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", status: 302},
		"/early":        {answer: "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ok, status: 200, body: "ok", also: without("Link")},
		"/switch":       {answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", status: 502, code: "till_upstream_failed"},
		"/unauthorized": {answer: "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", status: 502, code: "till_upstream_auth_failed", also: without("WWW-Authenticate")},
		"/payment":      {answer: "HTTP/1.1 402 Pay\r\nContent-Length: 2\r\n\r\n{}", status: 402, body: "{}", also: without("Till-Refusal")},
		"/pretends":     {answer: "HTTP/1.1 200 OK\r\nTill-Key: key_x\r\nTill-Refusal: till_key_revoked\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok", also: without("Set-Cookie", "Till-Refusal")},
	}
	answers := make(map[string]string)
	for path, row := range rows {
		answers[path] = row.answer
	}
	s := newServer(t, options{vendor: upstreamtest.Any, to: rogue(t, answers), upstream: newConnections})
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	id, key := s.mint(object{"max_activations": 100})
	used := int64(0)
	for path, row := range rows {
		r := s.bare("GET", path, "")
		r.Header.Set("Authorization", "Bearer "+key)
		res, body := s.must(r)
		if code := res.Header.Get("Till-Refusal"); res.StatusCode != row.status || code != row.code || !strings.HasPrefix(body, row.body) {
			t.Errorf("%s: %d %q %.200s, want %d %q %s", path, res.StatusCode, code, body, row.status, row.code, row.body)
		}
		if row.code != "" && !strings.Contains(body, `"code":"`+row.code+`"`) {
			t.Errorf("%s: no error in the dialect: %.200s", path, body)
		}
		if row.also != nil {
			row.also(t, path, res)
		}
		if used++; s.used(id) != used {
			t.Errorf("%s: used %d, want %d", path, s.used(id), used)
			used = s.used(id)
		}
	}
	if strings.Contains(s.output(), "panic") {
		t.Errorf("a panic:\n%s", s.output())
	}
}

func TestBadRequestsAreRefusedClearlyAndTakeNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{vendor: upstreamtest.Any, site: "request_body {\n\tmax_size 1MB\n}"})
	id, key := s.mint(object{"max_activations": 100})
	begin := "POST /x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nConnection: close\r\n"
	for name, test := range map[string]struct {
		request string
		status  int
		code    string
	}{
		"a header of 10 MB":               {begin + "X-A: " + strings.Repeat("a", 10<<20) + "\r\n\r\n", 431, ""},
		"a key of 10 kB":                  {"GET /x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer till_sk_" + strings.Repeat("a", 10<<10) + "\r\n\r\n", 401, "till_key_invalid"},
		"1,000 headers":                   {begin + strings.Repeat("X-A: b\r\n", 1000) + "Authorization: x\r\n\r\n", 401, "till_key_invalid"},
		"a body that is announced longer": {begin + "Content-Length: 2000000\r\n\r\n", 413, ""}, // Caddy's request_body says so,
		"a chunk that is none":            {begin + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "till_bad_request"},
	} {
		status, code, err := s.raw(test.request)
		if err != nil || status != test.status || code != test.code {
			t.Errorf("%s: %d %q (%v), want %d %q", name, status, code, err, test.status, test.code)
		}
	}
	// Chunks beyond the cap, from a client that would go on for ever.
	r := s.bare("POST", "/x", "")
	r.Header.Set("Authorization", "Bearer "+key)
	r.Body, r.ContentLength = io.NopCloser(&endless{}), -1
	if res, err := s.client.Do(r); err == nil {
		if res.StatusCode != http.StatusRequestEntityTooLarge || res.Header.Get("Till-Refusal") != "till_body_too_large" {
			t.Errorf("endless chunks: %d %v", res.StatusCode, res.Header)
		}
		res.Body.Close()
	}
	// A client that goes in the middle of its body.
	conn := s.dial()
	fmt.Fprint(conn, begin+"Content-Length: 100\r\n\r\nhalf")
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	// Of the three that broke off in their body some may have left for the
	// upstream; each counts once at most.
	if n := s.used(id); n > 3 {
		t.Errorf("used %d, want at most 3", n)
	}
	fresh, another := s.mint(object{"max_activations": 1})
	const wrong = `{"JSON that is none is not till's concern`
	res, _ := s.must(s.post(another, "/x", wrong, "Content-Type", "text/plain"))
	if res.StatusCode != http.StatusOK || s.used(fresh) != 1 || string(s.upstream.Last().Body) != wrong {
		t.Errorf("after all that: %d, used %d", res.StatusCode, s.used(fresh))
	}
	if strings.Contains(s.output(), "panic") {
		t.Errorf("a panic:\n%s", s.output())
	}
}

func TestAClientThatGivesUpOnAnUpstreamThatHangsPaysOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{vendor: upstreamtest.Any})
	id, key := s.mint(object{"max_activations": 3})
	for i := range int64(3) {
		conn := s.dial()
		fmt.Fprintf(conn, "GET /x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s: hang\r\n\r\n", key, upstreamtest.HeaderFail)
		s.eventually("the request is at the upstream", func() bool { return s.upstream.Count() == i+1 })
		conn.Close()
		if n := s.used(id); n != i+1 {
			t.Errorf("used %d, want %d", n, i+1)
		}
	}
	if n := s.used(id); n != 3 {
		t.Errorf("used %d, want 3: what may have left is spent", n)
	}
	s.refuses("the next", key, http.StatusPaymentRequired, "till_activations_exhausted")
}
