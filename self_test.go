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
