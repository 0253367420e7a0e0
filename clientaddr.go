package till

import (
	"errors"
	"net/http"
	"net/netip"
	"reflect"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// errForgeable is why a server cannot enforce rules about addresses: ips and pin_ip of
// keys, ips of roles, and the limit of sign-ins at the console.
var errForgeable = errors.New("trusted_proxies without trusted_proxies_strict trusts the first address in X-Forwarded-For, which any client can write, so ips and pin_ip would stop nobody: add trusted_proxies_strict beside it, in the global options under servers")

// checkTrustedProxies refuses a server whose clients can choose the address that they
// seem to come from. Keys are minted while it runs, so any of them may later have a
// rule about addresses.
func checkTrustedProxies(ctx caddy.Context) error {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.TrustedProxiesStrict > 0 {
		return nil
	}
	// Caddy has moved the option into an unexported field by now.
	source := reflect.ValueOf(server).Elem().FieldByName("trustedProxies")
	if server.TrustedProxiesUnix || server.TrustedProxiesRaw != nil || source.IsValid() && !source.IsZero() {
		return errForgeable
	}
	return nil
}

// clientAddr returns the client's address as Caddy knows it, with trusted proxies taken
// into account. It is invalid if there is none, as on a unix socket.
func clientAddr(r *http.Request) netip.Addr {
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr
	}
	port, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.Addr{}
	}
	return port.Addr()
}
