package e2e

import (
	"net/http"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// TestRulesAndAddressesMayOrMayNotHaveTheVersion covers every place of a path: a key,
// a change, a role, a child, an upstream's own list; and an address with a version.
func TestRulesAndAddressesMayOrMayNotHaveTheVersion(t *testing.T) {
	t.Parallel()
	up := upstreamtest.Start(t, upstreamtest.OpenAI, realKey)
	s := newServer(t, options{to: up.URL + "/v1/", upstream: "allow POST /chat/completions /embeddings\nallow GET /models",
		more: "role one {\n\tpermissions keys:create\n\tpaths /chat/completions\n}"})
	const body = `{"model":"m","messages":[{"role":"user","content":"hi"}],"input":"hi"}`
	judge := func(name, key string) {
		t.Helper()
		for path, want := range map[string]int{
			"/v1/chat/completions": 200, "/chat/completions": 200, "/v1/v1/chat/completions": 200, "/proxy/mock/chat/completions": 200,
			"/v1/embeddings": 403, "/embeddings": 403, "/v1/chat/completions/x": 403, "/v1/x/chat/completions": 403, "/v1/chat/completions;x": 403,
		} {
			if res, said := s.must(s.post(key, path, body)); res.StatusCode != want {
				t.Errorf("%s: POST %s: %d %s", name, path, res.StatusCode, said)
			}
		}
	}
	for _, rule := range []string{"/chat/completions", "/v1/chat/completions", "/chat/*s", "/*/chat/completions"} {
		_, key := s.mint(object{"max_activations": 20, "paths": []string{rule}})
		judge(rule, key)
	}
	id, key := s.mint(object{"max_activations": 20})
	if status, answer := s.api("PATCH", "/keys/"+id, object{"paths": []string{"/chat/completions"}}); status != http.StatusOK {
		t.Fatalf("%d %v", status, answer)
	}
	judge("changed", key)
	_, key = s.mint(object{"max_activations": 20, "role": "one"})
	judge("of a role", key)
	_, key = s.mint(object{"max_activations": 40, "delegate": true, "paths": []string{"/chat/completions"}})
	_, child := s.child(key, object{"max_activations": 20})
	judge("a child", child)
	_, key = s.mint(object{"max_activations": 20})
	for path, want := range map[string]int{"/v1/chat/completions": 200, "/v1/responses": 403, "/v1/files": 403} {
		if res, said := s.must(s.post(key, path, body)); res.StatusCode != want {
			t.Errorf("by the upstream's own list: %s: %d %s", path, res.StatusCode, said)
		}
	}
	if last := up.Last(); last == nil || last.Path != "/v1/chat/completions" {
		t.Errorf("%+v arrived last", last)
	}
	if v := up.Violations(); len(v) > 0 {
		t.Error(v)
	}
}
