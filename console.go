package till

import (
	"errors"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/admin"
	"github.com/till-proxy/till/admin/console"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

func init() {
	caddy.RegisterModule(Console{})
	httpcaddyfile.RegisterDirective("till_console", parseConsole)
	httpcaddyfile.RegisterDirectiveOrder("till_console", httpcaddyfile.Before, "respond")
}

// Console is where people manage keys: a dashboard at `/till/`, and the management
// API under `/till/api/`, for holders of admin tokens.
//
// `GET /till/live` and `GET /till/ready` answer load balancers, without a token.
//
// It belongs on a site of its own, never on one where keys are served, and that site
// should be HTTPS: sign-in works over HTTPS or on loopback only.
type Console struct {
	app     *App
	handler *console.Handler
}

// CaddyModule returns the Caddy module information.
func (Console) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.till_console", New: func() caddy.Module { return new(Console) }}
}

// Provision finds the app.
func (c *Console) Provision(ctx caddy.Context) error {
	app, err := appForSite(ctx, consoleRole)
	if err != nil {
		return err
	}
	c.app = app
	c.handler = &console.Handler{Backend: app, Sessions: app.engine.sessions, Log: limiter.Scrubbed(ctx.Slogger()), Client: consoleClient}
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterOnShutdown(app.endFeedsAtExit)
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.URL.Path != "/" && r.URL.Path != "/till" && !strings.HasPrefix(r.URL.Path, "/till/") {
		return next.ServeHTTP(w, r)
	}
	if !admin.Probe(w, r, c.app.Ready) {
		c.handler.ServeHTTP(w, r)
	}
	return nil
}

// consoleClient returns a request's client address, and whether it came over HTTPS:
// to Caddy, or to a proxy that Caddy trusts.
func consoleClient(r *http.Request) (netip.Addr, bool) {
	return clientAddr(r), r.TLS != nil || byTrustedProxy(r) && strings.EqualFold(last(r.Header["X-Forwarded-Proto"]), "https")
}

// parseConsole reads:
//
//	till_console [<matcher>]
//
// on a site that has no `till`.
func parseConsole(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	h.Next() // till_console
	if len(h.RemainingArgs()) > 0 || h.NextBlock(0) {
		return nil, h.Err("till_console takes no options: roles in the global till block say who may do what")
	}
	if err := checkOneRole(h, consoleRole); err != nil {
		return nil, err
	}
	if err := recordLine(h, matcher, siteLine{role: consoleRole}); err != nil {
		return nil, err
	}
	return h.NewRoute(matcher, new(Console)), nil
}

type siteRole string

const (
	keysRole    siteRole = "till"
	consoleRole siteRole = "till_console"
)

var errOneSite = errors.New("till and till_console stand on one site: give the console a site of its own, such as till.example.com, so that no client of a key ever reaches it")

// checkOneRole refuses a site block with both directives, and names the line. Caddy
// does not reveal what else a site has, so this reads the block through reflection: if
// a later Caddy has other fields, sites.claim still refuses when the configuration is
// loaded.
func checkOneRole(h httpcaddyfile.Helper, role siteRole) error {
	other := map[siteRole]siteRole{keysRole: consoleRole, consoleRole: keysRole}[role]
	block := reflect.ValueOf(h).FieldByName("parentBlock")
	if !block.IsValid() || block.Type() != reflect.TypeFor[caddyfile.ServerBlock]() {
		return nil
	}
	segments := block.FieldByName("Segments")
	for i := range segments.Len() {
		if s := segments.Index(i); s.Len() > 0 && s.Index(0).FieldByName("Text").String() == string(other) {
			return h.WrapErr(errOneSite)
		}
	}
	return nil
}

// sites refuses a site with both handlers where the configuration is not a
// Caddyfile, or where the two are in blocks of their own.
type sites struct {
	mu   sync.Mutex
	role map[caddy.Module]siteRole
}

// appForSite finds the app for a handler of this role, or returns why the handler may
// not stand where it does.
func appForSite(ctx caddy.Context, role siteRole) (*App, error) {
	app, err := appOf(ctx)
	if err == nil {
		err = app.sites.claim(ctx, role)
	}
	if err == nil {
		err = checkTrustedProxies(ctx)
	}
	if err == nil {
		err = checkReached(ctx, role)
	}
	return app, err
}

// claim notes what a handler's site is for. A site's routes are one subroute of the
// server, which is the module below the http app.
func (s *sites) claim(ctx caddy.Context, role siteRole) error {
	lineage := ctx.Modules()
	if len(lineage) < 3 {
		return nil // a handler of the server itself, for all its sites
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.role == nil {
		s.role = make(map[caddy.Module]siteRole)
	}
	if other, ok := s.role[lineage[1]]; ok && other != role {
		return errOneSite
	}
	s.role[lineage[1]] = role
	return nil
}

// ManagementAPI implements console.Backend.
func (a *App) ManagementAPI(caller limiter.Caller) http.Handler {
	return admin.NewHandler(a, caller, a.slogger)
}

// SignInLink returns an address at which the caller can sign in to the console once.
func (a *App) SignInLink(caller limiter.Caller) (token.Secret, time.Time, error) {
	if a.ConsoleURL == "" {
		return token.Secret{}, time.Time{}, admin.ErrNoConsole
	}
	secret, expires := a.engine.sessions.Link(caller)
	return token.NewSecret(a.ConsoleURL + "/till/#signin=" + secret.Reveal()), expires, nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Console)(nil)
	_ caddyhttp.MiddlewareHandler = (*Console)(nil)
	_ console.Backend             = (*App)(nil)
)
