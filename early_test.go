package till

import (
	"crypto/tls"
	"net/http"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// TestEarlyDataIsRefused on every path of a key, and under a guard: the address that it
// came from is not verified, and it may be sent again.
func TestEarlyDataIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	k := s.mint()
	for _, guard := range []bool{false, true} {
		s.h.Guard = guard
		for _, a := range []asks{chat("m"), {method: "GET", path: "/v1/models"}, {method: "GET", path: selfPath}, {method: "DELETE", path: selfPath}, {method: "POST", path: childrenPath, body: "{}"}} {
			a.as = func(r *http.Request) { r.TLS = new(tls.ConnectionState) }
			status, h, answer := s.serveAll(k, a)
			if status != http.StatusTooEarly || h.Get("Till-Refusal") != string(record.CodeTooEarly) || h.Get("Retry-After") != "1" || h.Get("X-Should-Retry") != "true" {
				t.Errorf("guard %t, %s %s: %d %v %s", guard, a.method, a.path, status, h, answer)
			}
		}
	}
	s.h.Guard = false
	if s.forwarded.Load() != 0 || s.view(k).Used[record.Activations] != 0 || s.view(k).Status != record.Active {
		t.Errorf("%d forwarded, %+v", s.forwarded.Load(), s.view(k))
	}
	a := chat("m")
	a.as = func(r *http.Request) { r.TLS = &tls.ConnectionState{HandshakeComplete: true} }
	if status, code, answer := s.serve(k, a); status != http.StatusOK {
		t.Errorf("after the handshake: %d %s %s", status, code, answer)
	}
}
