package e2e

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLockdownCutsStreamsAndHoldsOverReloadRestartAndAClosedStore throws the
// switch under a running stream, and then takes the store's anchor away.
func TestLockdownCutsStreamsAndHoldsOverReloadRestartAndAClosedStore(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	_, key := s.mint(object{"max_activations": 10})
	res, err := s.client.Do(s.streaming(context.Background(), key, 100_000, 5*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() {
		t.Fatal("no event: ", lines.Err())
	}
	status, answer := s.api("POST", "/lockdown", object{"reason": "drill"})
	if status != 200 || answer["streams_cut"] != 1.0 || answer["durable"] != true {
		t.Fatalf("lockdown: %d %v", status, answer)
	}
	var last string
	for lines.Scan() {
		if lines.Text() != "" {
			last = lines.Text()
		}
	}
	if err := lines.Err(); err != nil || !strings.Contains(last, "till_locked_down") && !strings.Contains(last, "[DONE]") {
		t.Errorf("the stream ended with %q, %v", last, err)
	}
	refused := func(when string) {
		t.Helper()
		if status, answer := s.sends(key); status != 403 || !strings.Contains(answer, "till_locked_down") {
			t.Errorf("%s: %d %s", when, status, answer)
		}
	}
	refused("at once")
	ask := s.request(context.Background(), key)
	ask.Method, ask.URL.Path, ask.Body, ask.ContentLength = "GET", "/till/self", nil, 0
	res2, self := s.must(ask)
	if res2.StatusCode != 200 || !strings.Contains(self, `"remaining_activations":9`) {
		t.Errorf("/till/self: %d %s", res2.StatusCode, self)
	}
	s.reload()
	refused("after a reload")
	s.kill9()
	s.start()
	refused("after kill -9")
	s.stop()
	anchor := filepath.Join(s.store(), "anchor")
	kept, err := os.ReadFile(anchor)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(anchor); err != nil {
		t.Fatal(err)
	}
	s.start() // and the store stays closed
	refused("while the store is closed")
	if status, answer := s.api("DELETE", "/lockdown", nil); status != 200 || answer["locked_down"] != false {
		t.Errorf("lifted while the store is closed: %d %v", status, answer)
	}
	if status := s.chat(key); status != 503 {
		t.Errorf("a closed store without a lockdown: %d", status)
	}
	if status, answer := s.api("POST", "/lockdown", object{}); status != 200 || answer["durable"] != true {
		t.Errorf("set while the store is closed: %d %v", status, answer)
	}
	s.stop()
	if err := os.WriteFile(anchor, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	refused("after the store was mended")
	if out, err := s.command("till", "lockdown", "--lift").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if status := s.chat(key); status != 200 {
		t.Errorf("after it was lifted: %d", status)
	}
}
