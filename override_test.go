package till

import (
	"net/http"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// TestNoOverrideReachesAGuardedHandler, which would see another request than the one that
// the key was checked for.
func TestNoOverrideReachesAGuardedHandler(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.h.Guard = true
	k := s.mint(func(k *record.Key) { k.Upstream = "raw" })
	h := http.Header{"X-Kept": {"x"}}
	for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL", "X-Original-URI"} {
		h.Set(name, "DELETE")
	}
	s.inside = func(r *http.Request) {
		if len(r.Header) != 1 {
			t.Errorf("it saw %v", r.Header)
		}
	}
	if status, _, answer := s.serve(k, asks{method: "GET", path: "/x", header: h}); status != http.StatusOK {
		t.Errorf("%d %s", status, answer)
	}
}
