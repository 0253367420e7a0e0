package till

import (
	"net/http"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// TestHoldersMayWriteASlashTooMany, as they may in every other path; behind a guard paths
// are taken as they come.
func TestHoldersMayWriteASlashTooMany(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	for i, a := range []struct {
		asks
		status int
	}{
		{asks{method: "GET", path: "//till/self"}, 200},
		{asks{method: "HEAD", path: "///till/self"}, 200},
		{asks{method: "POST", path: "//till/self/keys", body: `{"max_activations":1}`}, 201},
		{asks{method: "PUT", path: "//till/self"}, 405},
		{asks{method: "GET", path: "//till/self/keys"}, 405},
		{asks{method: "GET", path: "//till/other"}, 404},
		{asks{method: "DELETE", path: "//till/self"}, 200},
	} {
		k := s.mint()
		if status, _, answer := s.serve(k, a.asks); status != a.status {
			t.Errorf("%s %s: %d %s", a.method, a.path, status, answer)
		}
		if revoked := s.view(k).Status == record.Revoked; revoked != (a.method == http.MethodDelete) {
			t.Errorf("%d: revoked %t", i, revoked)
		}
	}
}

// TestAMintThatMayBeDoneIsNotToBeSentAgain lets each commit of a mint fail although it
// reaches the disk.
func TestAMintThatMayBeDoneIsNotToBeSentAgain(t *testing.T) {
	t.Parallel()
	unknown := 0
	for n := 1; ; n++ {
		s := newSite(t, nil)
		k := s.mint()
		disk := s.h.app.storage.(memoryStorage).disk
		disk.FailAt(n, true)
		status, h, answer := s.serveAll(k, asks{method: "POST", path: "/till/self/keys", body: `{"max_activations":1}`})
		disk.Heal()
		if status == http.StatusCreated { // it takes fewer commits
			break
		}
		if code := h.Get("Till-Refusal"); code != string(record.CodeStoreUnavailable) {
			t.Errorf("commit %d failed: %d %s %s", n, status, code, answer)
		}
		retry, after := h.Get("X-Should-Retry"), h.Get("Retry-After")
		switch status {
		case http.StatusServiceUnavailable:
			if after == "" {
				t.Errorf("commit %d failed: it does not say when to try again: %s", n, answer)
			}
		case http.StatusInternalServerError:
			unknown++
			if retry != "false" || after != "" {
				t.Errorf("commit %d failed: retry %q, after %q: %s", n, retry, after, answer)
			}
		default:
			t.Errorf("commit %d failed: %d %s", n, status, answer)
		}
	}
	if unknown == 0 {
		t.Error("no failure was of an unknown outcome")
	}
}
