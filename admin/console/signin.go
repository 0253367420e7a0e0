package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

const (
	// The prefix of the cookie's name makes browsers refuse the cookie without
	// Secure, with a Domain, or over plain HTTP. On loopback there is no HTTPS, so
	// the cookie has no prefix there.
	cookieName      = "__Host-till"
	plainCookieName = "till"
	// proofHeader carries the proof of a session.
	proofHeader = "Till-Proof"

	maxSignIn = 4 << 10 // bytes
)

var (
	errSignedOut = &apiError{http.StatusUnauthorized, "unauthorized",
		"sign in, or send Authorization: Bearer with an admin token"}
	errLink = &apiError{http.StatusUnauthorized, "link_used",
		fmt.Sprintf("this link no longer works: a link works once, for %d minutes. Sign in with an admin token, or get another link with: caddy till console", int(linkTime.Minutes()))}
	errForeign = &apiError{http.StatusForbidden, "foreign_origin",
		"this call came from another site's page"}
	errPlain = &apiError{http.StatusForbidden, "not_encrypted",
		"sign in over HTTPS, or on this machine at 127.0.0.1 or localhost: over plain HTTP others could read what is sent"}
)

// session serves the caller's session: GET shows it, POST signs in, DELETE signs out.
func (h *Handler) session(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		if err := h.signIn(w, r); err != nil {
			h.refuse(w, err)
		}
	case http.MethodGet:
		s, caller, err := h.signedIn(r)
		if errors.Is(err, errSignedOut) {
			w.WriteHeader(http.StatusNoContent) // asking without a session is not an error
			return
		}
		if err != nil {
			h.refuse(w, err)
			return
		}
		write(w, http.StatusOK, h.about(s, caller))
	case http.MethodDelete:
		s, _, err := h.signedIn(r)
		if err != nil {
			h.refuse(w, err)
			return
		}
		h.Sessions.end(s)
		_, encrypted := h.Client(r)
		cookie := cookieFor(encrypted)
		cookie.MaxAge = -1
		http.SetCookie(w, cookie)
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", "GET, POST, DELETE")
		fail(w, http.StatusMethodNotAllowed, "method_not_allowed", "the methods of a session are GET, POST and DELETE")
	}
}

// whoami is what the dashboard knows about its user.
type whoami struct {
	Name        string              `json:"name"`
	Role        string              `json:"role"`
	Permissions []record.Permission `json:"permissions"`
	ExpiresAt   time.Time           `json:"expires_at"`
	// Proof is sent only once, to the page that signed in.
	Proof string `json:"proof,omitempty"`
}

func (h *Handler) about(s *session, caller limiter.Caller) whoami {
	who := whoami{Name: caller.Name, Role: caller.Role, Permissions: []record.Permission{}, ExpiresAt: s.expires.UTC()}
	if caller.Role == record.OperatorRole {
		who.Permissions = append(who.Permissions, record.Everything)
		return who
	}
	// While the store is closed nothing is permitted, and the page says why.
	if l, err := h.Backend.Limiter(); err == nil {
		for _, p := range record.Permissions {
			if l.Allows(caller, p) {
				who.Permissions = append(who.Permissions, p)
			}
		}
	}
	return who
}

// signIn begins a session for a caller who presents an admin token or a link.
func (h *Handler) signIn(w http.ResponseWriter, r *http.Request) error {
	_, encrypted := h.Client(r)
	if err := checkOrigin(r, encrypted); err != nil {
		return err
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &apiError{http.StatusUnsupportedMediaType, "invalid_request", "the body must be application/json"}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxSignIn+1))
	var shown struct {
		Token string `json:"token"`
		Link  string `json:"link"`
	}
	if err != nil || len(body) > maxSignIn || json.Unmarshal(body, &shown) != nil || (shown.Token == "") == (shown.Link == "") {
		return &apiError{http.StatusBadRequest, "invalid_request", `the body must be {"token":"…"} or {"link":"…"}`}
	}
	var caller limiter.Caller
	if shown.Link != "" {
		if caller, err = h.Sessions.redeem(shown.Link); err == nil {
			caller, err = h.standing(r, caller)
		}
	} else {
		caller, err = h.callerOf(r, shown.Token)
	}
	if err != nil {
		return err
	}
	// The browser loses its former session with the cookie, so nobody else must have it.
	cookie := cookieFor(encrypted)
	if former, err := r.Cookie(cookie.Name); err == nil {
		if s, ok := h.Sessions.find(former.Value, r.Header.Get(proofHeader)); ok {
			h.Sessions.end(s)
		}
	}
	s, id, proof := h.Sessions.begin(caller)
	cookie.Value, cookie.MaxAge = id.Reveal(), int(sessionTime.Seconds())
	http.SetCookie(w, cookie)
	answer := h.about(s, caller)
	answer.Proof = proof.Reveal()
	write(w, http.StatusOK, answer)
	return nil
}

// signedIn finds the session of a request that may use it, and its caller with the
// rights that it has now.
func (h *Handler) signedIn(r *http.Request) (*session, limiter.Caller, error) {
	var none limiter.Caller
	_, encrypted := h.Client(r)
	// A browser that may not see the answer does not even learn whether there is a
	// session.
	if err := checkOrigin(r, encrypted); err != nil {
		return nil, none, err
	}
	cookie, err := r.Cookie(cookieFor(encrypted).Name)
	if err != nil {
		return nil, none, errSignedOut
	}
	s, ok := h.Sessions.find(cookie.Value, r.Header.Get(proofHeader))
	if !ok {
		return nil, none, errSignedOut
	}
	now, err := h.standing(r, s.caller)
	if errors.Is(err, limiter.ErrToken) {
		h.Sessions.end(s)
		return nil, none, errSignedOut
	}
	return s, now, err
}

func cookieFor(encrypted bool) *http.Cookie {
	c := &http.Cookie{Name: plainCookieName, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode}
	if encrypted {
		c.Name, c.Secure = cookieName, true
	}
	return c
}

// checkOrigin refuses calls that a browser makes for another site's page. It also
// refuses host names that another site may have pointed at this machine (DNS
// rebinding): over HTTPS the certificate proves the name, and on loopback the name
// must be one of loopback's own.
func checkOrigin(r *http.Request, encrypted bool) error {
	if !encrypted && !loopback(r.Host) {
		return errPlain
	}
	site, origin := r.Header.Values("Sec-Fetch-Site"), r.Header.Values("Origin")
	if len(site) > 1 || len(site) == 1 && site[0] != "same-origin" {
		return errForeign
	}
	if len(origin) > 1 || len(origin) == 1 && !sameOrigin(origin[0], r.Host, encrypted) {
		return errForeign
	}
	if len(site)+len(origin) == 0 && r.Method != http.MethodGet && r.Method != http.MethodHead {
		return errForeign
	}
	return nil
}

func sameOrigin(origin, host string, encrypted bool) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host != host {
		return false
	}
	return encrypted && u.Scheme == "https" || !encrypted && u.Scheme == "http"
}

// loopback reports whether a Host header names this machine and no other.
func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	if name == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(trimBrackets(name))
	return err == nil && addr.IsLoopback()
}

func trimBrackets(s string) string {
	if len(s) > 1 && s[0] == '[' && s[len(s)-1] == ']' {
		return s[1 : len(s)-1]
	}
	return s
}
