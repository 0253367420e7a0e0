package e2e

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestAConfigurationThatFailsToStartChangesNothing offers a configuration with
// wider ceilings whose site cannot listen. Caddy starts its apps in any order, so
// till has taken the configuration up in about half of the tries.
func TestAConfigurationThatFailsToStartChangesNothing(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := newServer(t, options{more: "role ci {\n max_activations 5\n}"})
	before, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	wider := strings.Replace(string(before), "max_activations 5", "max_activations 500", 1) +
		"http://:" + port + " {\n\trespond ok\n}\n"
	for range 8 {
		r, err := http.NewRequest("POST", "http://"+s.admin+"/load", bytes.NewBufferString(wider))
		if err != nil {
			t.Fatal(err)
		}
		r.Close = true // the endpoint is replaced, and its connections with it
		r.Header.Set("Content-Type", "text/caddyfile")
		res, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode == http.StatusOK || !strings.Contains(string(answer), "listen") {
			t.Fatalf("%s %s %v, want that it cannot listen", res.Status, answer, err)
		}
		res.Body.Close()
		s.oldEndpointIsGone() // one that failed replaces it, too
		fields := object{"upstream": "mock", "role": "ci", "max_activations": 6}
		if status, answer := s.api("POST", "/keys", fields); status == http.StatusCreated {
			t.Fatalf("a key above the ceiling of the configuration that runs: %v", answer)
		}
	}
	s.write(strings.Replace(string(before), "max_activations 5", "max_activations 500", 1))
	s.reload()
	s.mint(object{"role": "ci", "max_activations": 6})
}
