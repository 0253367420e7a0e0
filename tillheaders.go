package till

import (
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/limiter/record"
)

// headerValues holds the values of till's own headers, one for each header, in one
// allocation.
type headerValues [6]string

// set sets a header to the value at a place of the memory.
func (s *headerValues) set(h http.Header, place int, name, value string) {
	s[place] = value
	h[name] = s[place : place+1 : place+1]
}

// setKeyHeaders identifies the key of an admitted request to the client and to the
// handlers below.
func (x *exchange) setKeyHeaders(h http.Header, r *http.Request) {
	key := x.grant.Key()
	x.headers.set(h, 0, "Till-Key", key.ID)
	if !key.ExpiresAt.IsZero() {
		x.headers.set(h, 1, "Till-Expires", key.ExpiresAt.UTC().Format(time.RFC3339))
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Map(func(name string) (any, bool) {
		switch name {
		case "http.till.key_id":
			return key.ID, true
		case "http.till.key_name":
			return key.Name, true
		case "http.till.upstream":
			return key.Upstream, true
		case "http.till.activations_remaining":
			if n := x.grant.Remaining()[record.Activations]; n != record.NoLimit {
				return strconv.FormatInt(n, 10), true
			}
			return "", true
		}
		return nil, false
	})
}

// setRemainingHeaders tells the client what is left. That is known only once there is
// an answer: what was reserved for a request that fails earlier may be refunded.
func (x *exchange) setRemainingHeaders(h http.Header) {
	left := x.grant.Remaining()
	if n := left[record.Activations]; n != record.NoLimit {
		x.headers.set(h, 2, "Till-Activations-Remaining", strconv.FormatInt(n, 10))
	}
	if n := left[record.Tokens]; n != record.NoLimit {
		x.headers.set(h, 3, "Till-Tokens-Remaining", strconv.FormatInt(n, 10))
	}
	if n := left[record.Nanodollars]; n != record.NoLimit {
		x.headers.set(h, 4, "Till-Spend-Remaining", record.FormatUSD(n))
	}
	if n := x.usage.lowered(); n >= 0 {
		x.headers.set(h, 5, "Till-Output-Limit", strconv.FormatInt(n, 10))
	}
}
