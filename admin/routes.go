package admin

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/limiter"
)

// route is one call of the management API.
type route struct {
	pattern string
	call    func(*limiter.Limiter, *http.Request) (int, any, error)
}

// routes lists the calls that need an open store and answer with JSON.
func (a *api) routes() []route {
	return []route{
		{"POST /keys", a.mint},
		{"GET /keys", a.list},
		{"GET /keys/{id}", a.show},
		{"PATCH /keys/{id}", a.change},
		{"DELETE /keys/{id}", a.forget},
		{"GET /keys/{id}/usage", a.usage},
		{"POST /keys/{id}/grant", a.grant},
		{"POST /keys/{id}/suspend", a.suspend},
		{"POST /keys/{id}/resume", a.resume},
		{"POST /keys/{id}/revoke", a.revoke},
		{"POST /keys/{id}/rotate", a.rotate},

		{"POST /tokens", a.createToken},
		{"GET /tokens", a.listTokens},
		{"POST /tokens/{id}/revoke", a.revokeToken},
		{"GET /roles", a.roles},
		{"GET /audit", a.audit},
		{"GET /audit/verify", a.verifyAudit},

		{"GET /stale", a.stale},
		{"POST /leaks", a.leaks},
		{"POST /fingerprint", a.fingerprint},
		{"GET /seal", a.sealKeys},
		{"POST /seal/rotate", a.rotateSeal},

		{"POST /keys/revoke", a.revokeMany},
		{"GET /jobs", a.jobs},
		{"GET /jobs/{id}", a.job},
		{"GET /upstreams", a.upstreams},
		{"GET /upstreams/{name}/clients", a.clients},
		{"GET /spend", a.spend},
		{"GET /prices", a.prices},
		{"GET /webhooks", a.webhooks},
	}
}

// ownRoutes lists the calls that do not answer with JSON, or that work while the
// store is closed.
func (a *api) ownRoutes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"POST /store/repair": a.repair,
		"GET /backup":        a.backup,
		"GET /audit/export":  a.exportAudit,
		"POST /lockdown":     a.lockdown,
		"DELETE /lockdown":   a.liftLockdown,
		"GET /lockdown":      a.showLockdown,
		"GET /live":          a.live,
		"GET /ready":         a.ready,
		"GET /stats":         a.stats,
		"POST /console/link": a.consoleLink,
		"GET /doctor":        a.doctor,
		"GET /openapi.json":  a.openapi,
		"GET /events":        a.events,
	}
}

// NewHandler returns the management API for one caller. Its paths begin at "/":
// strip the prefix under which it is mounted.
func NewHandler(b Backend, caller limiter.Caller, log *slog.Logger) http.Handler {
	a := &api{backend: b, caller: caller, log: log}
	mux := http.NewServeMux()
	for _, r := range a.routes() {
		handler := a.handle(r.call)
		if strings.HasPrefix(r.pattern, "POST ") && !repeatable[r.pattern] {
			handler = a.handleIdempotent(r.pattern, handler)
		}
		mux.Handle(r.pattern, handler)
	}
	for pattern, handler := range a.ownRoutes() {
		mux.Handle(pattern, handler)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, pattern := mux.Handler(r)
		if pattern == "" {
			a.fail(w, notRouted(w.Header(), mux, r))
			return
		}
		if err := checkParameters(r.URL.Query()); err != nil {
			a.fail(w, err)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// notRouted is the error for an unknown path, or for a known path with a method
// that it does not have.
func notRouted(h http.Header, mux *http.ServeMux, r *http.Request) error {
	var offered []string
	for _, method := range []string{"GET", "POST", "PATCH", "DELETE"} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := mux.Handler(probe); pattern != "" {
			offered = append(offered, method)
		}
	}
	if len(offered) > 0 {
		h.Set("Allow", strings.Join(offered, ", "))
		return &apiError{http.StatusMethodNotAllowed, "method_not_allowed",
			fmt.Sprintf("%s is not allowed on %s; the methods are: %s", r.Method, r.URL.Path, strings.Join(offered, ", "))}
	}
	return &apiError{http.StatusNotFound, "not_found", "there is nothing at " + r.URL.Path}
}

// checkParameters refuses empty parameters: a script that filters by a variable
// which is not set would get everything. Only the cursor may be empty, for the
// first page.
func checkParameters(q url.Values) error {
	for name, values := range q {
		if name != "cursor" && slices.Contains(values, "") {
			return invalid("%s must not be empty: leave it out for everything", prose.Cut(name, 64))
		}
	}
	return nil
}
