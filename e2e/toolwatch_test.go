package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// scopedMark begins every scoped key.
const scopedMark = "till_sk_"

// watched is a server that keeps a log of its own: what came, and what never may.
// It takes the real key alone, as a bearer token, by HTTP Basic, or in the header of Google's.
type watched struct {
	*httptest.Server

	mu       sync.Mutex
	server   http.Handler
	requests []string // methods and paths, in their order
	faults   []string
}

// watch starts the log; serve says whose it is.
func watch(t *testing.T) *watched {
	t.Helper()
	w := new(watched)
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		server := w.server
		w.mu.Unlock()
		w.note(r)
		user, password, basic := r.BasicAuth()
		bearer := r.Header.Get("Authorization") == "Bearer "+realKey
		if !bearer && !(basic && (user == realKey) != (password == realKey)) && r.Header.Get("X-Goog-Api-Key") != realKey {
			w.fault("%s %s came without the real key", r.Method, r.URL.Path)
			rw.Header().Set("WWW-Authenticate", `Basic realm="upstream"`)
			http.Error(rw, "a key that is not for this server", http.StatusUnauthorized)
			return
		}
		r.Header.Del("Authorization")
		r.Body = &searched{ReadCloser: r.Body, found: func() { w.fault("%s %s has a scoped key in its body", r.Method, r.URL.Path) }}
		server.ServeHTTP(rw, r)
	}))
	t.Cleanup(func() {
		w.CloseClientConnections()
		w.Close()
	})
	return w
}

// serve puts the log in front of a server, which is not asked for a key again.
func (w *watched) serve(server http.Handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.server = server
}

// note logs a request, and whether a scoped key stands in its head.
func (w *watched) note(r *http.Request) {
	w.mu.Lock()
	w.requests = append(w.requests, r.Method+" "+r.URL.Path)
	w.mu.Unlock()
	user, password, _ := r.BasicAuth()
	if head := fmt.Sprint(r.Method, r.RequestURI, r.Host, r.Header, user, password); strings.Contains(head, scopedMark) {
		w.fault("%s %s has a scoped key in its head", r.Method, r.URL.Path)
	}
}

func (w *watched) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// log is what came since it was asked last, and what was wrong with it.
func (w *watched) log() (requests, faults []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	requests, faults = w.requests, w.faults
	w.requests, w.faults = nil, nil
	return slices.Clone(requests), slices.Clone(faults)
}

// searched looks for a scoped key in a body as it is read.
type searched struct {
	io.ReadCloser
	tail  []byte
	found func()
}

func (s *searched) Read(b []byte) (int, error) {
	n, err := s.ReadCloser.Read(b)
	s.tail = append(s.tail, b[:n]...)
	if bytes.Contains(s.tail, []byte(scopedMark)) {
		s.found()
	}
	s.tail = bytes.Clone(s.tail[max(0, len(s.tail)-len(scopedMark)+1):])
	return n, err
}

// process starts a server and hands its requests on to it, with the Host that they
// came for.
func process(t *testing.T, address string, cmd *exec.Cmd) http.Handler {
	t.Helper()
	var said syncBuffer
	cmd.Stdout, cmd.Stderr = &said, &said
	endWithTests(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err == nil {
			<-ended
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for up := listens(address); !up; {
		select {
		case err := <-ended:
			t.Fatalf("%s ended: %v\n%s", cmd.Path, err, said.String())
		case <-ctx.Done():
			t.Fatalf("%s does not listen\n%s", cmd.Path, said.String())
		case <-time.After(20 * time.Millisecond): // between two looks, or it would have no processor left
			up = listens(address)
		}
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address})
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	proxy.Transport, proxy.FlushInterval = transport, -1
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	return passesOn(t, proxy)
}

func listens(address string) bool {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return false
	}
	return c.Close() == nil
}
