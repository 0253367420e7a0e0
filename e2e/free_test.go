package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// mcpServer is a stand-in for an MCP server over streamable HTTP: GET opens a stream
// that stays open, POST is answered as JSON, DELETE ends the session
// (modelcontextprotocol.io/specification/2025-06-18/basic/transports).
type mcpServer struct {
	*httptest.Server
	gets, posts, deletes atomic.Int64
}

func newMCPServer(t *testing.T) *mcpServer {
	t.Helper()
	m := new(mcpServer)
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/mcp":
			http.NotFound(w, r)
		case r.Method == http.MethodGet:
			m.gets.Add(1)
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, ": open\n\n")
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			<-r.Context().Done()
		case r.Method == http.MethodPost:
			m.posts.Add(1)
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"result":{}}`)
		case r.Method == http.MethodDelete:
			m.deletes.Add(1)
		}
	}))
	t.Cleanup(func() {
		m.CloseClientConnections()
		m.Close()
	})
	return m
}

// stream is an answer that goes on.
type stream struct {
	*http.Response
	lines *bufio.Reader
	close context.CancelFunc
}

// listen opens an event stream, as MCP's clients do, and waits for its first line
// where it is one.
func (s *server) listen(key, accept string) *stream {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.addr+"/mcp", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Accept", accept)
	res, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cancel()
		_ = res.Body.Close() // it was cancelled
	})
	l := &stream{res, bufio.NewReader(res.Body), cancel}
	if res.StatusCode == http.StatusOK {
		if line, err := l.lines.ReadString('\n'); err != nil || line != ": open\n" {
			s.t.Fatalf("the stream began with %q: %v", line, err)
		}
	}
	return l
}

// rest is what the stream says until it ends.
func (l *stream) rest() string {
	var all strings.Builder
	for {
		line, err := l.lines.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			return all.String()
		}
	}
}

const events = "text/event-stream"

func (s *server) callTool(key string) (int, string) {
	s.t.Helper()
	res, _ := s.must(s.post(key, "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"f"}}`))
	return res.StatusCode, res.Header.Get("Till-Refusal")
}

// TestWhatTheOperatorCallsFreeCostsNothing has an MCP client that reopens its stream
// each time the server closes it.
func TestWhatTheOperatorCallsFreeCostsNothing(t *testing.T) {
	t.Parallel()
	m := newMCPServer(t)
	s := newServer(t, options{vendor: upstreamtest.Any, to: m.URL, upstream: "free GET /mcp\nfree DELETE /mcp"})
	id, key := s.mint(object{"max_activations": 3})
	for range 20 {
		l := s.listen(key, events)
		if l.StatusCode != http.StatusOK || l.Header.Get("Till-Activations-Remaining") != "3" {
			t.Fatalf("%d, %v", l.StatusCode, l.Header)
		}
		l.close()
	}
	open := s.listen(key, events)
	r := s.post(key, "/mcp", "")
	r.Method = http.MethodDelete
	if res, body := s.must(r); res.StatusCode != http.StatusOK {
		t.Errorf("DELETE: %d %s", res.StatusCode, body)
	}
	for i := range 3 {
		if status, code := s.callTool(key); status != http.StatusOK {
			t.Errorf("call %d: %d %s", i, status, code)
		}
	}
	if status, code := s.callTool(key); status != http.StatusPaymentRequired || code != "till_activations_exhausted" {
		t.Errorf("a fourth call: %d %s", status, code)
	}
	// A dead key listens no more, and is known to be dead while a stream is open.
	if l := s.listen(key, events); l.StatusCode != http.StatusPaymentRequired {
		t.Errorf("a stream of a dead key: %d", l.StatusCode)
	}
	s.eventually("the key has ended", func() bool { return s.show(id)["ended_at"] != nil })
	if m.posts.Load() != 3 || m.gets.Load() != 21 || m.deletes.Load() != 1 {
		t.Errorf("%d calls, %d streams, %d ends", m.posts.Load(), m.gets.Load(), m.deletes.Load())
	}
	open.close()
	if n := s.used(id); n != 3 {
		t.Errorf("%d used", n)
	}
	// Without a rate of its own, 60 in a minute.
	_, other := s.mint(object{"max_activations": 3})
	status := http.StatusOK
	for n := 0; status == http.StatusOK; n++ {
		l := s.listen(other, events)
		if l.close(); l.StatusCode != http.StatusOK {
			status = l.StatusCode
		}
		if n > 1000 {
			t.Fatal("no rate holds")
		}
	}
	if status != http.StatusTooManyRequests {
		t.Errorf("after too many: %d", status)
	}
}

// TestAFreePathOpensNoneThatIsMetered checks that a wide pattern opens no metered
// path.
func TestAFreePathOpensNoneThatIsMetered(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{upstream: "free POST /v1/tools/*\nfree GET /v1/files/*\nallow * /v1/*\nupgrades /v1/files/*"})
	id, key := s.mint(object{"max_tokens": 1_000_000})
	res, body := s.must(s.post(key, "/v1/tools/chat/completions", chatBody))
	if left := res.Header.Get("Till-Tokens-Remaining"); left == "" || left == "1000000" || s.used(id) != 1 { // something was held
		t.Errorf("a metered path below a free one: %d %s, %v", res.StatusCode, body, s.show(id))
	}
	get := func(key, path string, header ...string) *http.Response {
		r := s.request(t.Context(), key, header...)
		r.Method, r.URL.Path, r.Body, r.ContentLength = http.MethodGet, path, http.NoBody, 0
		res, _ := s.must(r)
		return res
	}
	if res := get(key, "/v1/files/f"); res.StatusCode != http.StatusNotFound || s.used(id) != 1 { // by the stand-in
		t.Errorf("a free path: %d, %d used", res.StatusCode, s.used(id))
	}
	if res := get(key, "/v1/files/f", "Connection", "Upgrade", "Upgrade", "websocket"); res.Header.Get("Till-Refusal") != "till_not_meterable" {
		t.Errorf("an upgrade on a free path: %d", res.StatusCode)
	}
	_, some := s.mint(object{"max_activations": 5, "models": []string{"m-1"}})
	if res := get(some, "/v1/files/f"); res.Header.Get("Till-Refusal") != "till_model_not_allowed" {
		t.Errorf("of a key that lists models: %d", res.StatusCode)
	}
	_, limited := s.mint(object{"max_activations": 5, "paths": []string{"/v1/chat/completions"}})
	if res := get(limited, "/v1/files/f"); res.Header.Get("Till-Refusal") != "till_path_not_allowed" {
		t.Errorf("of a key without the path: %d", res.StatusCode)
	}
}

// TestAnOpenEventStreamLeavesRoomForRequests is about max_concurrency 1, with which
// an MCP client could otherwise only listen.
func TestAnOpenEventStreamLeavesRoomForRequests(t *testing.T) {
	t.Parallel()
	m := newMCPServer(t)
	s := newServer(t, options{vendor: upstreamtest.Any, to: m.URL})
	id, key := s.mint(object{"max_activations": 100, "max_concurrency": 1})
	open := s.listen(key, "application/json, "+events)
	if open.StatusCode != http.StatusOK {
		t.Fatal(open.StatusCode)
	}
	for range 3 {
		if status, code := s.callTool(key); status != http.StatusOK {
			t.Errorf("a call beside the stream: %d %s", status, code)
		}
	}
	if l := s.listen(key, events); l.StatusCode != http.StatusTooManyRequests || l.Header.Get("Till-Refusal") != "till_concurrency" {
		t.Errorf("a second stream: %d %s", l.StatusCode, l.Header.Get("Till-Refusal"))
	}
	// One that does not say that it listens is a request.
	other := s.listen(key, "*/*")
	if status, code := s.callTool(key); status != http.StatusTooManyRequests || code != "till_concurrency" {
		t.Errorf("a call beside a request: %d %s", status, code)
	}
	other.close()
	s.eventually("its place is free again", func() bool { status, _ := s.callTool(key); return status == http.StatusOK })
	// Streams end with their key.
	if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != http.StatusOK {
		t.Fatal(status, answer)
	}
	if rest := open.rest(); !strings.Contains(rest, "till_key_revoked") {
		t.Errorf("the stream went on with %q", rest)
	}
	if n := s.used(id); n != 6 {
		t.Errorf("%d used, want two streams and four calls", n)
	}
}
