package e2e

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// trick is a request as bytes, and what has to become of it. In the bytes KEY
// is a live key, OTHER another live key, and HEAD what makes a whole request
// of a request line: a host, the key as a bearer, and the end.
type trick struct {
	name, raw string
	status    int
	code      string // Till-Refusal; "": Caddy or the upstream answers
	path      string // at the upstream; "": it sees nothing
}

const (
	head = " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\nConnection: close\r\n\r\n"
	line = "GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
)

var tricks = []trick{
	{"as it should be", "GET /v1/x" + head, 200, "", "/v1/x"},

	// Paths.
	{"a parent segment", "GET /v1/chat/../files" + head, 400, "till_bad_request", ""},
	{"a parent segment, encoded", "GET /v1/chat/%2e%2e/files" + head, 400, "till_bad_request", ""},
	{"a parent segment, half encoded", "GET /v1/chat/.%2E/files" + head, 400, "till_bad_request", ""},
	{"a parent segment, encoded twice", "GET /v1/chat/%252e%252e/files" + head, 400, "till_bad_request", ""},
	{"the segment itself", "GET /v1/./files" + head, 400, "till_bad_request", ""},
	{"a parent segment with a parameter", "GET /v1/chat/..;x/files" + head, 400, "till_bad_request", ""},
	{"an encoded slash", "GET /v1%2ffiles" + head, 400, "till_bad_request", ""},
	{"an encoded backslash", "GET /v1%5cfiles" + head, 400, "till_bad_request", ""},
	{"a backslash", "GET /v1\\files" + head, 400, "till_bad_request", ""},
	{"an empty segment", "GET /v1//files" + head, 400, "till_bad_request", ""},
	{"two slashes at the front", "GET //v1/files" + head, 403, "till_path_not_allowed", ""},
	{"two slashes at the front of the upstream's path", "GET /proxy/p//v1/files" + head, 403, "till_path_not_allowed", ""},
	{"two slashes behind the front", "GET /proxy//p/v1/x" + head, 400, "till_bad_request", ""},
	{"a NUL", "GET /v1/x%00" + head, 400, "till_bad_request", ""},
	{"a line end", "GET /v1/x%0d%0aHost:%20y" + head, 400, "till_bad_request", ""},
	{"a DEL", "GET /v1/x%7f" + head, 400, "till_bad_request", ""},
	{"not UTF-8", "GET /v1/x%ff" + head, 400, "till_bad_request", ""},
	{"an overlong slash", "GET /v1/x%c0%af" + head, 400, "till_bad_request", ""},
	{"a broken escape", "GET /v1/x%zz" + head, 400, "", ""},
	{"a space", "GET /v1/x y" + head, 400, "", ""},
	{"a semicolon", "GET /v1/x;a=b" + head, 200, "", "/v1/x;a=b"},
	{"an escaped letter", "GET /v1/%78" + head, 200, "", "/v1/%78"},
	{"an escaped version", "GET /%761/x" + head, 400, "till_bad_request", ""},
	{"no version", "GET /x" + head, 200, "", "/v1/x"},
	{"the version twice", "GET /v1/v1/x" + head, 200, "", "/v1/x"},
	{"files", "GET /v1/files" + head, 403, "till_path_not_allowed", ""},
	{"files in capitals", "GET /v1/FILES" + head, 403, "till_path_not_allowed", ""},
	{"files without a version", "GET /files" + head, 403, "till_path_not_allowed", ""},
	{"files with the version twice", "GET /v1/v1/files" + head, 403, "till_path_not_allowed", ""},
	{"files with a slash", "GET /v1/files/" + head, 403, "till_path_not_allowed", ""},
	{"files, a letter escaped", "GET /v1/%66iles" + head, 403, "till_path_not_allowed", ""},
	{"the account", "GET /v1/Organization/users" + head, 403, "till_path_not_allowed", ""},
	{"the account behind /proxy", "GET /proxy/p/v1/organization/users" + head, 403, "till_path_not_allowed", ""},
	{"its own upstream by name", "GET /proxy/p/v1/x" + head, 200, "", "/v1/x"},
	{"its own upstream and nothing more", "GET /proxy/p" + head, 200, "", "/"},
	{"another upstream by name", "GET /proxy/mock/v1/x" + head, 403, "till_wrong_upstream", ""},
	{"its own upstream by an escaped name", "GET /proxy/%70/v1/x" + head, 400, "till_bad_request", ""},
	{"/proxy twice", "GET /proxy/p/proxy/mock/v1/x" + head, 200, "", "/v1/proxy/mock/v1/x"},
	{"till's own paths", "GET /till/other" + head, 404, "till_path_not_allowed", ""},
	{"till's own paths in capitals", "GET /Till/self" + head, 200, "", "/v1/Till/self"},
	{"a very long path", "GET /v1/" + strings.Repeat("x", 9000) + head, 200, "", "/v1/" + strings.Repeat("x", 9000)},
	{"another host in the target", "GET http://evil.example.com/v1/x" + head, 200, "", "/v1/x"},
	{"a fragment", "GET /v1/x#y" + head, 200, "", "/v1/x%23y"},

	// Methods.
	{"TRACE", "TRACE /v1/x" + head, 403, "till_method_not_allowed", ""},
	{"CONNECT", "CONNECT evil.example.com:443" + head, 403, "till_method_not_allowed", ""},
	{"a method in small letters", "get /v1/x" + head, 200, "", "/v1/x"},
	{"the server itself", "OPTIONS *" + head, 200, "", ""},
	{"an upgrade", "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 403, "till_upgrade_not_allowed", ""},
	{"an upgrade without Connection", line + "Authorization: Bearer KEY\r\nUpgrade: h2c\r\n\r\n", 403, "till_upgrade_not_allowed", ""},
	{"an upgrade to HTTP/2, as Java has it", line + "Authorization: Bearer KEY\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n\r\n", 200, "", "/v1/x"},
	{"an upgrade to HTTP/2 or something else", line + "Authorization: Bearer KEY\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, websocket\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n\r\n", 403, "till_upgrade_not_allowed", ""},
	{"another method in a header", line + "Authorization: Bearer KEY\r\nX-HTTP-Method-Override: DELETE\r\n\r\n", 200, "", "/v1/x"},
	{"another path in a header", line + "Authorization: Bearer KEY\r\nX-Original-URL: /v1/files\r\nX-Rewrite-URL: /v1/files\r\n\r\n", 200, "", "/v1/x"},

	// Where keys are.
	{"no key", line + "\r\n", 401, "till_key_missing", ""},
	{"a foreign credential", line + "Authorization: Bearer sk-abc\r\n\r\n", 401, "till_key_missing", ""},
	{"an empty header", line + "Authorization:\r\n\r\n", 401, "till_key_missing", ""},
	{"bearer in capitals", line + "Authorization: BEARER KEY\r\n\r\n", 200, "", "/v1/x"},
	{"two spaces", line + "Authorization: Bearer   KEY  \r\n\r\n", 200, "", "/v1/x"},
	{"a tab", line + "Authorization: Bearer\tKEY\r\n\r\n", 401, "till_key_missing", ""},
	{"no scheme", line + "Authorization: KEY\r\n\r\n", 200, "", "/v1/x"},
	{"with sk-", line + "Authorization: Bearer sk-KEY\r\n\r\n", 200, "", "/v1/x"},
	{"with sk- twice", line + "Authorization: Bearer sk-sk-KEY\r\n\r\n", 401, "till_key_missing", ""},
	{"two keys after a comma", line + "Authorization: Bearer KEY, Bearer OTHER\r\n\r\n", 401, "till_key_invalid", ""},
	{"two headers of the same key", line + "Authorization: Bearer KEY\r\nAuthorization: Bearer KEY\r\n\r\n", 401, "till_key_invalid", ""},
	{"two keys in two places", line + "Authorization: Bearer KEY\r\nX-Api-Key: OTHER\r\n\r\n", 401, "till_key_invalid", ""},
	{"two keys, one in the query", "GET /v1/x?key=OTHER" + head, 401, "till_key_invalid", ""},
	{"the same key in two places", line + "Authorization: Bearer KEY\r\nX-Api-Key: KEY\r\n\r\n", 200, "", "/v1/x"},
	{"a key beside a foreign value", line + "Authorization: Bearer sk-abc\r\nX-Api-Key: KEY\r\n\r\n", 200, "", "/v1/x"},
	{"Basic, as the user", line + "Authorization: Basic BASIC\r\n\r\n", 200, "", "/v1/x"},
	{"Basic that is none", line + "Authorization: Basic KEY\r\n\r\n", 401, "till_key_missing", ""},
	{"a cut key", line + "Authorization: Bearer CUT\r\n\r\n", 401, "till_key_invalid", ""},
	{"a flipped key", line + "Authorization: Bearer FLIPPED\r\n\r\n", 401, "till_key_invalid", ""},
	{"a key with a box", line + "Authorization: Bearer KEY.AAAA\r\n\r\n", 401, "till_key_invalid", ""},
	{"a key in the query", "GET /v1/x?key=KEY&a=b HTTP/1.0\r\n\r\n", 200, "", "/v1/x"},
	{"a key in the query, escaped", "GET /v1/x?k%65y=ESCAPED HTTP/1.0\r\n\r\n", 200, "", "/v1/x"},
	{"a key in the query twice", "GET /v1/x?key=KEY&key=KEY HTTP/1.0\r\n\r\n", 200, "", "/v1/x"},
	{"a key under another name", "GET /v1/x?token=KEY HTTP/1.0\r\n\r\n", 401, "till_key_missing", ""},
	{"a key under another name beside its own", "GET /v1/x?token=OTHER" + head, 200, "", "/v1/x"},
	{"a key in the path", "GET /v1/KEY HTTP/1.0\r\n\r\n", 401, "till_key_missing", ""},
	{"a key in a cookie", line + "Cookie: key=KEY\r\n\r\n", 401, "till_key_missing", ""},
	{"a key in the proxy's slot", line + "Proxy-Authorization: Bearer KEY\r\n\r\n", 401, "till_key_missing", ""},
	{"a key that is hop by hop", line + "Authorization: Bearer KEY\r\nConnection: authorization\r\n\r\n", 200, "", "/v1/x"},
	{"an underscore for a dash", line + "X_Api_Key: KEY\r\n\r\n", 401, "till_key_missing", ""},

	// What tells of the client.
	{"who the client is", line + "Authorization: Bearer KEY\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\nVia: 1.1 x\r\nX-Real-IP: 192.0.2.1\r\nCookie: a=b\r\n\r\n", 200, "", "/v1/x"},

	// What the server itself does not take.
	{"a space before the colon", line + "Authorization : Bearer KEY\r\n\r\n", 400, "", ""},
	{"a folded header", line + "X-A: b\r\n Authorization: Bearer KEY\r\n\r\n", 401, "till_key_missing", ""},
	{"two lengths", "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "", ""},
	{"a length that is none", "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\nContent-Length: -2\r\n\r\n{}", 400, "", ""},
	{"an unknown coding", "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\nTransfer-Encoding: xchunked\r\n\r\n", 501, "", ""},
	{"a line end in a header", line + "Authorization: Bearer KEY\rX: y\r\n\r\n", 400, "", ""},
	{"no host", "GET /v1/x HTTP/1.1\r\nAuthorization: Bearer KEY\r\n\r\n", 400, "", ""},
	{"two hosts", "GET /v1/x HTTP/1.1\r\nHost: x\r\nHost: y\r\nAuthorization: Bearer KEY\r\n\r\n", 400, "", ""},
	{"length and chunks", "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\nConnection: close\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200, "", "/v1/x"},
	{"a trailer of the client's", "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\nConnection: close\r\nTrailer: X-Api-Key\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Api-Key: OTHER\r\n\r\n", 200, "", "/v1/x"},
	{"an expectation that is odd", line + "Authorization: Bearer KEY\r\nExpect: miracles\r\n\r\n", 417, "", ""},
	{"HTTP/1.0", "GET /v1/x HTTP/1.0\r\nAuthorization: Bearer KEY\r\n\r\n", 200, "", "/v1/x"},
	{"a header of 100 kB", line + "Authorization: Bearer KEY\r\nX-A: " + strings.Repeat("a", 100<<10) + "\r\n\r\n", 431, "", ""},
}

func TestNoTrickInPathsAndHeadersGetsPast(t *testing.T) {
	t.Parallel()
	if len(tricks) < 60 {
		t.Fatalf("%d tricks", len(tricks))
	}
	to := upstreamtest.Start(t, upstreamtest.Any, realKey)
	s := newServer(t, options{more: "upstream p openai {\n\tto " + to.URL + "\n\tcredential {env.MOCK_KEY}\n}"})
	id, key := s.mint(object{"upstream": "p", "max_activations": 1000})
	otherID, other := s.mint(object{"upstream": "p", "max_activations": 1000})
	flipped := key[:20] + map[bool]string{true: "b", false: "a"}[key[20] == 'a'] + key[21:]
	fill := strings.NewReplacer("KEY", key, "OTHER", other, "CUT", key[:len(key)-1], "FLIPPED", flipped,
		"ESCAPED", strings.Replace(key, "_", "%5F", 1), "BASIC", base64.StdEncoding.EncodeToString([]byte(key+":")))
	admitted := int64(0)
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
		if trick.path != "" {
			admitted++
		}
	}
	for _, v := range to.Violations() {
		t.Error("at the upstream: ", v)
	}
	if n := s.used(id); n != admitted || to.Count() != admitted {
		t.Errorf("used %d, the upstream counted %d, want %d", n, to.Count(), admitted)
	}
	if n := s.used(otherID); n != 0 {
		t.Errorf("the other key used %d", n)
	}
	if strings.Contains(s.output(), "panic") {
		t.Errorf("a panic:\n%s", s.output())
	}
	t.Logf("%d tricks, %d of them admitted", len(tricks), admitted)
}

// raw sends bytes and returns status and refusal code of the first answer.
func (s *server) raw(request string) (int, string, error) {
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, "", err
	}
	// The server may answer and close before it has read everything.
	if _, err := io.WriteString(conn, request); err != nil {
		fmt.Fprintln(io.Discard, err)
	}
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, res.Header.Get("Till-Refusal"), err
}
