// Package console is the dashboard: its files, who is signed in to it, and
// what a browser may do with that. Whoever shows an admin token, or a one-time
// link, gets a session; a call with a session or with a token itself goes to
// the management API as that caller.
//
// It knows nothing of keys, limits and upstreams: what may be done is decided by
// the limiter, and the management API is handed to it.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter"
)

// Backend is the running configuration, as far as the console needs it.
type Backend interface {
	// Limiter tells who is allowed in, and what the role of a caller is.
	Limiter() (*limiter.Limiter, error)
	// ManagementAPI is the management API for one caller, with paths from "/".
	ManagementAPI(limiter.Caller) http.Handler
}

// Handler serves the dashboard under /till/ and the management API under
// /till/api/.
type Handler struct {
	Backend  Backend
	Sessions *Sessions
	Log      *slog.Logger
	// Client says where a request came from, and whether it came encrypted,
	// proxies considered that Caddy was told to trust.
	Client func(*http.Request) (from netip.Addr, encrypted bool)
}

// What begins with these is served.
const (
	home        = "/till/"
	apiPath     = "/till/api"
	sessionPath = "/till/session"
	assetPath   = "/till/assets/"
)

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	harden(w.Header())
	switch path := r.URL.Path; {
	case path == sessionPath:
		h.session(w, r)
	case strings.HasPrefix(path, apiPath+"/"):
		h.api(w, r)
	case strings.HasPrefix(path, assetPath):
		serveAsset(w, r, strings.TrimPrefix(path, assetPath))
	case path == home:
		serveAsset(w, r, "index.html")
	case path == "/" || path == strings.TrimSuffix(home, "/"):
		http.Redirect(w, r, home, http.StatusTemporaryRedirect)
	default:
		fail(w, http.StatusNotFound, "not_found", "there is nothing here: the dashboard is at "+home+", the management API at "+apiPath+"/")
	}
}

// harden sets the headers of every answer. There is no inline script or style,
// nothing from elsewhere, no frame around it, and no copy of it anywhere.
func harden(header http.Header) {
	header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
}

// api passes a call on as its caller: by the token it carries, or else by the
// session. A token is no cookie, so no other site can make a browser send it.
func (h *Handler) api(w http.ResponseWriter, r *http.Request) {
	var caller limiter.Caller
	var err error
	if header := r.Header.Values("Authorization"); len(header) > 0 {
		caller, err = h.callerOf(r, bearer(header))
	} else {
		var s *session
		if s, caller, err = h.signedIn(r); err == nil {
			ctx, done := h.whileSignedIn(r, s)
			defer done()
			r = r.WithContext(ctx)
		}
	}
	if err != nil {
		h.refuse(w, err)
		return
	}
	// No handler below needs them, so none can pass them on.
	r = r.Clone(r.Context())
	for _, name := range []string{"Authorization", "Cookie", proofHeader} {
		r.Header.Del(name)
	}
	http.StripPrefix(apiPath, h.Backend.ManagementAPI(caller)).ServeHTTP(w, r)
}

// bearer is the token in an Authorization header, of which there must be one.
// Anything else is what no token is.
func bearer(values []string) string {
	scheme, text, _ := strings.Cut(values[0], " ")
	if len(values) != 1 || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(text)
}

// callerOf is who an admin token stands for.
func (h *Handler) callerOf(r *http.Request, shown string) (limiter.Caller, error) {
	l, err := h.Backend.Limiter()
	if err != nil {
		return limiter.Caller{}, err
	}
	return l.Authenticate(r.Context(), shown, h.from(r))
}

// standing is a caller as it is now. The operator needs no store for that, so
// that it can mend one that is closed.
func (h *Handler) standing(r *http.Request, caller limiter.Caller) (limiter.Caller, error) {
	caller = caller.At(h.from(r))
	if caller == limiter.Operator.At(caller.From) {
		return caller, nil
	}
	l, err := h.Backend.Limiter()
	if err != nil {
		return caller, err
	}
	return l.Standing(caller)
}

func (h *Handler) from(r *http.Request) string {
	from, _ := h.Client(r)
	if !from.IsValid() {
		return ""
	}
	return from.Unmap().String()
}

// recheck is how often a call that lasts asks whether its caller may go on.
const recheck = 10 * time.Second

// whileSignedIn ends a call, such as a stream of events, with its session or
// its token.
func (h *Handler) whileSignedIn(r *http.Request, s *session) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithDeadline(r.Context(), s.expires)
	go func() {
		ticker := time.NewTicker(recheck)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.ended:
				cancel()
				return
			case <-ticker.C:
				if _, err := h.standing(r, s.caller); errors.Is(err, limiter.ErrToken) {
					h.Sessions.end(s)
				}
			}
		}
	}()
	return ctx, cancel
}

// apiError is why a call goes no further.
type apiError struct {
	status  int
	code    string
	message string
}

func (e *apiError) Error() string { return e.message }

// refuse answers with what is wrong.
func (h *Handler) refuse(w http.ResponseWriter, err error) {
	var known *apiError
	switch {
	case errors.As(err, &known):
	case errors.Is(err, limiter.ErrToken):
		known = &apiError{http.StatusUnauthorized, "unauthorized", limiter.ErrToken.Error()}
	case errors.Is(err, limiter.ErrAttempts):
		w.Header().Set("Retry-After", "60")
		known = &apiError{http.StatusTooManyRequests, "too_many_attempts", limiter.ErrAttempts.Error()}
	default:
		h.Log.Error("the console cannot tell who calls", "error", err)
		known = &apiError{http.StatusServiceUnavailable, "store_unavailable", "the store cannot tell who this is; the server's log says why"}
	}
	if known.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="till"`)
	}
	fail(w, known.status, known.code, known.message)
}

// fail answers in the shape of the management API.
func fail(w http.ResponseWriter, status int, code, message string) {
	write(w, status, map[string]any{"error": map[string]string{"code": code, "message": message}})
}

func write(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error here says that the client is gone.
	_ = json.NewEncoder(w).Encode(answer)
}
