package till

import (
	"maps"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
)

// warnProxy logs which options of the reverse_proxy around this transport have no
// effect, or a side effect. In JSON they do not go through the Caddyfile's own checks.
func (t *Transport) warnProxy(ctx caddy.Context) {
	for _, module := range ctx.Modules() {
		proxy, ok := module.(*reverseproxy.Handler)
		if !ok {
			continue
		}
		for _, what := range t.target.doubtsAbout(proxy) {
			t.logger.Warn(what, zap.String("upstream", t.Upstream))
		}
	}
}

// doubtsAbout describes the options that may not be what the operator meant.
func (t *target) doubtsAbout(proxy *reverseproxy.Handler) (doubts []string) {
	if countsRefusals(proxy.HealthChecks) {
		doubts = append(doubts, "unhealthy_status includes 502, which is also what till answers in place of an answer that it withholds, such as a redirect to another server: a client that provokes some takes the upstream from all keys for the fail_duration; name the other statuses, one by one")
	}
	if proxy.Headers == nil || proxy.Headers.Request == nil {
		return doubts
	}
	for _, set := range []http.Header{proxy.Headers.Request.Set, proxy.Headers.Request.Add} {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			if t.withholds(http.CanonicalHeaderKey(name)) {
				doubts = append(doubts, "the header "+name+" of header_up is not sent: till itself decides about it")
			}
		}
	}
	return doubts
}

// countsRefusals reports whether passive health checks take a 502 of till's own for a
// failure of the upstream's.
func countsRefusals(checks *reverseproxy.HealthChecks) bool {
	return checks != nil && checks.Passive != nil && checks.Passive.FailDuration > 0 &&
		slices.ContainsFunc(checks.Passive.UnhealthyStatus, func(status int) bool { return caddyhttp.StatusCodeMatches(http.StatusBadGateway, status) })
}
