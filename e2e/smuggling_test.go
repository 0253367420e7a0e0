package e2e

import (
	"bufio"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// In these bytes {key} is a live key, {other} another one of the same
// upstream; see filled.
const (
	rest = " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
	old  = " HTTP/1.0\r\n\r\n" // without a header
	post = "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
)

var slotTricks = []trick{
	// Paths.
	{"above the root", "GET /.." + rest, 400, "till_bad_request", ""},
	{"a parent segment at the end", "GET /v1/x/.." + rest, 400, "till_bad_request", ""},
	{"the segment itself at the end, encoded", "GET /v1/x/%2E" + rest, 400, "till_bad_request", ""},
	{"a parent segment with an encoded slash", "GET /v1/%2e%2e%2ffiles" + rest, 400, "till_bad_request", ""},
	{"a parent segment with an encoded backslash", "GET /v1/x%5c..%5cfiles" + rest, 400, "till_bad_request", ""},
	{"a parent segment with a NUL", "GET /v1/x/..%00/files" + rest, 400, "till_bad_request", ""},
	{"a parent segment behind a parameter", "GET /v1/x;/../files" + rest, 400, "till_bad_request", ""},
	{"a parent segment, its parameter encoded", "GET /v1/x/..%3ba/files" + rest, 400, "till_bad_request", ""},
	{"nothing but a parameter", "GET /v1/;a/files" + rest, 400, "till_bad_request", ""},
	{"a tab", "GET /v1/x%09" + rest, 400, "till_bad_request", ""},
	{"a control of Unicode's", "GET /v1/x%c2%85" + rest, 400, "till_bad_request", ""},
	{"three slashes", "GET ///v1/x" + rest, 200, "", "/v1/x"},
	{"files after three slashes", "GET ///v1/files" + rest, 403, "till_path_not_allowed", ""},
	{"a parent segment after two slashes", "GET //../v1/x" + rest, 400, "till_bad_request", ""},
	{"slashes at the end", "GET /v1/x//" + rest, 400, "till_bad_request", ""},
	{"a parent segment in the query", "GET /v1/x?a=/../files" + rest, 200, "", "/v1/x"},
	{"a line end in the query", "GET /v1/x?a=%0d%0aX-Api-Key:%20y" + rest, 200, "", "/v1/x"},
	{"files, everything escaped", "GET /v1/%66%69%6c%65%73" + rest, 403, "till_path_not_allowed", ""},
	{"files, escaped capitals", "GET /v1/%46ILES" + rest, 403, "till_path_not_allowed", ""},
	{"files with a query", "GET /v1/files?a" + rest, 403, "till_path_not_allowed", ""},
	{"one file", "DELETE /v1/files/file-1" + rest, 403, "till_path_not_allowed", ""},
	{"one file, by a method in small letters", "delete /v1/files/file-1" + rest, 403, "till_path_not_allowed", ""},
	{"files of another host", "GET http://evil.example.com/v1/files" + rest, 403, "till_path_not_allowed", ""},
	{"files behind /proxy", "GET /proxy/p/files" + rest, 403, "till_path_not_allowed", ""},
	{"files behind /proxy with the version twice", "GET /proxy/p/v1/v1/Files" + rest, 403, "till_path_not_allowed", ""},
	{"out of /proxy", "GET /proxy/p/../mock/v1/x" + rest, 400, "till_bad_request", ""},
	{"/proxy without a name", "GET /proxy/" + rest, 403, "till_wrong_upstream", ""},
	{"/proxy with an empty name", "GET /proxy//v1/x" + rest, 400, "till_bad_request", ""},
	{"/proxy with a name in capitals", "GET /proxy/P/v1/x" + rest, 403, "till_wrong_upstream", ""},
	{"/proxy with a parameter", "GET /proxy/p;a/v1/x" + rest, 403, "till_wrong_upstream", ""},
	{"/proxy and another upstream alone", "GET /proxy/mock" + rest, 403, "till_wrong_upstream", ""},
	{"/PROXY", "GET /PROXY/mock/v1/x" + rest, 200, "", "/v1/PROXY/mock/v1/x"},
	{"/proxy alone", "GET /proxy" + rest, 200, "", "/v1/proxy"},
	{"till behind /proxy", "GET /proxy/p/till/self" + rest, 200, "", "/v1/till/self"},
	{"till alone", "GET /till" + rest, 404, "till_path_not_allowed", ""},
	{"till's management", "GET /till/keys" + rest, 404, "till_path_not_allowed", ""},
	{"till, escaped", "GET /%74ill/keys" + rest, 404, "till_path_not_allowed", ""},
	{"till's answer, with a slash", "GET /till/self/" + rest, 404, "till_path_not_allowed", ""},
	{"till's answer, by POST", "POST /till/self" + rest, 405, "till_method_not_allowed", ""},

	// Targets.
	{"another host and a parent segment", "GET http://evil.example.com/v1/../x" + rest, 400, "till_bad_request", ""},
	{"another host and no path", "GET http://evil.example.com" + rest, 400, "till_bad_request", ""},
	{"another host with a user", "GET http://{other}:x@evil.example.com/v1/x" + rest, 200, "", "/v1/x"},
	{"another scheme", "GET ftp://evil.example.com/v1/x" + rest, 200, "", "/v1/x"},
	{"no path at all", "GET mailto:x" + rest, 400, "till_bad_request", ""},
	{"no slash", "GET v1/x" + rest, 400, "", ""},
	{"a star", "GET *" + rest, 400, "till_bad_request", ""},
	{"another host after two slashes", "GET //evil.example.com/v1/x" + rest, 200, "", "/v1/evil.example.com/v1/x"},

	// Parameters that stand for another method or path.
	{"another method", "GET /v1/x?_method=DELETE" + rest, 400, "till_bad_request", ""},
	{"another method behind a semicolon, in capitals, escaped", "GET /v1/x?a=b;%5FMethod=DELETE" + rest, 400, "till_bad_request", ""},
	{"another path, as PHP reads it", "GET /v1/x?a&+rest.route=/v1/files" + rest, 400, "till_bad_request", ""},
	{"another method at Salesforce", "POST /v1/x?_HttpMethod=PATCH" + rest, 400, "till_bad_request", ""},
	{"another method at Google", "GET /v1/x?%24httpMethod=DELETE" + rest, 400, "till_bad_request", ""},
	{"headers at Google", "GET /v1/x?%24httpHeaders=X-HTTP-Method-Override%3ADELETE%0D%0A" + rest, 400, "till_bad_request", ""},
	{"another type of the body at Google", "POST /v1/x?$ct=text/plain" + rest, 400, "till_bad_request", ""},
	{"another method at till's own path", "GET /till/self?_method=DELETE" + rest, 200, "", ""},
	{"a parameter that only begins so", "GET /v1/x?_methods=a&b=_method" + rest, 200, "", "/v1/x"},

	// Methods.
	{"OPTIONS", "OPTIONS /v1/x" + rest, 200, "", "/v1/x"},
	{"OPTIONS without a key", "OPTIONS /v1/x" + old, 401, "till_key_missing", ""},
	{"HEAD", "HEAD /v1/x" + rest, 200, "", "/v1/x"},
	{"a method of its own", "FROB /v1/x" + rest, 200, "", "/v1/x"},
	{"a method that is none", "G@T /v1/x" + rest, 400, "", ""},
	{"CONNECT to a path", "CONNECT /v1/x" + rest, 403, "till_method_not_allowed", ""},
	{"CONNECT with a pseudo-header", "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n:protocol: websocket\r\nAuthorization: Bearer {key}\r\n\r\n", 400, "", ""},
	{"connect in small letters", "connect evil.example.com:443" + rest, 403, "till_method_not_allowed", ""},

	// Where keys are.
	{"?KEY", "GET /v1/x?KEY={key}" + old, 200, "", "/v1/x"},
	{"?key with sk-", "GET /v1/x?key=sk-{key}" + old, 200, "", "/v1/x"},
	{"?key twice, two keys", "GET /v1/x?key={key}&key={other}" + old, 401, "till_key_invalid", ""},
	{"?key and ?KEY, two keys", "GET /v1/x?key={key}&KEY={other}" + old, 401, "till_key_invalid", ""},
	{"?key encoded twice", "GET /v1/x?key={twice}" + old, 401, "till_key_missing", ""},
	{"?key[]", "GET /v1/x?key[]={key}" + old, 401, "till_key_missing", ""},
	{"?key with more", "GET /v1/x?key={key}x" + old, 401, "till_key_invalid", ""},
	{"?key that is foreign", "GET /v1/x?key=AIzaForeign" + old, 401, "till_key_missing", ""},
	{"?key that is empty, beside a key", "GET /v1/x?key=" + rest, 200, "", "/v1/x"},
	{"api-key", line + "Api-Key: {key}\r\n\r\n", 200, "", "/v1/x"},
	{"x-goog-api-key in odd case", line + "x-GOOG-api-KEY: {key}\r\n\r\n", 200, "", "/v1/x"},
	{"x-api-key twice, one key", line + "X-Api-Key: {key}\r\nX-Api-Key: {key}\r\n\r\n", 200, "", "/v1/x"},
	{"x-api-key twice, two keys", line + "X-Api-Key: {key}\r\nX-Api-Key: {other}\r\n\r\n", 401, "till_key_invalid", ""},
	{"x-api-key with a comma", line + "X-Api-Key: {key}, {other}\r\n\r\n", 401, "till_key_invalid", ""},
	{"every place at once", "GET /v1/x?key={key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\nX-Api-Key: {key}\r\nApi-Key: {key}\r\nX-Goog-Api-Key: sk-{key}\r\nSec-WebSocket-Protocol: openai-insecure-api-key.{key}\r\n\r\n", 200, "", "/v1/x"},
	{"Basic, as the password", line + "Authorization: Basic {password}\r\n\r\n", 200, "", "/v1/x"},
	{"Basic in small letters", line + "Authorization: basic {password}\r\n\r\n", 200, "", "/v1/x"},
	{"Basic with two keys", line + "Authorization: Basic {both}\r\n\r\n", 401, "till_key_invalid", ""},
	{"Basic with nothing", line + "Authorization: Basic \r\n\r\n", 401, "till_key_missing", ""},
	{"a header that is empty beside a key", line + "Authorization:\r\nAuthorization: Bearer {key}\r\n\r\n", 401, "till_key_invalid", ""},
	{"a key in capitals", line + "Authorization: Bearer {capitals}\r\n\r\n", 401, "till_key_invalid", ""},
	{"a key in quotes", line + "Authorization: Bearer \"{key}\"\r\n\r\n", 401, "till_key_missing", ""},
	{"a key and a word", line + "Authorization: Bearer {key} x\r\n\r\n", 401, "till_key_invalid", ""},
	{"spaces and tabs around", line + "Authorization: \t Bearer \t {key} \t \r\n\r\n", 200, "", "/v1/x"},
	{"a header's name in odd case", line + "aUTHORIZATION: Bearer {key}\r\n\r\n", 200, "", "/v1/x"},
	{"a NUL in a header", line + "Authorization: Bearer {key}\x00\r\n\r\n", 400, "", ""},
	{"a key beside one for the proxy", line + "Authorization: Bearer {key}\r\nProxy-Authorization: Bearer {other}\r\n\r\n", 200, "", "/v1/x"},
	{"a subprotocol", line + "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{key}\r\n\r\n", 200, "", "/v1/x"},
	{"two subprotocols, two keys", line + "Sec-WebSocket-Protocol: openai-insecure-api-key.{key}, openai-insecure-api-key.{other}\r\n\r\n", 401, "till_key_invalid", ""},
	{"two keys, one hop by hop", line + "Authorization: Bearer {key}\r\nX-Api-Key: {other}\r\nConnection: x-api-key\r\n\r\n", 401, "till_key_invalid", ""},

	// Hosts and versions.
	{"another host", "GET /v1/x HTTP/1.1\r\nHost: evil.example.com:99\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n", 200, "", "/v1/x"},
	{"an empty host", "GET /v1/x HTTP/1.1\r\nHost:\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n", 400, "", ""},
	{"a key as the host", "GET /v1/x HTTP/1.1\r\nHost: {other}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n", 200, "", "/v1/x"},
	{"a space in the host", "GET /v1/x HTTP/1.1\r\nHost: a b\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n", 400, "", ""},
	{"HTTP/9.9", "GET /v1/x HTTP/9.9\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n", 505, "", ""},
	{"a path of 200 kB", "GET /v1/" + strings.Repeat("x", 200<<10) + rest, 431, "", ""},

	// Lengths and codings.
	{"a length with a sign", post + "Content-Length: +2\r\n\r\n{}", 400, "", ""},
	{"a length in hex", post + "Content-Length: 0x2\r\n\r\n{}", 400, "", ""},
	{"two lengths after a comma", post + "Content-Length: 2, 3\r\n\r\n{}", 400, "", ""},
	{"a length beyond all numbers", post + "Content-Length: 99999999999999999999\r\n\r\n{}", 400, "", ""},
	{"chunked twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, "", ""},
	{"chunked and another coding", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "", ""},
	{"identity", post + "Transfer-Encoding: identity\r\n\r\n", 501, "", ""},
	{"a coding, a space before the colon", post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, "", ""},
	{"a coding with a vertical tab", post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, "", ""},
	{"CHUNKED", post + "Connection: close\r\nTransfer-Encoding: CHUNKED\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200, "", "/v1/x"},
	{"chunk extensions", post + "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0;c\r\n\r\n", 200, "", "/v1/x"},
	{"what goes with trailers", post + "Connection: close\r\nTE: trailers\r\nContent-Length: 2\r\n\r\n{}", 200, "", "/v1/x"},
	{"lines without CR", strings.ReplaceAll("GET /v1/x"+rest, "\r", ""), 200, "", "/v1/x"},
}

// filled writes keys into the bytes of a trick.
func filled(key, other string) *strings.Replacer {
	basic := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	flipped := key[:20] + map[bool]string{true: "b", false: "a"}[key[20] == 'a'] + key[21:]
	return strings.NewReplacer("{key}", key, "{other}", other, "{cut}", key[:len(key)-1], "{flipped}", flipped, "{escaped}", strings.Replace(key, "_", "%5F", 1),
		"{basic}", basic(key+":"), "{password}", basic("x:"+key), "{both}", basic(key+":"+other),
		"{capitals}", key[:len("till_sk_")]+strings.ToUpper(key[len("till_sk_"):]), "{twice}", strings.ReplaceAll(key, "_", "%255F"))
}

func TestNoTrickWithSlotsTargetsAndLengthsGetsPast(t *testing.T) {
	t.Parallel()
	playTricks(t, slotTricks)
}

// TestDeniedPathsStayDeniedHoweverTheyAreWritten is about servers that decode
// twice, that drop what follows a semicolon, or that read methods in any case.
func TestDeniedPathsStayDeniedHoweverTheyAreWritten(t *testing.T) {
	t.Parallel()
	playTricks(t, []trick{
		{"as it should be", "GET /v1/x" + rest, 200, "", "/v1/x"},
		{"a parent segment, encoded twice digit by digit", "GET /v1/chat/%25%32%65%25%32%65/files" + rest, 400, "till_bad_request", ""},
		{"a slash, encoded twice digit by digit", "GET /v1%25%32%66files" + rest, 400, "till_bad_request", ""},
		{"a parent segment, encoded twice by half", "GET /v1/chat/%252%65%252%65/files" + rest, 400, "till_bad_request", ""},
		{"files with a parameter", "GET /v1/files;a=b" + rest, 403, "till_path_not_allowed", ""},
		{"the account with a parameter", "GET /v1/organization;a/users" + rest, 403, "till_path_not_allowed", ""},
		{"trace in small letters", "trace /v1/x" + rest, 403, "till_method_not_allowed", ""},
		{"connect in small letters", "connect /v1/x" + rest, 403, "till_method_not_allowed", ""},
	})
}

// playTricks sends each and checks what became of it, and that nothing was
// taken but for what the upstream saw.
func playTricks(t *testing.T, tricks []trick) {
	t.Helper()
	to := upstreamtest.Start(t, upstreamtest.Any, realKey)
	s := newServer(t, options{more: "upstream p openai {\n\tto " + to.URL + "\n\tcredential {env.MOCK_KEY}\n}"})
	id, key := s.mint(object{"upstream": "p", "max_activations": 1000})
	otherID, other := s.mint(object{"upstream": "p", "max_activations": 1000})
	fill := filled(key, other)
	for _, trick := range tricks {
		before := to.Count()
		status, code, err := s.raw(fill.Replace(trick.raw))
		if err != nil || status != trick.status || code != trick.code {
			t.Errorf("%s: %d %q (%v), want %d %q", trick.name, status, code, err, trick.status, trick.code)
		}
		switch seen := to.Count() - before; {
		case seen > 1 || (seen == 1) != (trick.path != ""):
			t.Errorf("%s: the upstream saw %d requests", trick.name, seen)
		case seen == 1 && to.Last().Path != trick.path:
			t.Errorf("%s: the upstream saw %s, want %s", trick.name, to.Last().Path, trick.path)
		}
	}
	for _, v := range to.Violations() {
		t.Error("at the upstream: ", v)
	}
	if n := s.used(id); n != to.Count() || s.upstream.Count() != 0 {
		t.Errorf("used %d, the upstream counted %d, another one %d", n, to.Count(), s.upstream.Count())
	}
	if n := s.used(otherID); n != 0 {
		t.Errorf("the other key used %d", n)
	}
	if strings.Contains(s.output(), "panic") {
		t.Errorf("a panic:\n%s", s.output())
	}
	t.Logf("%d tricks, %d of them admitted", len(tricks), to.Count())
}

// TestNoRequestHidesInAnother sends several requests, or what looks like
// several, on one connection, and compares what the upstream understood.
func TestNoRequestHidesInAnother(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []string
	to := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		what := r.Method + " " + r.RequestURI + " " + string(body)
		if err != nil {
			what = r.Method + " broke off"
		}
		if got := r.Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+realKey {
			what += " with " + strings.Join(got, ",")
		}
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, what)
	}))
	t.Cleanup(to.Close)
	s := newServer(t, options{vendor: upstreamtest.Any, to: to.URL})
	id, key := s.mint(object{"max_activations": 1000})
	_, other := s.mint(object{"max_activations": 1000})
	const (
		good   = "GET /good" + rest
		hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n" // has no key
		begin  = "POST /x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
	)
	used := int64(0)
	for _, test := range []struct {
		name, raw string
		statuses  []int
		saw       []string
	}{
		{"one after the other", "GET /a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n" + good, []int{200, 200}, []string{"GET /a ", "GET /good "}},
		{"a key is not kept for the next", "GET /a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\nGET /b" + old, []int{200, 401}, []string{"GET /a "}},
		{"a request in the body of one that is refused", "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 33\r\n\r\n" + hidden + good, []int{401, 200}, []string{"GET /good "}},
		{"a request in a body", begin + "Content-Length: 33\r\n\r\n" + hidden + good, []int{200, 200}, []string{"POST /x " + hidden, "GET /good "}},
		{"a request in the body of a GET", "GET /x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 33\r\n\r\n" + hidden + good, []int{200, 200}, []string{"GET /x " + hidden, "GET /good "}},
		{"length and chunks that disagree", begin + "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, []int{200, 401}, []string{"POST /x "}},
		{"chunks and length that disagree", begin + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n8\r\nGET /hid\r\n0\r\n\r\n" + good, []int{200, 200}, []string{"POST /x GET /hid", "GET /good "}},
		{"chunks in HTTP/1.0", "POST /x HTTP/1.0\r\nAuthorization: Bearer {key}\r\nTransfer-Encoding: chunked\r\n\r\n21\r\n" + hidden + "\r\n0\r\n\r\n", []int{200}, []string{"POST /x "}},
		{"after a refused expectation", begin[:len(begin)-2] + "x\r\nContent-Length: 33\r\nExpect: 100-continue\r\n\r\n" + hidden, []int{401}, nil},
		{"after a method of its own", "FROB /x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 2\r\n\r\nhi" + good, []int{200, 200}, []string{"FROB /x hi", "GET /good "}},
		{"a line end in a header's value", "GET /x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nX-A: b\rGET /hidden HTTP/1.1\r\n\r\n", []int{400}, nil},
	} {
		mu.Lock()
		seen = nil
		mu.Unlock()
		statuses, err := s.converse(filled(key, other).Replace(test.raw))
		mu.Lock()
		saw := slices.Clone(seen)
		mu.Unlock()
		if err != nil || !slices.Equal(statuses, test.statuses) || !slices.Equal(saw, test.saw) {
			t.Errorf("%s: answers %d (%v), want %d; the upstream saw %q, want %q", test.name, statuses, err, test.statuses, saw, test.saw)
		}
		if used += int64(len(saw)); s.used(id) != used {
			t.Errorf("%s: used %d, the upstream counted %d", test.name, s.used(id), used)
			used = s.used(id)
		}
	}
}

// TestAnAnswerBeforeTheEndOfABodyEndsTheConnection is about upstreams that answer
// before they were sent everything: what a client sends later is no request.
func TestAnAnswerBeforeTheEndOfABodyEndsTheConnection(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{vendor: upstreamtest.Any, upstream: newConnections, to: rogue(t, map[string]string{
		"/early": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	})})
	_, key := s.mint(object{"max_activations": 2})
	for _, length := range []string{"Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\n"} {
		c := s.dial()
		if _, err := io.WriteString(c, "POST /early HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+key+"\r\n"+length+"begin"); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != http.StatusOK || !res.Close {
			t.Errorf("%q: %v %+v, want 200 and the connection's end", length, err, res)
		}
	}
}

// TestHopByHopHeadersTakeNothingFromWhatIsSent names headers in Connection,
// which proxies drop (RFC 9110, section 7.6.1), in the hope that one drops
// what it has added itself.
func TestHopByHopHeadersTakeNothingFromWhatIsSent(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{vendor: upstreamtest.Anthropic})
	id, key := s.mint(object{"max_activations": 100})
	names := []string{"x-api-key", "X-API-KEY, authorization", "host", "content-length", "transfer-encoding", "till-key", "anthropic-version", "close, x-api-key"}
	for _, name := range names {
		status, code, err := s.raw("POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Api-Key: " + key + "\r\nContent-Length: 2\r\nConnection: " + name + "\r\n\r\n{}")
		if err != nil || status != http.StatusOK || code != "" || string(s.upstream.Last().Body) != "{}" {
			t.Errorf("Connection: %s: %d %q (%v), body %q", name, status, code, err, s.upstream.Last().Body)
		}
	}
	if n := s.used(id); n != int64(len(names)) || s.upstream.Count() != n {
		t.Errorf("used %d, the upstream counted %d, want %d", n, s.upstream.Count(), len(names))
	}
	s.clean()
}

// converse sends bytes, ends its side, and returns the statuses of all
// answers.
func (s *server) converse(requests string) (statuses []int, err error) {
	conn := s.dial()
	defer conn.Close()
	if _, err := io.WriteString(conn, requests); err != nil {
		return nil, err
	}
	answers := bufio.NewReader(conn)
	for {
		if _, err := answers.Peek(1); err != nil {
			return statuses, nil // there are no more
		}
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			return statuses, err
		}
		statuses = append(statuses, res.StatusCode)
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || res.Close {
			return statuses, err
		}
		if len(statuses) == strings.Count(requests, " HTTP/1.") {
			return statuses, nil
		}
	}
}
