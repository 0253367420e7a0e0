package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestARoleOrUpstreamThatIsGoneStopsItsKeysAndForgetsNothing removes a role and an
// upstream from the configuration and restores them.
func TestARoleOrUpstreamThatIsGoneStopsItsKeysAndForgetsNothing(t *testing.T) {
	t.Parallel()
	role := "role ci {\n budget activations 3\n}"
	second := "upstream second openai {\n to http://127.0.0.1:9\n credential {env.MOCK_KEY}\n}"
	s := newServer(t, options{more: role + "\n" + second})
	_, key := s.mint(object{"max_activations": 10, "role": "ci", "upstream": "mock"})
	_, other := s.mint(object{"max_activations": 10, "upstream": "second"})
	for range 2 {
		if status := s.chat(key); status != http.StatusOK {
			t.Fatal(status)
		}
	}
	s.replace(role, "")
	s.replace(second, "")
	s.reload()
	for name, k := range map[string]string{"role": key, "upstream": other} {
		if status, answer := s.sends(k); status != http.StatusServiceUnavailable {
			t.Errorf("without its %s: %d %s", name, status, answer)
		}
	}
	s.kill9()
	s.start()
	if status, answer := s.sends(key); status != http.StatusServiceUnavailable {
		t.Errorf("without its role, after kill -9: %d %s", status, answer)
	}
	s.replace("upstream mock", role+"\nupstream mock")
	s.reload()
	if status := s.chat(key); status != http.StatusOK {
		t.Errorf("with its role again: %d", status)
	}
	if status, answer := s.sends(key); status != http.StatusPaymentRequired {
		t.Errorf("after 3 of 3 in all: %d %s", status, answer)
	}
}

// TestWhatWasAcknowledgedIsInTheAuditLogOverKills ends Caddy while keys are
// minted, changed and revoked, and then looks for each act that was answered.
func TestWhatWasAcknowledgedIsInTheAuditLogOverKills(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	var mu sync.Mutex
	acknowledged := map[string]int{} // action and key
	for range 3 {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		mu.Lock()
		before := len(acknowledged)
		mu.Unlock()
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					id, ok := s.tries("POST", "/keys", `{"max_activations":5}`)
					if !ok { // it was killed, or its disk was late
						time.Sleep(refusedPace)
						continue
					}
					for _, act := range []struct{ method, path, body, action string }{
						{"POST", "/keys/" + id + "/grant", `{"activations":1}`, "key.grant"},
						{"POST", "/keys/" + id + "/revoke", "", "key.revoke"},
					} {
						mu.Lock()
						acknowledged["key.create "+id] = 1
						mu.Unlock()
						if _, ok := s.tries(act.method, act.path, act.body); !ok {
							break
						}
						mu.Lock()
						acknowledged[act.action+" "+id] = 1
						mu.Unlock()
					}
				}
			})
		}
		s.eventually("some acts were acknowledged", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acknowledged) > before+100
		})
		s.kill9()
		close(stop)
		wg.Wait()
		s.start()
	}
	export := filepath.Join(s.dir, "audit.jsonl")
	if out, err := s.command("till", "audit", "export", export).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := s.command("till", "audit", "verify", export).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(export)
	if err != nil {
		t.Fatal(err)
	}
	entry := regexp.MustCompile(`"action":"(key\.\w+)".*"key":"(key_\w+)"`)
	found := map[string]int{}
	for line := range strings.Lines(string(b)) {
		if m := entry.FindStringSubmatch(line); m != nil {
			found[m[1]+" "+m[2]]++
		}
	}
	for act := range acknowledged {
		if found[act] != 1 {
			t.Errorf("%s was acknowledged, and is in the log %d times", act, found[act])
		}
	}
	t.Logf("%d acts were acknowledged over 3 kills; all are in the log once, of %d entries", len(acknowledged), strings.Count(string(b), "\n"))
}

// tries makes a call that may be cut off; ok says that it was answered well.
func (s *server) tries(method, path, body string) (key string, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+s.admin+"/till"+path, strings.NewReader(body))
	if err != nil {
		s.t.Error(err)
		return "", false
	}
	res, err := s.client.Do(r)
	if err != nil {
		return "", false
	}
	defer res.Body.Close()
	var answer struct{ ID string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || res.StatusCode/100 != 2 {
		return "", false
	}
	return answer.ID, true
}
