package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// TestWhoAsksForOneThingAfterTheOtherIsNotRefused has clients that make one request
// at a time with keys that allow no more, and send the next as soon as they see the
// end of an answer. They alternate between a key and its child, whose requests count
// towards the parent's.
func TestWhoAsksForOneThingAfterTheOtherIsNotRefused(t *testing.T) {
	t.Parallel()
	const rounds = 50
	service := httptest.NewServer(http.HandlerFunc(answersUntilKnown))
	t.Cleanup(service.Close)
	guarded := "route /guarded/* {\n\ttill guard\n\treverse_proxy " + strings.TrimPrefix(service.URL, "http://") + "\n}\n"
	s := newServer(t, options{vendor: upstreamtest.Any, to: service.URL, upstream: "upgrades /upgraded", site: guarded, global: "servers {\n\t\tprotocols h1 h2c\n\t}"})
	kinds := map[string]string{"sized": "GET", "failed": "GET", "head": "HEAD", "none": "GET", "streamed": "POST", "guarded/sized": "GET"}
	for name, transport := range map[string]*http.Transport{
		"a connection that is kept": {}, "a connection each": {DisableKeepAlives: true}, "HTTP/2": {Protocols: new(http.Protocols)},
	} {
		if transport.Protocols != nil {
			transport.Protocols.SetUnencryptedHTTP2(true)
		}
		transport.DisableCompression = true
		t.Cleanup(transport.CloseIdleConnections)
		client := &http.Client{Transport: transport, Timeout: patience}
		for path, method := range kinds {
			t.Run(name+", "+path, func(t *testing.T) {
				t.Parallel()
				for i, key := range s.alternates(rounds) {
					r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.addr+"/"+path, nil)
					if err != nil {
						t.Fatal(err)
					}
					r.Header.Set("Authorization", "Bearer "+key)
					res, err := client.Do(r)
					if err != nil {
						t.Fatal(err)
					}
					if code := res.Header.Get("Till-Refusal"); code != "" {
						t.Fatalf("request %d: %s", i, code)
					}
					if err := readUntilKnown(res); err != nil {
						t.Fatalf("request %d: %v", i, err)
					}
				}
			})
		}
	}
	t.Run("an upgraded connection each", func(t *testing.T) {
		t.Parallel()
		for i, key := range s.alternates(rounds) {
			conn := s.dial()
			fmt.Fprintf(conn, "GET /upgraded HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", key)
			from := bufio.NewReader(conn)
			res, err := http.ReadResponse(from, nil)
			if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("request %d: %v, %v", i, res, err)
			}
			if text, err := io.ReadAll(from); err != nil || string(text) != "goodbye" { // its own side stays open for now
				t.Fatalf("request %d: %q, %v", i, text, err)
			}
		}
	})
}

// alternates mints a key and a child that may run one request at a time, together, and
// returns their strings by turns.
func (s *server) alternates(n int) []string {
	_, parent := s.mint(object{"max_activations": 10_000, "max_concurrency": 1, "delegate": true})
	_, child := s.child(parent, object{"max_activations": 1000})
	keys := make([]string, n)
	for i := range keys {
		keys[i] = [...]string{parent, child}[i%2]
	}
	return keys
}

const lastOfStream = "data: [DONE]\n"

// answersUntilKnown ends no stream of its own, as long as its client stays.
func answersUntilKnown(w http.ResponseWriter, r *http.Request) {
	body := strings.Repeat("0123456789abcdef", 4<<10)
	switch path := r.URL.Path; {
	case path == "/none":
		w.WriteHeader(http.StatusNoContent)
	case path == "/streamed":
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n"+lastOfStream+"\n") // who asked may be gone
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case path == "/upgraded":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\ngoodbye")
		_ = rw.Flush()
		_ = conn.Close()
	default:
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		if path == "/failed" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = io.WriteString(w, body)
	}
}

// readUntilKnown reads an answer for as long as there can be more of it.
func readUntilKnown(res *http.Response) error {
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		_, err := io.Copy(io.Discard, res.Body)
		return errors.Join(err, res.Body.Close())
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if lines.Text()+"\n" == lastOfStream {
			return res.Body.Close()
		}
	}
	return fmt.Errorf("no end: %w", errors.Join(lines.Err(), res.Body.Close()))
}
