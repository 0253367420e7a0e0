package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// rogueTCP is an upstream below HTTP: it does with a connection what serve
// does.
func rogueTCP(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if conn.SetDeadline(time.Now().Add(patience)) == nil {
					serve(conn)
				}
			}()
		}
	}()
	return l.Addr().String()
}

// wire sends one request and returns the whole answer as bytes.
func (s *server) wire(request string) string {
	s.t.Helper()
	conn := s.dial()
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		s.t.Fatalf("%v after %q", err, b)
	}
	return string(b)
}

// TestNoWordOfTheUpstreamsIsTakenForTillsOwn looks at the bytes of answers,
// because clients hide some of them.
func TestNoWordOfTheUpstreamsIsTakenForTillsOwn(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
	hints := "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nTill-Refusal: x\r\n\r\n"
	answers := map[string]string{
		"/good":     ok + "\r\nok",
		"/hints":    strings.Repeat(hints, 3) + ok + "\r\nok",
		"/continue": "HTTP/1.1 100 Continue\r\n\r\n" + ok + "\r\nok",
		"/progress": "HTTP/1.1 102 Processing\r\n\r\n" + ok + "\r\nok",
		"/reason":   "HTTP/1.1 200 you sent " + realKey + "\r\nContent-Length: 2\r\n\r\nok",
		"/hop":      ok + "Connection: Till-Key, Till-Activations-Remaining\r\n\r\nok",
		"/forged":   ok + "Till-Key: key_forged\r\ntill-activations-remaining: 999999\r\nTILL-FORGED: x\r\nset-cookie: a=b\r\nSET-COOKIE: c=d\r\n\r\nok",
		"/trailers": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Till-Forged\r\n\r\n2\r\nok\r\n0\r\nTill-Forged: x\r\nX-Echo: " + realKey + "\r\n\r\n",
		"/two":      ok + "\r\nokHTTP/1.1 200 OK\r\nTill-Forged: x\r\nContent-Length: 2\r\n\r\nno",
	}
	s := newServer(t, options{vendor: upstreamtest.Any, to: rogue(t, answers), upstream: newConnections, site: "header >X-Status {http.reverse_proxy.status_text}"})
	id, key := s.mint(object{"max_activations": 100})
	used := int64(0)
	for path := range answers {
		used++
		got := s.wire("GET " + path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nTE: trailers\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || strings.Count(got, "HTTP/1.1") != 1 || !strings.Contains(got, "ok") {
			t.Errorf("%s: %q", path, got)
		}
		for _, never := range []string{"Link:", "forged", "Forged", "FORGED", "cookie", "Cookie", "COOKIE", "999999", realKey} {
			if strings.Contains(got, never) {
				t.Errorf("%s: the client got %s in %q", path, never, got)
			}
		}
		if !strings.Contains(got, "\r\nTill-Key: "+id+"\r\n") || !strings.Contains(got, fmt.Sprintf("\r\nTill-Activations-Remaining: %d\r\n", 100-used)) {
			t.Errorf("%s: what till says is missing: %q", path, got)
		}
		if n := s.used(id); n != used {
			t.Errorf("%s: used %d, want %d", path, n, used)
		}
	}
}

// TestTheLogDoesNotRepeatWhatARogueUpstreamSays has upstreams that repeat the
// request that they got where no answer should be, so that net/http's errors
// and messages hold the credential.
func TestTheLogDoesNotRepeatWhatARogueUpstreamSays(t *testing.T) {
	t.Parallel()
	secret := "Bearer " + realKey
	answers := map[string]string{
		"/line":    "you sent " + secret + "\r\n\r\n",
		"/version": secret + "/1.1 200 OK\r\n\r\n",
		"/status":  "HTTP/1.1 " + realKey + " OK\r\n\r\n",
		"/header":  "HTTP/1.1 200 OK\r\nyou sent " + secret + "\r\n\r\n",
		"/first":   "HTTP/1.1 200 OK\r\n " + secret + "\r\n\r\n",
		"/length":  "HTTP/1.1 200 OK\r\nContent-Length: " + realKey + "\r\n\r\n",
		"/coding":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + realKey + "\r\n\r\n",
		"/chunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + realKey + "\r\n",
		"/trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nyou sent " + secret + "\r\n\r\n",
	}
	// These come where nothing is asked for any more, on connections that are kept.
	kept := map[string]string{
		"GET /more":     "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok you sent " + secret,
		"GET /empty":    "HTTP/1.1 204 No Content\r\n\r\nyou sent " + secret,
		"GET /chunked":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nX-Sent: " + secret + "\r\n\r\n",
		"HEAD /to-head": "HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\nyou sent " + secret,
	}
	keeps := map[string]string{}
	for line, answer := range kept {
		_, path, _ := strings.Cut(line, " ")
		keeps[path] = answer
	}
	s := newServer(t, options{vendor: upstreamtest.Any, to: rogue(t, answers), upstream: newConnections,
		more: "upstream kept " + rogue(t, keeps) + " {\n\tcredential {env.MOCK_KEY}\n}\n"})
	id, key := s.mint(object{"max_activations": 100})
	_, keptKey := s.mint(object{"max_activations": 100_000, "upstream": "kept"})
	ask := func(line, key string) {
		got := s.wire(line + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nConnection: close\r\n\r\n")
		if strings.Contains(got, realKey) {
			t.Errorf("%s: the client got %q", line, got)
		}
	}
	for path := range answers {
		ask("GET "+path, key)
	}
	if n := s.used(id); n != int64(len(answers)) {
		t.Errorf("used %d, want %d", n, len(answers))
	}
	const said = "Unsolicited response received on idle HTTP channel"
	for load := range 3 {
		if load > 0 {
			s.reload()
		}
		// It says nothing of a connection that is closed, as by a reload, or because the
		// request ends before what comes after its answer is seen.
		before := strings.Count(s.output(), said)
		s.eventually("net/http said so", func() bool {
			for line := range kept {
				ask(line, keptKey)
			}
			return strings.Count(s.output(), said) >= before+len(kept)
		})
	}
	s.stop()
	for line := range strings.SplitSeq(s.output(), "\n") {
		if strings.Contains(line, realKey) {
			t.Error("the log holds the credential: ", line)
		}
	}
}

// TestAfterEveryMisfortuneTheNextRequestIsServed breaks one upstream in every
// way, each time between good requests, and looks at the books.
func TestAfterEveryMisfortuneTheNextRequestIsServed(t *testing.T) {
	t.Parallel()
	silent := rogueTCP(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	rude := rogueTCP(t, func(net.Conn) {})
	reset := rogueTCP(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
	})
	dripping := rogueTCP(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		for _, c := range "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 1000) {
			if _, err := conn.Write([]byte{byte(c)}); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, conn) // and never ends its header
	})
	// Only those that never answer are not waited for.
	quick := map[string]string{}
	for _, name := range []string{"silent", "dripping"} {
		quick[name] = "transport http {\n\t\tresponse_header_timeout 300ms\n\t}"
	}
	vendors := []string{"openai", "anthropic", "gemini", "cohere"}
	paths := map[string]string{"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "gemini": "/v1beta/models/m:generateContent", "cohere": "/v2/chat"}
	more := ""
	for _, vendor := range vendors {
		for name, to := range map[string]string{"silent": "http://" + silent, "rude": "http://" + rude, "reset": "http://" + reset, "dripping": "http://" + dripping, "plain": "https://" + rude, "nobody": "http://" + refusingAddress(t)} {
			more += "upstream " + name + "-" + vendor + " " + vendor + " {\n\tto " + to + "\n\tcredential {env.MOCK_KEY}\n\t" + quick[name] + "\n}\n"
		}
	}
	s := newServer(t, options{more: more})
	goodID, good := s.mint(object{"max_activations": 100})
	served := int64(0)
	for _, test := range []struct {
		name   string
		status int
		used   int64
	}{
		{"silent", 504, 1},
		{"dripping", 504, 1},
		{"rude", 502, 1},
		{"reset", 502, 1},
		{"plain", 502, 0},  // no TLS there: the request never left
		{"nobody", 502, 0}, // no connection
	} {
		for _, vendor := range vendors {
			id, key := s.mint(object{"upstream": test.name + "-" + vendor, "max_activations": 3})
			res, body := s.must(s.post(key, paths[vendor], chatBody))
			want := map[string]string{"openai": `"code":"till_upstream_failed"`, "anthropic": `"type":"error"`, "gemini": `"status":`, "cohere": `"message":`}[vendor]
			if res.StatusCode != test.status || res.Header.Get("Till-Refusal") != "till_upstream_failed" || !strings.Contains(body, want) || res.Header.Get("X-Should-Retry") != "false" {
				t.Errorf("%s, %s: %d %v %s", test.name, vendor, res.StatusCode, res.Header, body)
			}
			if n := s.used(id); n != test.used {
				t.Errorf("%s, %s: used %d, want %d", test.name, vendor, n, test.used)
			}
		}
		served++
		if status := s.chat(good); status != http.StatusOK || s.used(goodID) != served {
			t.Errorf("after %s: %d, used %d, want %d", test.name, status, s.used(goodID), served)
		}
	}
	s.clean()
	if strings.Contains(s.output(), "panic") {
		t.Errorf("a panic:\n%s", s.output())
	}
}

// TestAClientThatBreaksOffInItsBodyIsSettled sends bodies that break off, that stop,
// and whose chunks are malformed, both where they pass through and where a limit has
// to read them.
func TestAClientThatBreaksOffInItsBodyIsSettled(t *testing.T) {
	t.Parallel()
	const chunked, json = "Transfer-Encoding: chunked\r\n\r\n", "Content-Type: application/json\r\n"
	rows := []struct{ name, raw string }{
		{"half a length", json + "Content-Length: 100\r\n\r\n{\"model\":"},
		{"half a chunk", json + chunked + "64\r\n{\"model\":"},
		{"no last chunk", json + chunked + "d\r\n{\"model\":\"m\"}\r\n"},
		{"a chunk that is none", json + chunked + "zz\r\n"},
		{"a chunk beyond all numbers", json + chunked + "ffffffffffffffffff\r\nx"},
		{"a chunk of another length", json + chunked + "2\r\n{\"model\":\"m\"}\r\n0\r\n\r\n"},
		{"a trailer that is none", json + chunked + "d\r\n{\"model\":\"m\"}\r\n0\r\nnot a trailer\r\n\r\n"},
	}
	for name, limits := range map[string]object{"they pass": {"max_activations": 100}, "they are read": {"max_activations": 100, "models": []string{"m"}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, options{vendor: upstreamtest.Any}) // what is under way to another's upstream is counted there
			reads := limits["models"] != nil
			id, key := s.mint(limits)
			for _, row := range rows {
				conn := s.dial()
				fmt.Fprint(conn, "POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+key+"\r\nConnection: close\r\n"+row.raw)
				if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err == nil { // else the server took its leave as well
					if code := answer.Header.Get("Till-Refusal"); reads && code != "till_bad_request" {
						t.Errorf("%s, where it is read: %d %q", row.name, answer.StatusCode, code)
					} else if !reads && code == "" && answer.StatusCode != 499 { // Caddy's word for a client that is gone
						t.Errorf("%s: %d, as if nothing were wrong", row.name, answer.StatusCode)
					}
					answer.Body.Close()
				}
				conn.Close()
			}
			n := s.used(id) // nothing is held any more
			if forwarded := s.upstream.Count(); reads && (n != 0 || forwarded != 0) || n > int64(len(rows)) || forwarded > n {
				t.Errorf("used %d of %d, the upstream counted %d", n, len(rows), forwarded)
			}
			_, other := s.mint(object{"max_activations": 1})
			if status := s.chat(other); status != http.StatusOK {
				t.Errorf("after all that: %d", status)
			}
			s.clean("reading the body")
			if strings.Contains(s.output(), "panic") {
				t.Errorf("a panic:\n%s", s.output())
			}
		})
	}
}

// TestNoNameBecomesAHeader mints keys whose texts hold line ends, which a
// configuration may write into headers.
func TestNoNameBecomesAHeader(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{site: "route /named {\n\ttill guard\n\theader X-Name {http.till.key_name}\n\trespond ok\n}"})
	for _, name := range []string{"a\r\nX-Injected: b", "a\nX-Injected: b", "a\rX-Injected: b", "a\x00X-Injected: b", "a\u0085X-Injected: b"} {
		status, answer := s.api("POST", "/keys", object{"upstream": "mock", "max_activations": 5, "name": name})
		if status == http.StatusBadRequest {
			continue
		}
		if status != http.StatusCreated {
			t.Errorf("%q: %d %v", name, status, answer)
			continue
		}
		got := s.wire("GET /named HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + answer["scoped_key"].(string) + "\r\nConnection: close\r\n\r\n")
		head, _, _ := strings.Cut(got, "\r\n\r\n")
		if slices.ContainsFunc(strings.FieldsFunc(head, func(c rune) bool { return c == '\r' || c == '\n' }), func(line string) bool {
			return strings.HasPrefix(line, "X-Injected")
		}) {
			t.Errorf("%q: %q", name, got)
		}
	}
}
