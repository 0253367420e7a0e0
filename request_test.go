package till

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/limiter/record"
)

// BenchmarkRequest measures what the handler adds to a request, without the upstream.
func BenchmarkRequest(b *testing.B) {
	s := newSite(b, nil)
	many := func(k *record.Key) { k.Limit[record.Activations] = 1 << 40 }
	tokens := s.mint(many, func(k *record.Key) { k.Limit[record.Tokens] = 1 << 40 })
	for name, request := range map[string]struct {
		key    minted
		header http.Header
		asks   asks
	}{
		"without a body":         {s.mint(many), nil, asks{method: "GET", path: "/v1/responses/a"}},
		"with a small body":      {s.mint(many), nil, chat("gpt-5-mini")},
		"limited in tokens":      {tokens, nil, chat("gpt-5-mini")},
		"before its body":        {s.mint(many), http.Header{"Expect": {"100-continue"}}, chat("gpt-5-mini")},
		"refused":                {s.mint(many), nil, asks{method: "GET", path: "/v1/organization/users"}},
		"refused, without a key": {minted{}, nil, asks{method: "GET", path: "/v1/models"}},
	} {
		b.Run(name, func(b *testing.B) {
			next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				x := exchangeOf(r.Context())
				x.dispatched.Store(true)
				x.status.Store(http.StatusNotFound)
				x.setRemainingHeaders(w.Header())
				w.WriteHeader(http.StatusNotFound)
				return nil
			})
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(request.asks.method, "http://till.test"+request.asks.path, strings.NewReader(request.asks.body))
				for name, values := range request.header {
					r.Header[name] = values
				}
				r.Header["Content-Type"] = []string{"application/json"}
				r.Header["Authorization"] = []string{"Bearer " + request.key.text}
				ctx := context.WithValue(b.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: "192.0.2.1"})
				r = r.WithContext(context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer()))
				if err := s.h.ServeHTTP(discarded{http.Header{}}, r, next); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// discarded is an answer that nobody reads.
type discarded struct{ header http.Header }

func (d discarded) Header() http.Header       { return d.header }
func (discarded) Write(b []byte) (int, error) { return io.Discard.Write(b) }
func (discarded) WriteHeader(int)             {}
