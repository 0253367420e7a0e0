package admin

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

func init() {
	caddy.RegisterModule(AdminAPI{})
}

// AdminAPI serves till's management API on Caddy's admin endpoint, under /till/.
// Everybody who reaches that endpoint is the operator.
type AdminAPI struct {
	log *slog.Logger
}

// CaddyModule returns the Caddy module information.
func (AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.till", New: func() caddy.Module { return new(AdminAPI) }}
}

// Provision takes a logger and nothing more: after a failed reload, admin modules
// stay bound to the configuration that failed.
func (a *AdminAPI) Provision(ctx caddy.Context) error {
	a.log = limiter.Scrubbed(ctx.Slogger())
	return nil
}

// Routes implements caddy.AdminRouter.
func (a *AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: wire.BasePath + "/", Handler: caddy.AdminHandlerFunc(a.serve)}}
}

var errNoApp = errors.New("the running configuration has no till app")

func (a *AdminAPI) serve(w http.ResponseWriter, r *http.Request) error {
	app, err := caddy.ActiveContext().AppIfConfigured("till")
	backend, ok := app.(Backend)
	if Probe(w, r, func() error {
		if !ok {
			return errNoApp
		}
		return backend.Ready()
	}) {
		return nil
	}
	if err != nil || !ok {
		(&api{log: a.log}).fail(w, &apiError{http.StatusServiceUnavailable, "not_configured",
			errNoApp.Error() + ": add a till block to its global options"})
		if err != nil && !errors.Is(err, caddy.ErrNotConfigured) {
			a.log.Error("finding the till app", "error", err)
		}
		return nil
	}
	http.StripPrefix(wire.BasePath, NewHandler(backend, limiter.Operator.At(peer(r)), a.log)).ServeHTTP(w, r)
	return nil
}

// peer is the address that a call came from. A unix socket has none.
func peer(r *http.Request) string {
	if addr, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return addr.Addr().Unmap().String()
	}
	return "unix"
}

// Interface guards
var (
	_ caddy.Provisioner = (*AdminAPI)(nil)
	_ caddy.AdminRouter = (*AdminAPI)(nil)
)
