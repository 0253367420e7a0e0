package till

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/till-proxy/till/token"
)

// corsOrigins are the origins of the web pages that may use an upstream's keys from
// a browser (https://fetch.spec.whatwg.org/#http-cors-protocol). Keys travel in
// headers, so credentials, which in that protocol are cookies, are never allowed.
type corsOrigins []string

// parseCORS parses "*" or origins such as https://app.example.com.
func parseCORS(list []string) (corsOrigins, error) {
	var all corsOrigins
	for _, text := range list {
		origin := strings.ToLower(text)
		u, err := url.Parse(origin)
		switch {
		case origin == "*" && len(list) == 1:
		case origin == "*":
			return nil, fmt.Errorf("cors takes * alone, or origins")
		case err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || origin != u.Scheme+"://"+u.Host:
			return nil, fmt.Errorf("cors takes origins such as https://app.example.com, without a path, or *; got %q", token.ScrubAddress(text))
		}
		all = append(all, origin)
	}
	return all, nil
}

// allows returns the value of Access-Control-Allow-Origin for an origin, or "".
func (c corsOrigins) allows(origin string) string {
	switch {
	case len(c) == 0:
		return ""
	case c[0] == "*":
		return "*"
	case slices.Contains(c, strings.ToLower(origin)):
		return origin
	}
	return ""
}

// names reports whether an origin is itself in the list, and not merely allowed by "*".
func (c corsOrigins) names(origin string) bool {
	return origin != "*" && slices.Contains(c, strings.ToLower(origin))
}

// pageOrigin returns the origin of the page that made a browser send a request, or "".
func pageOrigin(r *http.Request) string {
	if len(r.Header["Origin"]) != 1 {
		return ""
	}
	return r.Header["Origin"][0]
}

// exposedHeaders are the headers of answers that scripts may read.
const exposedHeaders = "Till-Key, Till-Activations-Remaining, Till-Tokens-Remaining, Till-Spend-Remaining, Till-Expires, " +
	"Till-Output-Limit, Till-Refusal, Retry-After, X-Should-Retry, X-Request-Id, Request-Id, Etag, Link, Mcp-Session-Id"

// preflightAge is how long browsers remember the answer to a preflight, in seconds.
const preflightAge = "600"

// cors returns the origin whose scripts may read the answer, or "", as far as that
// is known before the key's upstream is. It answers preflights itself, since they carry
// no key and cost nothing, and reports true for them.
func (h *Handler) cors(w http.ResponseWriter, r *http.Request) (allowed string, preflight bool) {
	if len(h.corsTargets) == 0 {
		return "", false
	}
	header := w.Header()
	header.Add("Vary", "Origin")
	origin := pageOrigin(r)
	if origin == "" {
		return "", false
	}
	for _, t := range h.corsTargets {
		if allowed = t.cors.allows(origin); allowed != "" {
			break
		}
	}
	method := r.Header.Get("Access-Control-Request-Method")
	if allowed == "" || r.Method != http.MethodOptions || method == "" {
		return allowed, false
	}
	header["Access-Control-Allow-Origin"] = []string{allowed}
	header.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	header["Access-Control-Max-Age"] = []string{preflightAge}
	if isFieldNames(method) {
		header["Access-Control-Allow-Methods"] = []string{method}
	}
	if names := strings.Join(r.Header["Access-Control-Request-Headers"], ","); names != "" && isFieldNames(names) {
		header["Access-Control-Allow-Headers"] = []string{names}
	}
	w.WriteHeader(http.StatusNoContent)
	return allowed, true
}

// allowOrigin lets scripts of the allowed origin read the answer, including
// refusals, unless the key's upstream does not allow that origin. t is nil while the
// upstream is unknown.
func allowOrigin(w http.ResponseWriter, r *http.Request, allowed string, t *target) {
	if allowed == "" || t != nil && t.cors.allows(r.Header.Get("Origin")) == "" {
		return
	}
	w.Header()["Access-Control-Allow-Origin"] = []string{allowed}
	w.Header()["Access-Control-Expose-Headers"] = []string{exposedHeaders}
}

// maxExposed is how many names an upstream may add to exposedHeaders.
const maxExposed = 64

// exposeHeaders adds the headers that the upstream exposes to scripts to those that
// till exposes.
func (x *exchange) exposeHeaders(upstream http.Header) {
	own := x.client.Header()
	const list = "Access-Control-Expose-Headers"
	if len(own[list]) == 0 || len(upstream[list]) == 0 {
		return
	}
	names := strings.Split(own[list][0], ", ")
	most := len(names) + maxExposed
	for _, line := range upstream[list] {
		if !isFieldNames(line) {
			continue
		}
		for name := range strings.SplitSeq(line, ",") {
			name = strings.TrimSpace(name)
			known := slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
			if name != "" && !known && len(names) < most && !strings.Contains(name, " ") {
				names = append(names, name)
			}
		}
	}
	own[list] = []string{strings.Join(names, ", ")}
}

// isFieldNames reports whether s is a list of tokens that can safely be repeated in
// a header.
func isFieldNames(s string) bool {
	return len(s) <= 2048 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' && r != ' ' || r >= 0x7f || strings.ContainsRune(`()<>@;:\"/[]?={}`, r)
	})
}
