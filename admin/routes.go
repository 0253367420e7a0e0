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

// NewHandler returns the management API for one caller. Its paths begin at "/":
// strip the prefix under which it is mounted.
func NewHandler(b Backend, caller limiter.Caller, log *slog.Logger) http.Handler {
	a := &api{backend: b, caller: caller, log: log}
	mux := http.NewServeMux()
	for pattern, op := range operations {
		mux.Handle(pattern, a.handle(&op))
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
