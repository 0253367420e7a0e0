package e2e

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestChildrenOfAKeyWithOneRuleWork: models, of the key or of its role, or a charge by
// success, and the right to delegate; held and sealed keys. The table over every field
// is TestAParentWithAnyOneRuleHasChildrenThatWork of the handler.
func TestChildrenOfAKeyWithOneRuleWork(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{more: "role some {\n models m\n}"})
	for name, fields := range map[string]object{
		"models": {"models": []string{"m"}}, "a role's models": {"role": "some"}, "charge": {"charge": "success"},
		"sealed, models": {"models": []string{"m"}, "upstream_key": realKey},
	} {
		fields["max_activations"], fields["delegate"] = 100, true
		_, root := s.mint(fields)
		_, child := s.child(root, object{"max_activations": 40, "delegate": true})
		_, below := s.child(child, object{"max_activations": 10})
		for _, key := range []string{below, child, root} {
			for what, r := range map[string]*http.Request{
				"a chat":   s.post(key, "/v1/chat/completions", chatBody),
				"a stream": s.post(key, "/v1/chat/completions", `{"stream":true,`+chatBody[1:]),
				"a list":   func() *http.Request { r := s.post(key, "/v1/models", ""); r.Method = "GET"; return r }(),
			} {
				if res, body := s.must(r); res.StatusCode != http.StatusOK {
					t.Errorf("%s: %s: %d %s", name, what, res.StatusCode, body)
				}
			}
			res, body := s.must(s.post(key, "/v1/chat/completions", `{"model":"large","messages":[]}`))
			if code := res.Header.Get("Till-Refusal"); name != "charge" && code != "till_model_not_allowed" {
				t.Errorf("%s: another model: %d %s", name, res.StatusCode, body)
			}
		}
	}
	s.clean()
}

// TestNoRequestIsLostToAChangeUnderLoad: models come and go, and every request names
// one that is always allowed.
func TestNoRequestIsLostToAChangeUnderLoad(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	s := newServer(t, options{})
	const senders, each = 30, 30
	id, root := s.mint(object{"max_activations": 5000, "delegate": true})
	_, child := s.child(root, object{"max_activations": 1000})
	var done atomic.Bool
	var sending, changing sync.WaitGroup
	changes := 0
	changing.Go(func() {
		for ; !done.Load(); changes++ {
			models := any([]string{"m", "n"})
			if changes%2 == 1 {
				models = nil
			}
			if status, answer := s.inTouch("PATCH", "/keys/"+id, object{"models": models}); status != http.StatusOK {
				t.Errorf("PATCH: %d %v", status, answer)
				return
			}
		}
	})
	for i := range senders {
		sending.Go(func() {
			for range each {
				res, body := s.must(s.request(t.Context(), []string{root, child}[i%2]))
				// A disk may take longer than till waits for it.
				for began := time.Now(); strings.Contains(body, "could not be checked") && time.Since(began) < patience; {
					res, body = s.must(s.request(t.Context(), []string{root, child}[i%2]))
				}
				if res.StatusCode != http.StatusOK {
					t.Errorf("%d %s", res.StatusCode, strings.TrimSpace(body))
				}
			}
		})
	}
	sending.Wait()
	done.Store(true)
	changing.Wait()
	if n := s.upstream.Count(); n != senders*each {
		t.Errorf("the upstream counted %d of %d", n, senders*each)
	}
	t.Logf("%d requests under %d changes", senders*each, changes)
	s.clean()
}
