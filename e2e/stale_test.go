package e2e

import (
	"net/http"
	"testing"
)

func TestStaleAfterIsWhatTheCaddyfileSays(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{more: "stale_after 1s"})
	id, _ := s.mint(object{"max_activations": 500})
	var entry object
	s.eventually("the key is stale", func() bool {
		status, answer := s.api("GET", "/stale", nil)
		if keys, ok := answer["keys"].([]any); ok && status == http.StatusOK && len(keys) == 1 {
			entry = keys[0].(object)
		}
		return entry != nil
	})
	if entry["reason"] != "never_used" || entry["key"].(object)["id"] != id || entry["fix"] != "caddy till revoke "+id+" --reason unused" {
		t.Errorf("%v", entry)
	}
	s.replace("stale_after 1s", "stale_after 30d")
	s.reload()
	if _, answer := s.api("GET", "/stale", nil); len(answer["keys"].([]any)) != 0 {
		t.Errorf("after the reload: %v", answer)
	}
	s.replace("stale_after 30d", "stale_after 1s revoke") // last, because the key is then stale for a moment only
	s.reload()
	s.eventually("the key is revoked", func() bool { return s.show(id)["status"] == "revoked" })
}
