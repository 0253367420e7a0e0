package till

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestNothingIsCountedWhereRequestsGoSeveralWays: by one of them the credential might
// travel unencrypted.
func TestNothingIsCountedWhereRequestsGoSeveralWays(t *testing.T) {
	t.Parallel()
	c := new(vendorCount)
	first, second, third := new(Transport), new(Transport), new(Transport)
	c.addTransport(first, []byte(`{"tls":{}}`))
	c.addTransport(second, []byte(`{"tls":{}}`))
	if c.transport.Load() != second {
		t.Error("two that are alike")
	}
	c.addTransport(third, []byte(`{"tls":{"insecure_skip_verify":true}}`))
	if c.transport.Load() != nil {
		t.Error("one is another")
	}
	c.addTransport(first, []byte(`{"tls":{}}`))
	if c.transport.Load() != nil {
		t.Error("it is forgotten")
	}
}

// tooLong is a request of some 14,000 tokens, and 56,000 by its length.
var tooLong = asks{method: "POST", path: "/v1/responses", body: `{"model":"gpt-5-mini","max_output_tokens":300,"input":"` + strings.Repeat("Mind the gap. ", 4000) + `"}`}

// TestARequestThatIsNotCountedInTimeMayComeAgain: other counts of its key were before it, or
// there were too many of them. A final refusal would end an agent whose budget is not spent.
func TestARequestThatIsNotCountedInTimeMayComeAgain(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*record.Key){
		"tokens":                 func(k *record.Key) { k.Limit[record.Tokens] = 30_000 },
		"dollars":                func(k *record.Key) { k.Limit[record.Nanodollars] = 8_000_000 },
		"dollars of one request": func(k *record.Key) { k.Limit[record.Nanodollars], k.MaxRequestSpend = 1e12, 8_000_000 },
	} {
		for why, crowd := range map[string]func(s *site, c *vendorCount, k minted){
			"another is counted": func(_ *site, c *vendorCount, k minted) { c.running.Store(k.id, make(chan struct{})) },
			"too many were counted": func(s *site, _ *vendorCount, k minted) {
				for may := true; may; {
					may, _ = s.live(k).MayProbe(&limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: tooLong.path})
				}
			},
		} {
			t.Run(name+", "+why, func(t *testing.T) {
				t.Parallel()
				// In real time, a count more may be allowed while the request is on its way.
				synctest.Test(t, func(t *testing.T) {
					s := newSite(t, nil)
					k := s.mint(limit)
					to := s.h.app.targets["openai"]
					way := &Transport{target: to}
					way.TLS = new(reverseproxy.TLSConfig)
					to.vendorCount.transport.Store(way)
					crowd(s, &to.vendorCount, k)
					if status, code, answer := s.serve(k, tooLong); status != http.StatusTooManyRequests || code != record.CodeBudgetHeld {
						t.Errorf("%d %s", status, answer)
					}
				})
			})
		}
	}
}
