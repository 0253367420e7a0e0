package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestACountGoesToTheUpstreamAlone: a proxy that a request passes before, such as
// forward_auth, leaves the address that it dialled in the request's context.
func TestACountGoesToTheUpstreamAlone(t *testing.T) {
	t.Parallel()
	var shown, asked atomic.Int64
	gate := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		for _, values := range r.Header {
			if strings.Contains(strings.Join(values, " "), realKey) {
				shown.Add(1)
			}
		}
		if r.URL.Path != "/verify" {
			shown.Add(1)
		}
	}))
	t.Cleanup(gate.Close)
	v := newCountedVendor(t)
	s := newServer(t, options{vendor: "anthropic", to: v.URL, site: fmt.Sprintf("forward_auth %s {\nuri /verify\n}", gate.URL)})
	for range 2 {
		_, key := s.mint(object{"max_spend_usd": "0.10"})
		if res, body := s.counted(key); res.StatusCode != http.StatusOK {
			t.Errorf("%d %s", res.StatusCode, body)
		}
	}
	if shown.Load() != 0 || asked.Load() != 2 || v.counts.Load() != 2 {
		t.Errorf("the gate was asked %d times and shown the credential or the question %d times; the vendor counted %d", asked.Load(), shown.Load(), v.counts.Load())
	}
}

// TestAKeyWhoseCountsFailStopsNobodyElses: a holder chooses what is counted, and so
// whether that can be done in time.
func TestAKeyWhoseCountsFailStopsNobodyElses(t *testing.T) {
	t.Parallel()
	v := newCountedVendor(t)
	var first atomic.Bool
	v.answer(func(w http.ResponseWriter, _ *http.Request, n int) {
		if first.CompareAndSwap(false, true) {
			http.Error(w, "{}", http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"input_tokens":%d}`, n)
	})
	s := newServer(t, options{vendor: "anthropic", to: v.URL})
	for i, status := range []int{http.StatusTooManyRequests, http.StatusOK} {
		_, key := s.mint(object{"max_spend_usd": "0.10"})
		if res, body := s.counted(key); res.StatusCode != status {
			t.Errorf("key %d: %d %s", i, res.StatusCode, body)
		}
	}
}
