package till

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
)

const proxyPrefix = "/proxy/"

// normalizePath returns the path of a request as it is checked and sent on. Clients
// that join the address of a server and a path with one slash too many mean a single
// slash.
func normalizePath(escaped string) string {
	escaped = scope.OneSlash(escaped)
	if rest, ok := strings.CutPrefix(escaped, proxyPrefix); ok {
		if name, tail, ok := strings.Cut(rest, "/"); ok && strings.HasPrefix(tail, "/") {
			return proxyPrefix + name + scope.OneSlash(tail)
		}
	}
	return escaped
}

// location is where a request goes at its upstream.
type location struct {
	path    string // canonical and decoded
	version int    // length of the version that path begins with, which rules may leave out
	out     string // as sent, escaped
	proxied string // "/proxy/<upstream>" if the client wrote that
	upgrade bool
	// override is a parameter of the query by which some servers take the request for
	// one with another method, path or header; empty if there is none.
	override string
}

// overrideParameters are the parameters that override takes: of Laravel, Symfony, Spring,
// Express and WordPress, of Salesforce, of Haskell's WAI, of Google's APIs and its library
// for pages (https://cloud.google.com/apis/docs/system-parameters and
// goog.net.rpc.HttpCors), and of servers that read the headers in overrides from the
// query, too.
var overrideParameters = []string{
	"_method", "_httpmethod", "_method_override", "$httpmethod", "$httpheaders", "$ct",
	"x-http-method-override", "x-http-method", "x-method-override", "rest_route",
}

// overriding returns the first of overrideParameters in a query, in whatever way a server
// may find it there: some separate parameters by semicolons, some take names in any case,
// and PHP changes names (https://www.php.net/variables.external): it drops spaces before
// them and what follows a NUL, takes what stands in brackets for an index, and turns a
// space, a dot or a single bracket into an underscore.
func overriding(query string) string {
	for pair := range strings.FieldsFuncSeq(query, func(c rune) bool { return c == '&' || c == ';' }) {
		name, _, _ := strings.Cut(pair, "=")
		if strings.ContainsAny(name, escapes) {
			name = string(unescaped(name))
		}
		name, _, _ = strings.Cut(strings.TrimLeft(name, " +"), "\x00")
		if array, index, ok := strings.Cut(name, "["); ok && strings.Contains(index, "]") {
			name = array
		}
		name = strings.Map(func(c rune) rune {
			if strings.ContainsRune(" +.[", c) {
				return '_'
			}
			return c
		}, strings.ToLower(name))
		if slices.Contains(overrideParameters, name) {
			return name
		}
	}
	return ""
}

// route decides where a request goes and whether the upstream allows it at all; the
// limiter decides what the key allows. The path that is matched is the path that is
// sent, byte for byte.
func (t *target) route(r *http.Request, key *record.Key, path, escaped string) (location, *record.Refusal) {
	to, refusal := t.locate(key, path, escaped)
	if refusal != nil {
		return to, refusal
	}
	to.upgrade = upgrades(r)
	if http2, _ := upgradesTo(r); http2 { // where further requests would be forwarded unchecked
		return to, key.Refuse(record.CodeUpgradeNotAllowed, "may not upgrade the connection to HTTP/2")
	}
	to.override = overriding(r.URL.RawQuery)
	if to.override != "" && (t.presetName != "" || len(t.allow) > 0) { // whose rules go by method and path; the limiter applies the key's
		return to, key.Refuse(record.CodeBadRequest, "may not use the parameter %s: some servers take it for another method, path or header than the one that is checked", to.override)
	}
	return to, t.permit(forwardedMethod(r), to.path, to.upgrade, opensWebSocket(r), key)
}

// forwardedMethod returns the method with which an admitted request is sent on: a
// WebSocket by extended CONNECT is the GET that it would be in HTTP/1.1 (RFC 8441,
// section 5), and any other request keeps its own.
func forwardedMethod(r *http.Request) string {
	if r.Method == http.MethodConnect {
		return http.MethodGet
	}
	return r.Method
}

// locate returns where a path of this server leads at the upstream.
func (t *target) locate(key *record.Key, path, escaped string) (to location, refusal *record.Refusal) {
	if rest, ok := strings.CutPrefix(path, proxyPrefix); ok {
		name, _, _ := strings.Cut(rest, "/")
		if name != t.name {
			return to, key.Refuse(record.CodeWrongUpstream, "is for upstream %s, not for %s", t.name, name)
		}
		to.proxied = proxyPrefix + name
		rest, ok := strings.CutPrefix(escaped, to.proxied)
		if !ok {
			return to, key.Refuse(record.CodeBadRequest, "asked for an upstream by an escaped name: write %s", to.proxied)
		}
		path, escaped = path[len(to.proxied):], rest
		if path == "" {
			path, escaped = "/", "/"
		}
	}
	to.path = t.preset.Canonical(path)
	to.version = t.preset.Version(to.path)
	to.out = to.path
	if path != escaped {
		to.out = t.preset.Canonical(escaped)
		if sent, err := url.PathUnescape(to.out); err != nil || sent != to.path {
			return to, key.Refuse(record.CodeBadRequest, "asked for a path whose version is escaped: write it as it is")
		}
	}
	if to.out == "/" {
		to.out = t.root // the address as it is written in the configuration
	} else {
		to.out = t.base + to.out
	}
	return to, nil
}

// permit applies the upstream's own rules. A server may ignore an Upgrade and answer the
// request as it stands (RFC 9110, section 7.8). So upgrades allows the GET of a WebSocket
// alone: a request with another method or for another protocol has to be allowed like any
// other.
func (t *target) permit(method, path string, upgrade, webSocket bool, key *record.Key) *record.Refusal {
	administrative, asynchronous := t.preset.Denied(method, path)
	version := t.preset.Version(path)
	switch {
	case upgrade && !t.upgrades.Match(method, path, version):
		return key.Refuse(record.CodeUpgradeNotAllowed, "may not upgrade the connection on path %s: upstream %s does not allow it", path, t.name)
	case administrative:
		return key.Refuse(record.CodePathNotAllowed, "may not use path %s: it administers the account", path)
	case len(t.allow) > 0 && !t.allow.Match(method, path, version) && !webSocket:
		return key.Refuse(record.CodePathNotAllowed, "may not use %s %s: upstream %s does not allow it", method, path, t.name)
	case asynchronous && len(t.allow) == 0 && !webSocket:
		return key.Refuse(record.CodePathNotAllowed, "may not use path %s: it goes on working after the answer, where no limit holds; upstream %s would have to allow it", path, t.name)
	}
	return nil
}

// costsNothing reports whether a request is free, because of the preset or of the
// operator's rules. Metered requests never are, however wide a pattern is. Nor are
// upgraded connections, or requests that their server may take for another.
func (x *exchange) costsNothing() bool {
	t, method := x.target, x.request.Method
	switch {
	case x.upgrade, x.override != "":
		return false
	case t.preset.IsFree(method, x.path):
		return true
	}
	return len(t.free) > 0 && t.free.Match(method, x.path, x.version) && !t.preset.Meters(method, x.path)
}

// listens reports whether a request only opens a stream of events, as MCP's clients do
// (modelcontextprotocol.io/specification/2025-06-18/basic/transports) and EventSource
// in browsers. At a vendor of models such a request may resume an answer, so there it
// counts like any other.
func (x *exchange) listens() bool {
	r := x.request
	return x.target.presetName == "" && r.Method == http.MethodGet && !x.upgrade && x.override == "" && r.ContentLength == 0 &&
		slices.ContainsFunc(r.Header["Accept"], func(line string) bool {
			return strings.Contains(strings.ToLower(line), "text/event-stream")
		})
}

// upgrades reports whether the request asks for another protocol on its connection, as
// Caddy's reverse proxy decides it: a request that it sends on as an ordinary one has
// to be checked as one. An Upgrade that the Connection header does not name concerns
// nobody (RFC 9110, section 7.8), and of extended CONNECT (RFC 8441, RFC 9220) only
// WebSockets are translated.
func upgrades(r *http.Request) bool {
	if r.Method == http.MethodConnect {
		return r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" || r.ProtoMajor == 3 && r.Proto == "websocket"
	}
	offers := r.Header["Upgrade"]
	return len(offers) > 0 && offers[0] != "" && httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade")
}

// opensWebSocket reports whether the request is the handshake of a WebSocket and offers no
// other protocol (RFC 6455, section 4.1; RFC 8441, section 4).
func opensWebSocket(r *http.Request) bool {
	if !upgrades(r) || r.Method == http.MethodConnect {
		return upgrades(r)
	}
	offers := r.Header["Upgrade"]
	return r.Method == http.MethodGet && len(offers) == 1 && strings.EqualFold(strings.Trim(offers[0], " \t"), "websocket")
}

// upgradesTo reports what the request wants to upgrade its connection to: HTTP/2, another
// protocol, or both.
func upgradesTo(r *http.Request) (http2, other bool) {
	for _, line := range r.Header["Upgrade"] {
		for name := range strings.SplitSeq(line, ",") {
			name, _, _ = strings.Cut(strings.ToLower(strings.Trim(name, " \t")), "/") // a version may follow
			switch name {
			case "":
			case "h2c", "h2", "http":
				http2 = true
			default:
				other = true
			}
		}
	}
	return http2, other
}

// dropIgnoredUpgrade removes an Upgrade header that asks for no upgrade, see upgrades, and
// a request's offer to go on in HTTP/2 on the same connection, which a server may ignore
// and which RFC 9113, section 3.1, has deprecated: Java's client makes it with every
// request without TLS. A client that names another protocol beside it wants an upgrade.
func dropIgnoredUpgrade(r *http.Request) {
	if !upgrades(r) {
		delete(r.Header, "Upgrade") // a handler behind a guard may not take it for one either
		return
	}
	if http2, other := upgradesTo(r); !http2 || other || r.Method == http.MethodConnect {
		return
	}
	var kept []string
	for _, line := range r.Header["Connection"] {
		for option := range strings.SplitSeq(line, ",") {
			option = strings.Trim(option, " \t")
			if option != "" && !strings.EqualFold(option, "upgrade") && !strings.EqualFold(option, "http2-settings") {
				kept = append(kept, option)
			}
		}
	}
	delete(r.Header, "Upgrade")
	delete(r.Header, "Http2-Settings")
	delete(r.Header, "Connection")
	if len(kept) > 0 {
		r.Header["Connection"] = []string{strings.Join(kept, ", ")}
	}
}
