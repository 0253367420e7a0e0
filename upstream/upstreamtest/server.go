// Package upstreamtest is a strict stand-in for the vendors' APIs, for tests: it
// speaks the protocols of OpenAI, Anthropic, Gemini, Cohere and Mistral, and OpenAI's
// at the paths of the vendors that copied it; it insists on the right credential in
// the right header, and records every request. It is never part of the product.
package upstreamtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Vendor is the protocol that a Server speaks: one of those below, or the name
// of a vendor that speaks OpenAI's.
type Vendor string

// The vendors.
const (
	OpenAI    Vendor = "openai"
	Anthropic Vendor = "anthropic"
	Gemini    Vendor = "gemini"
	Cohere    Vendor = "cohere"
	Mistral   Vendor = "mistral"
	// Any answers every path with a small JSON object; the credential is
	// expected as a bearer token.
	Any Vendor = "any"
)

// A test controls the answer to a request by these headers, which till passes on
// untouched.
const (
	HeaderStatus = "X-Test-Status" // answer with this status
	HeaderEvents = "X-Test-Events" // stream this many events
	HeaderPause  = "X-Test-Pause"  // pause between events, such as 5ms
	HeaderFail   = "X-Test-Fail"   // "before" or "after" the first byte, or "hang"
	HeaderHold   = "X-Test-Hold"   // answer only when Release is called
)

// Request is a request as the server received it.
type Request struct {
	Method string
	Path   string // escaped, as it was sent
	Query  string
	Host   string
	Header http.Header
	Body   []byte
}

// Server is a running stand-in.
type Server struct {
	*httptest.Server
	vendor  Vendor
	latency atomic.Int64

	count atomic.Int64
	last  atomic.Pointer[Request]

	mu          sync.Mutex
	credentials map[string]int64 // the valid credentials, with how many requests used each
	violations  []string
	release     chan struct{}
	held        chan struct{} // gets a value for each request that is being held
}

// Start runs a stand-in on loopback until the test ends.
func Start(t interface {
	Cleanup(func())
	Helper()
}, vendor Vendor, credential string) *Server {
	t.Helper()
	s := &Server{vendor: vendor, credentials: map[string]int64{credential: 0}, release: make(chan struct{}), held: make(chan struct{}, 1024)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// Count returns how many requests came, valid or not.
func (s *Server) Count() int64 { return s.count.Load() }

func (s *Server) Last() *Request { return s.last.Load() }

// Accept adds a valid credential.
func (s *Server) Accept(credential string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credentials[credential] = 0
}

// Retire makes a credential invalid, and returns how many requests used it.
func (s *Server) Retire(credential string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.credentials[credential]
	delete(s.credentials, credential)
	return n
}

// Uses returns how many requests used a valid credential.
func (s *Server) Uses(credential string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.credentials[credential]
}

func (s *Server) shows(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for credential := range s.credentials {
		if strings.Contains(text, credential) {
			return true
		}
	}
	return false
}

func (s *Server) SetLatency(d time.Duration) { s.latency.Store(int64(d)) }

// Violations returns what was wrong with the requests.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// Held waits until a request is being held.
func (s *Server) Held(ctx context.Context) error {
	select {
	case <-s.held:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Release answers every held request, now and later.
func (s *Server) Release() { close(s.release) }

func (s *Server) violate(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.violations) < 100 {
		s.violations = append(s.violations, fmt.Sprintf(format, args...))
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.count.Add(1)
	body, err := io.ReadAll(io.LimitReader(r.Body, 32<<20))
	if err != nil {
		s.violate("reading the body: %v", err)
		return
	}
	s.last.Store(&Request{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Host, r.Header.Clone(), body})
	if !s.inspect(r, body) {
		s.fail(w, http.StatusUnauthorized, "wrong credential")
		return
	}
	if d := time.Duration(s.latency.Load()); d > 0 {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
			return
		}
	}
	if r.Header.Get(HeaderHold) != "" {
		s.held <- struct{}{}
		select {
		case <-s.release:
		case <-r.Context().Done():
			return
		}
	}
	switch r.Header.Get(HeaderFail) {
	case "before":
		reset(w)
		return
	case "hang":
		<-r.Context().Done()
		return
	}
	if text := r.Header.Get(HeaderStatus); text != "" {
		status, err := strconv.Atoi(text)
		if err != nil {
			status = http.StatusTeapot
		}
		s.fail(w, status, "as the test asked")
		return
	}
	s.answer(w, r, body)
}

// reset breaks the connection.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // sends a reset instead of closing cleanly
	}
	_ = conn.Close()
}

// slot is where the vendor expects the credential. Gemini's API in OpenAI's form does not
// take it where its own does.
func (v Vendor) slot(path string) string {
	switch {
	case v == Anthropic:
		return "X-Api-Key"
	case v == Gemini && !strings.Contains(path, "/openai/") && !strings.HasSuffix(path, "/chat/completions"):
		return "X-Goog-Api-Key"
	}
	return "Authorization"
}

// strangers are headers that must never reach a vendor.
var strangers = []string{
	"Forwarded", "Via", "X-Real-Ip", "Cookie",
	"X-Http-Method-Override", "X-Original-Url", "X-Rewrite-Url", "Proxy-Authorization",
}

// inspect records what is wrong with a request and reports whether its
// credential is right.
func (s *Server) inspect(r *http.Request, body []byte) bool {
	where, own := r.Method+" "+r.URL.Path, s.vendor.slot(r.URL.Path)
	for name, values := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded") {
			s.violate("%s: header %s: %q", where, name, values)
		}
		for _, v := range values {
			if strings.Contains(v, "till_sk_") {
				s.violate("%s: a scoped key in %s", where, name)
			}
			if name != own && s.shows(v) {
				s.violate("%s: the credential in %s", where, name)
			}
		}
	}
	if strings.Contains(r.URL.String(), "till_sk_") || bytes.Contains(body, []byte("till_sk_")) {
		s.violate("%s: a scoped key in URL or body", where)
	}
	if s.shows(r.URL.String()) || s.shows(string(body)) {
		s.violate("%s: the credential in URL or body", where)
	}
	for _, name := range strangers {
		if v, ok := r.Header[name]; ok {
			s.violate("%s: header %s: %q", where, name, v)
		}
	}
	for _, slot := range []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key"} {
		if slot != own && r.Header.Get(slot) != "" {
			s.violate("%s: header %s is not where this belongs", where, slot)
		}
	}
	scheme := ""
	if own == "Authorization" {
		scheme = "Bearer "
	}
	got := r.Header[own]
	if len(got) == 1 {
		credential, ok := strings.CutPrefix(got[0], scheme)
		s.mu.Lock()
		n, good := s.credentials[credential]
		if good && ok {
			s.credentials[credential] = n + 1
		}
		s.mu.Unlock()
		if good && ok {
			return true
		}
	}
	s.violate("%s: not exactly the credential in %s", where, own)
	return false
}

func (s *Server) fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	write(w, map[string]any{"error": map[string]any{"message": message, "type": "test_error", "code": strconv.Itoa(status)}})
}

func write(w io.Writer, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(http.ErrAbortHandler)
	}
}
