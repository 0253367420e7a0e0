package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// TestWhatIsCutBehindAGuardGetsTheReason covers each kind of waiting handler and each
// reason, over HTTP/1.1 and HTTP/2. A response that has begun ends.
func TestWhatIsCutBehindAGuardGetsTheReason(t *testing.T) {
	t.Parallel()
	var waiting atomic.Int64
	hangs := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/begun") {
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, "the beginning\n")
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.Copy(io.Discard, r.Body)
		waiting.Add(1)
		<-r.Context().Done()
	})
	service := httptest.NewServer(hangs)
	t.Cleanup(service.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() }) //nolint:errcheck // it may be closed
	// Caddy's transport for it does not notice that a request was ended: its answer
	// comes after the cut.
	release := make(chan struct{})
	go fcgi.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:errcheck // it ends with its listener
		waiting.Add(1)
		<-release
		fmt.Fprint(w, "late")
	}))
	guarded := func(path, handlers string) string {
		return "route /" + path + "/* {\n\ttill guard\n\t" + handlers + "\n}\n"
	}
	sites := guarded("plain", "reverse_proxy "+service.URL) +
		guarded("encoded", "encode gzip\nreverse_proxy "+service.URL) +
		guarded("retried", "reverse_proxy "+service.URL+" {\n\t\tlb_try_duration 1m\n\t\tlb_retry_match method POST\n\t}") +
		guarded("handled", "reverse_proxy "+service.URL+" {\n\t\thandle_response {\n\t\t\trespond handled\n\t\t}\n\t}") +
		guarded("nested", "handle {\n\t\theader X-A a\n\t\treverse_proxy "+service.URL+"\n\t}") +
		guarded("fastcgi", "reverse_proxy "+l.Addr().String()+" {\n\t\ttransport fastcgi\n\t}")
	s := newServer(t, options{vendor: upstreamtest.Any, site: sites})
	base, trust := s.secure(sites)
	second := http2Client(t, trust)
	asks := func(client *http.Client, base, path, key string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(context.Background(), "POST", base+path, strings.NewReader("{}"))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+key)
		return client.Do(r)
	}
	reasons := []struct {
		name, code string
		mint       object
		act        func(id string) (int, object)
	}{
		{"revoked", "till_key_revoked", object{"max_activations": 1}, func(id string) (int, object) { return s.api("POST", "/keys/"+id+"/revoke", object{}) }},
		{"suspended", "till_key_suspended", object{"max_activations": 1}, func(id string) (int, object) { return s.api("POST", "/keys/"+id+"/suspend", object{}) }},
		{"expired", "till_key_expired", object{"max_activations": 2}, func(id string) (int, object) { return s.endsSoon(id, "expires_at") }},
		{"locked down", "till_locked_down", object{"max_activations": 1}, func(string) (int, object) { return s.api("POST", "/lockdown", object{"reason": "test"}) }},
	}
	for i, reason := range reasons {
		paths := []string{"plain"}
		if i == 0 {
			paths = []string{"plain", "encoded", "retried", "handled", "nested", "fastcgi"}
		}
		for _, path := range paths {
			for _, version := range []struct {
				client *http.Client
				base   string
			}{{s.client, "http://" + s.addr}, {second, base}} {
				name := fmt.Sprintf("%s, %s, %s", reason.name, path, version.base[:5])
				id, key := s.mint(reason.mint)
				before := waiting.Load()
				got := make(chan string, 1)
				go func() {
					res, err := asks(version.client, version.base, "/"+path+"/x", key)
					if err != nil {
						got <- err.Error()
						return
					}
					defer res.Body.Close()
					body, err := io.ReadAll(res.Body)
					got <- fmt.Sprint(res.StatusCode, " ", res.Header.Get("Till-Refusal"), " ", res.Header.Get("Till-Key") == id, " ", strings.Contains(string(body), reason.code), " ", err)
				}()
				s.eventually(name+": it waits", func() bool { return waiting.Load() > before })
				if status, answer := reason.act(id); status != 200 {
					t.Fatalf("%s: %d %v", name, status, answer)
				}
				if path == "fastcgi" {
					release <- struct{}{}
				}
				status := 403
				if reason.name == "expired" {
					status = 402
				}
				if said, want := <-got, fmt.Sprint(status, " ", reason.code, " true true <nil>"); said != want {
					t.Errorf("%s: %s, want %s", name, said, want)
				}
				if reason.name == "locked down" {
					if status, answer := s.api("DELETE", "/lockdown", nil); status != 200 {
						t.Fatalf("%d %v", status, answer)
					}
				}
			}
		}
	}
	// What had begun is broken off, and not taken for whole.
	id, key := s.mint(object{"max_activations": 1})
	res, err := asks(s.client, "http://"+s.addr, "/plain/begun", key)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body := bufio.NewReader(res.Body)
	if line, err := body.ReadString('\n'); line != "the beginning\n" || err != nil {
		t.Fatalf("%q %v", line, err)
	}
	if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != 200 {
		t.Fatalf("%d %v", status, answer)
	}
	if rest, err := io.ReadAll(body); res.StatusCode != 200 || len(rest) > 0 || err == nil {
		t.Errorf("%d, then %q, %v", res.StatusCode, rest, err)
	}
}
