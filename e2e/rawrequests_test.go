package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// trick is a request as bytes, and what has to become of it; see filled.
type trick struct {
	name, raw string
	status    int
	code      string // Till-Refusal; "": Caddy or the upstream answers
	path      string // at the upstream; "": it sees nothing
}

const line = "GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"

var tricks = []trick{
	{"as it should be", "GET /v1/x" + rest, 200, "", "/v1/x"},

	// Paths.
	{"a parent segment", "GET /v1/chat/../files" + rest, 400, "till_bad_request", ""},
	{"a parent segment, encoded", "GET /v1/chat/%2e%2e/files" + rest, 400, "till_bad_request", ""},
	{"a parent segment, half encoded", "GET /v1/chat/.%2E/files" + rest, 400, "till_bad_request", ""},
	{"a parent segment, encoded twice", "GET /v1/chat/%252e%252e/files" + rest, 400, "till_bad_request", ""},
	{"the segment itself", "GET /v1/./files" + rest, 400, "till_bad_request", ""},
	{"a parent segment with a parameter", "GET /v1/chat/..;x/files" + rest, 400, "till_bad_request", ""},
	{"an encoded slash", "GET /v1%2ffiles" + rest, 400, "till_bad_request", ""},
	{"an encoded backslash", "GET /v1%5cfiles" + rest, 400, "till_bad_request", ""},
	{"a backslash", "GET /v1\\files" + rest, 400, "till_bad_request", ""},
	{"an empty segment", "GET /v1//files" + rest, 400, "till_bad_request", ""},
	{"two slashes at the front", "GET //v1/files" + rest, 403, "till_path_not_allowed", ""},
	{"two slashes at the front of the upstream's path", "GET /proxy/p//v1/files" + rest, 403, "till_path_not_allowed", ""},
	{"two slashes behind the front", "GET /proxy//p/v1/x" + rest, 400, "till_bad_request", ""},
	{"a NUL", "GET /v1/x%00" + rest, 400, "till_bad_request", ""},
	{"a line end", "GET /v1/x%0d%0aHost:%20y" + rest, 400, "till_bad_request", ""},
	{"a DEL", "GET /v1/x%7f" + rest, 400, "till_bad_request", ""},
	{"not UTF-8", "GET /v1/x%ff" + rest, 400, "till_bad_request", ""},
	{"an overlong slash", "GET /v1/x%c0%af" + rest, 400, "till_bad_request", ""},
	{"a broken escape", "GET /v1/x%zz" + rest, 400, "", ""},
	{"a space", "GET /v1/x y" + rest, 400, "", ""},
	{"a semicolon", "GET /v1/x;a=b" + rest, 200, "", "/v1/x;a=b"},
	{"an escaped letter", "GET /v1/%78" + rest, 200, "", "/v1/%78"},
	{"an escaped version", "GET /%761/x" + rest, 400, "till_bad_request", ""},
	{"no version", "GET /x" + rest, 200, "", "/v1/x"},
	{"the version twice", "GET /v1/v1/x" + rest, 200, "", "/v1/x"},
	{"files", "GET /v1/files" + rest, 403, "till_path_not_allowed", ""},
	{"files in capitals", "GET /v1/FILES" + rest, 403, "till_path_not_allowed", ""},
	{"files without a version", "GET /files" + rest, 403, "till_path_not_allowed", ""},
	{"files with the version twice", "GET /v1/v1/files" + rest, 403, "till_path_not_allowed", ""},
	{"files with a slash", "GET /v1/files/" + rest, 403, "till_path_not_allowed", ""},
	{"files, a letter escaped", "GET /v1/%66iles" + rest, 403, "till_path_not_allowed", ""},
	{"the account", "GET /v1/Organization/users" + rest, 403, "till_path_not_allowed", ""},
	{"the account behind /proxy", "GET /proxy/p/v1/organization/users" + rest, 403, "till_path_not_allowed", ""},
	{"its own upstream by name", "GET /proxy/p/v1/x" + rest, 200, "", "/v1/x"},
	{"its own upstream and nothing more", "GET /proxy/p" + rest, 200, "", "/"},
	{"another upstream by name", "GET /proxy/mock/v1/x" + rest, 403, "till_wrong_upstream", ""},
	{"its own upstream by an escaped name", "GET /proxy/%70/v1/x" + rest, 400, "till_bad_request", ""},
	{"/proxy twice", "GET /proxy/p/proxy/mock/v1/x" + rest, 200, "", "/v1/proxy/mock/v1/x"},
	{"till's own paths", "GET /till/other" + rest, 404, "till_path_not_allowed", ""},
	{"till's own paths in capitals", "GET /Till/self" + rest, 200, "", "/v1/Till/self"},
	{"a very long path", "GET /v1/" + strings.Repeat("x", 9000) + rest, 200, "", "/v1/" + strings.Repeat("x", 9000)},
	{"another host in the target", "GET http://evil.example.com/v1/x" + rest, 200, "", "/v1/x"},
	{"a fragment", "GET /v1/x#y" + rest, 200, "", "/v1/x%23y"},

	// Methods.
	{"TRACE", "TRACE /v1/x" + rest, 403, "till_method_not_allowed", ""},
	{"CONNECT", "CONNECT evil.example.com:443" + rest, 403, "till_method_not_allowed", ""},
	{"a method in small letters", "get /v1/x" + rest, 200, "", "/v1/x"},
	{"the server itself", "OPTIONS *" + rest, 200, "", ""},
	{"an upgrade", "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 403, "till_upgrade_not_allowed", ""},
	{"an upgrade without Connection", line + "Authorization: Bearer {key}\r\nUpgrade: h2c\r\n\r\n", 200, "", "/v1/x"},
	{"CONNECT that names an upgrade", "CONNECT /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 403, "till_method_not_allowed", ""},
	{"an upgrade to HTTP/2, as Java has it", line + "Authorization: Bearer {key}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n\r\n", 200, "", "/v1/x"},
	{"an upgrade to HTTP/2 or something else", line + "Authorization: Bearer {key}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, websocket\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n\r\n", 403, "till_upgrade_not_allowed", ""},
	{"another method in a header", line + "Authorization: Bearer {key}\r\nX-HTTP-Method-Override: DELETE\r\n\r\n", 200, "", "/v1/x"},
	{"another path in a header", line + "Authorization: Bearer {key}\r\nX-Original-URL: /v1/files\r\nX-Rewrite-URL: /v1/files\r\n\r\n", 200, "", "/v1/x"},

	// Where keys are.
	{"no key", line + "\r\n", 401, "till_key_missing", ""},
	{"a foreign credential", line + "Authorization: Bearer sk-abc\r\n\r\n", 401, "till_key_missing", ""},
	{"an empty header", line + "Authorization:\r\n\r\n", 401, "till_key_missing", ""},
	{"bearer in capitals", line + "Authorization: BEARER {key}\r\n\r\n", 200, "", "/v1/x"},
	{"two spaces", line + "Authorization: Bearer   {key}  \r\n\r\n", 200, "", "/v1/x"},
	{"a tab", line + "Authorization: Bearer\t{key}\r\n\r\n", 401, "till_key_missing", ""},
	{"no scheme", line + "Authorization: {key}\r\n\r\n", 200, "", "/v1/x"},
	{"with sk-", line + "Authorization: Bearer sk-{key}\r\n\r\n", 200, "", "/v1/x"},
	{"with sk- twice", line + "Authorization: Bearer sk-sk-{key}\r\n\r\n", 401, "till_key_missing", ""},
	{"two keys after a comma", line + "Authorization: Bearer {key}, Bearer {other}\r\n\r\n", 401, "till_key_invalid", ""},
	{"two headers of the same key", line + "Authorization: Bearer {key}\r\nAuthorization: Bearer {key}\r\n\r\n", 401, "till_key_invalid", ""},
	{"two keys in two places", line + "Authorization: Bearer {key}\r\nX-Api-Key: {other}\r\n\r\n", 401, "till_key_invalid", ""},
	{"two keys, one in the query", "GET /v1/x?key={other}" + rest, 401, "till_key_invalid", ""},
	{"the same key in two places", line + "Authorization: Bearer {key}\r\nX-Api-Key: {key}\r\n\r\n", 200, "", "/v1/x"},
	{"a key beside a foreign value", line + "Authorization: Bearer sk-abc\r\nX-Api-Key: {key}\r\n\r\n", 200, "", "/v1/x"},
	{"Basic, as the user", line + "Authorization: Basic {basic}\r\n\r\n", 200, "", "/v1/x"},
	{"Basic that is none", line + "Authorization: Basic {key}\r\n\r\n", 401, "till_key_missing", ""},
	{"a cut key", line + "Authorization: Bearer {cut}\r\n\r\n", 401, "till_key_invalid", ""},
	{"a flipped key", line + "Authorization: Bearer {flipped}\r\n\r\n", 401, "till_key_invalid", ""},
	{"a key with a box", line + "Authorization: Bearer {key}.AAAA\r\n\r\n", 401, "till_key_invalid", ""},
	{"a key in the query", "GET /v1/x?key={key}&a=b HTTP/1.0\r\n\r\n", 200, "", "/v1/x"},
	{"a key in the query, escaped", "GET /v1/x?k%65y={escaped} HTTP/1.0\r\n\r\n", 200, "", "/v1/x"},
	{"a key in the query twice", "GET /v1/x?key={key}&key={key} HTTP/1.0\r\n\r\n", 200, "", "/v1/x"},
	{"a key under another name", "GET /v1/x?token={key} HTTP/1.0\r\n\r\n", 401, "till_key_missing", ""},
	{"a key under another name beside its own", "GET /v1/x?token={other}" + rest, 200, "", "/v1/x"},
	{"a key in the path", "GET /v1/{key} HTTP/1.0\r\n\r\n", 401, "till_key_missing", ""},
	{"a key in a cookie", line + "Cookie: key={key}\r\n\r\n", 401, "till_key_missing", ""},
	{"a key in the proxy's slot", line + "Proxy-Authorization: Bearer {key}\r\n\r\n", 401, "till_key_missing", ""},
	{"a key that is hop by hop", line + "Authorization: Bearer {key}\r\nConnection: authorization\r\n\r\n", 200, "", "/v1/x"},
	{"an underscore for a dash", line + "X_Api_Key: {key}\r\n\r\n", 401, "till_key_missing", ""},

	// What tells of the client.
	{"who the client is", line + "Authorization: Bearer {key}\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\nVia: 1.1 x\r\nX-Real-IP: 192.0.2.1\r\nCookie: a=b\r\n\r\n", 200, "", "/v1/x"},

	// What the server itself does not take.
	{"a space before the colon", line + "Authorization : Bearer {key}\r\n\r\n", 400, "", ""},
	{"a folded header", line + "X-A: b\r\n Authorization: Bearer {key}\r\n\r\n", 401, "till_key_missing", ""},
	{"two lengths", "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "", ""},
	{"a length that is none", "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: -2\r\n\r\n{}", 400, "", ""},
	{"an unknown coding", "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nTransfer-Encoding: xchunked\r\n\r\n", 501, "", ""},
	{"a line end in a header", line + "Authorization: Bearer {key}\rX: y\r\n\r\n", 400, "", ""},
	{"no host", "GET /v1/x HTTP/1.1\r\nAuthorization: Bearer {key}\r\n\r\n", 400, "", ""},
	{"two hosts", "GET /v1/x HTTP/1.1\r\nHost: x\r\nHost: y\r\nAuthorization: Bearer {key}\r\n\r\n", 400, "", ""},
	{"length and chunks", "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200, "", "/v1/x"},
	{"a trailer of the client's", "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\nTrailer: X-Api-Key\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Api-Key: {other}\r\n\r\n", 200, "", "/v1/x"},
	{"an expectation that is odd", line + "Authorization: Bearer {key}\r\nExpect: miracles\r\n\r\n", 417, "", ""},
	{"HTTP/1.0", "GET /v1/x HTTP/1.0\r\nAuthorization: Bearer {key}\r\n\r\n", 200, "", "/v1/x"},
	{"a header of 100 kB", line + "Authorization: Bearer {key}\r\nX-A: " + strings.Repeat("a", 100<<10) + "\r\n\r\n", 431, "", ""},
}

func TestNoTrickInPathsAndHeadersGetsPast(t *testing.T) {
	t.Parallel()
	playTricks(t, tricks)
}

// dial opens a connection to the server that ends with the test.
func (s *server) dial() net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// raw sends bytes and returns status and refusal code of the first answer.
func (s *server) raw(request string) (int, string, error) {
	conn := s.dial()
	defer conn.Close()
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
