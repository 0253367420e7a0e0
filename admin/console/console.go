// Package console is the dashboard: its files, the sessions of those who are signed
// in, and what a browser may do with a session. An admin token or a one-time link
// opens a session. A call with a session, or with a token itself, goes to the
// management API as that caller.
//
// It knows nothing of keys, limits and upstreams: the limiter decides what a caller
// may do, and the management API is passed in.
package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter"
)

// Backend is the part of the running configuration that the console needs.
type Backend interface {
	// Limiter returns the limiter, which knows who may sign in, and the role of
	// each caller.
	Limiter() (*limiter.Limiter, error)
	// ManagementAPI returns the management API for one caller. Its paths begin at "/".
	ManagementAPI(limiter.Caller) http.Handler
}

// Handler serves the dashboard under /till/ and the management API under
// /till/api/.
type Handler struct {
	Backend  Backend
	Sessions *Sessions
	Log      *slog.Logger
	// Client returns where a request came from, and whether it came encrypted. It
	// takes into account the proxies that Caddy is configured to trust.
	Client func(*http.Request) (from netip.Addr, encrypted bool)

	recheck time.Duration // in tests; 0: the constant
}

// These are the paths that are served.
const (
	home        = "/till/"
	apiPath     = "/till/api"
	sessionPath = "/till/session"
	assetPath   = "/till/assets/"
)

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	harden(w.Header())
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		// RFC 8470: the address, which roles may be bound to, is not verified yet, and the
		// call may have been sent by somebody who saw it.
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusTooEarly, "too_early", "this was sent before the TLS handshake was complete; send it again")
		return
	}
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

// harden sets the security headers of every answer: no inline scripts or styles,
// nothing from other origins, no framing, and no caching.
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

// api passes a call on as its caller, who is known by the token in the call or,
// without a token, by the session. A token is not a cookie, so no other site can
// make a browser send it.
func (h *Handler) api(w http.ResponseWriter, r *http.Request) {
	var caller limiter.Caller
	var err error
	still := func() error {
		_, err := h.standing(r, caller)
		return err
	}
	var s *session
	if header := r.Header.Values("Authorization"); len(header) > 0 {
		caller, err = h.callerOf(r, bearer(header))
	} else {
		asked := r
		still = func() error {
			_, _, err := h.signedIn(asked)
			if errors.Is(err, errSignedOut) {
				return limiter.ErrToken
			}
			return err
		}
		s, caller, err = h.signedIn(r)
	}
	if err != nil {
		h.refuse(w, err)
		return
	}
	ctx, done := h.whileEntitled(r, caller, s)
	defer done()
	// No handler below needs these headers; without them, none can pass them on.
	r = r.Clone(ctx)
	for _, name := range []string{"Authorization", "Cookie", proofHeader} {
		r.Header.Del(name)
	}
	r.Body = &entitledBody{r.Body, still}
	caller.Session = s != nil
	http.StripPrefix(apiPath, h.Backend.ManagementAPI(caller)).ServeHTTP(w, r)
}

// entitledBody is the body of a call, which may arrive long after its caller was
// authenticated. Its end is an error unless the caller is still entitled then.
type entitledBody struct {
	io.ReadCloser
	still func() error
}

func (b *entitledBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		if ended := b.still(); ended != nil {
			return 0, &limiter.StandingError{Err: ended}
		}
	}
	return n, err
}

// bearer returns the token in an Authorization header, of which there must be
// exactly one. For anything else it returns an empty string, which is no token.
func bearer(values []string) string {
	scheme, text, _ := strings.Cut(values[0], " ")
	if len(values) != 1 || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(text)
}

// callerOf returns the caller to whom an admin token belongs.
func (h *Handler) callerOf(r *http.Request, shown string) (limiter.Caller, error) {
	l, err := h.Backend.Limiter()
	if err != nil {
		return limiter.Caller{}, err
	}
	return l.Authenticate(shown, h.from(r))
}

// standing returns a caller with the rights that it has now. For the operator this
// needs no store, so that the operator can repair a closed one.
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

// recheck is how often a long call checks whether its caller may go on.
const recheck = 10 * time.Second

// whileEntitled ends a call, such as a stream of events, a backup or an export, with its
// caller's token and, if there is one, with its session.
func (h *Handler) whileEntitled(r *http.Request, caller limiter.Caller, s *session) (context.Context, context.CancelFunc) {
	begin := context.WithCancel
	var over <-chan struct{} // of a session
	if s != nil {
		begin = func(of context.Context) (context.Context, context.CancelFunc) {
			return context.WithDeadline(of, s.expires)
		}
		over = s.ended
	}
	ctx, cancel := begin(r.Context())
	go func() {
		ticker := time.NewTicker(cmp.Or(h.recheck, recheck))
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-over:
				cancel()
				return
			case <-ticker.C:
				if _, err := h.standing(r, caller); errors.Is(err, limiter.ErrToken) {
					if s != nil {
						h.Sessions.end(s)
					}
					cancel()
				}
			}
		}
	}()
	return ctx, cancel
}

// apiError is an error with the status and code that the console answers with.
type apiError struct {
	status  int
	code    string
	message string
}

func (e *apiError) Error() string { return e.message }

func (h *Handler) refuse(w http.ResponseWriter, err error) {
	known, ok := errors.AsType[*apiError](err)
	switch {
	case ok:
	case errors.Is(err, limiter.ErrToken):
		known = &apiError{http.StatusUnauthorized, "unauthorized", limiter.ErrToken.Error()}
	case errors.Is(err, limiter.ErrAttempts):
		w.Header().Set("Retry-After", "60")
		known = &apiError{http.StatusTooManyRequests, "too_many_attempts", limiter.ErrAttempts.Error()}
	default:
		h.Log.Error("the console cannot authenticate a caller", "error", err)
		known = &apiError{http.StatusServiceUnavailable, "store_unavailable", "the store is not available, so the caller cannot be verified; the server's log says why"}
	}
	if known.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="till"`)
	}
	fail(w, known.status, known.code, known.message)
}

// fail writes an error in the form that the management API uses.
func fail(w http.ResponseWriter, status int, code, message string) {
	write(w, status, map[string]any{"error": map[string]string{"code": code, "message": message}})
}

func write(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error here means that the client is gone.
	_ = json.NewEncoder(w).Encode(answer)
}
