package till

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// checkDestination checks where a request copies or moves something to: the
// Destination of WebDAV (RFC 4918, section 10.3). It is a second path of the request,
// so the same rules apply to it, and it is sent on as the upstream's own address. The
// limiter checks the key's rules for it, from what checkDestination writes into ask.
// Behind a guard only the key's rules apply, as they do for the request's path.
func (x *exchange) checkDestination(guard bool, ask *limiter.Ask) *record.Refusal {
	r, key, t := x.request, x.key, x.target
	uncheckable := func(what string) *record.Refusal {
		if len(t.allow) > 0 && !guard {
			return key.Refuse(record.CodePathNotAllowed, "may not use %s: it names another path, and upstream %s allows only some", what, t.name)
		}
		ask.Elsewhere = what
		return nil
	}
	// Each of these has a format of its own. They are not parsed, but refused where
	// paths are restricted.
	for _, name := range upstream.SourceHeaders() {
		if len(r.Header[name]) > 0 {
			if refusal := uncheckable("the header " + name); refusal != nil {
				return refusal
			}
		}
	}
	for _, value := range r.Header["If"] {
		if holdsKey(eachTag(value, func(tag string) string { return x.atUpstream(tag, "") })) {
			return key.Refuse(record.CodeBadRequest, "sent a key in an If header, which goes to the upstream; send it where the API's own key would go")
		}
	}
	values, ok := r.Header["Destination"]
	if !ok {
		return nil
	}
	bad := func(why string) *record.Refusal {
		return key.Refuse(record.CodeBadRequest, "asked for a destination that is refused: %s", why)
	}
	if len(values) != 1 {
		return bad("there are several")
	}
	u, err := parseAddress(values[0])
	escaped, ours := "", false
	if err == nil {
		escaped, ours = x.localPath(u)
	}
	switch {
	case ours && strings.Contains(u.RawQuery, " "):
		return bad("a space in it is not escaped")
	case ours:
	case holdsKey(values[0]):
		return bad("it holds a key, and is not an address of this server")
	default:
		return uncheckable("a destination that is not an address of this server")
	}
	if !guard {
		escaped = normalizePath(escaped)
	}
	path, err := scope.CleanPath(escaped)
	if err != nil {
		return bad(err.Error())
	}
	there := location{path: path}
	if !guard {
		var refusal *record.Refusal
		if there, refusal = t.locate(key, path, escaped); refusal == nil {
			refusal = t.permit(r.Method, there.path, false, false, key)
		}
		if refusal != nil {
			return refusal
		}
	}
	if holdsKey(u.Path) || holdsKey(u.RawQuery) {
		return bad("it holds a key, which would go to the upstream")
	}
	ask.Destination, ask.DestinationVersion, x.destination = there.path, there.version, there.out
	if u.RawQuery != "" {
		x.destination += "?" + u.RawQuery
	}
	if guard && u.User != nil {
		u.User = nil
		r.Header["Destination"] = []string{u.String()}
	}
	return nil
}

// holdsKey reports whether a text holds a scoped key, escaped or not.
func holdsKey(text string) bool {
	return strings.Contains(text, token.KeyPrefix) || strings.ContainsAny(text, escapes) && strings.Contains(string(unescaped(text)), token.KeyPrefix)
}

// localPath returns the escaped path of an address in a request, as a client would ask
// for it. It reports false for addresses of other servers. An address of this server
// may contain the key, as the addresses that some clients were given do.
func (x *exchange) localPath(u *url.URL) (string, bool) {
	escaped := u.EscapedPath()
	switch {
	case u.Host == "":
		if u.User != nil || !strings.HasPrefix(escaped, "/") {
			return "", false
		}
	case x.target.matches(u) && !x.front().matches(u):
		if u.User != nil {
			return "", false
		}
		path, ok := x.target.belowBase(escaped)
		if ok && x.proxied != "" {
			path = x.proxied + path
		}
		return path, ok
	case !x.front().matches(u):
		return "", false
	}
	if rest, ok := strings.CutPrefix(escaped, x.front().prefix); ok {
		escaped = rest
	}
	escaped = cmp.Or(escaped, "/")
	return escaped, true
}

// rewriteAddresses turns the addresses of this server in a request's header into the
// upstream's own.
func (x *exchange) rewriteAddresses(h http.Header, o origin) {
	if x.destination == "" && len(h["If"]) == 0 && len(h["Referer"]) == 0 && len(h["Origin"]) == 0 {
		return
	}
	upstream := o.scheme + "://" + o.host
	if x.destination != "" {
		h["Destination"] = []string{upstream + x.destination}
	}
	if values, ok := h["If"]; ok { // RFC 4918, section 10.4
		rewritten := make([]string, 0, len(values))
		for _, value := range values {
			rewritten = append(rewritten, eachTag(value, func(tag string) string { return x.atUpstream(tag, upstream) }))
		}
		h["If"] = rewritten
	}
	if values := h["Referer"]; len(values) > 0 {
		if rewritten := x.atUpstream(values[0], upstream); len(values) > 1 || holdsKey(rewritten) {
			delete(h, "Referer") // a page whose address holds a key
		} else if rewritten != values[0] {
			h["Referer"] = []string{rewritten}
		}
	}
	if values := h["Origin"]; len(values) == 1 && values[0] != "null" {
		if u, err := parseAddress(values[0]); err == nil && u.Host != "" && x.front().matches(u) {
			h["Origin"] = []string{upstream}
		}
	}
}

// atUpstream returns the upstream's own address for one of this server's. Other
// addresses stay as they are, because nothing depends on them.
func (x *exchange) atUpstream(address, upstream string) string {
	u, err := parseAddress(address)
	if err != nil || u.Host != "" && !x.front().matches(u) {
		return address
	}
	escaped, ok := x.localPath(u)
	if !ok {
		return address
	}
	escaped = normalizePath(escaped)
	path, err := scope.CleanPath(escaped)
	if err != nil {
		return address
	}
	there, refusal := x.target.locate(&record.Key{}, path, escaped)
	if refusal != nil {
		return address
	}
	if u.RawQuery != "" {
		there.out += "?" + u.RawQuery
	}
	if u.Host == "" {
		return there.out
	}
	return upstream + there.out
}

// eachTag replaces the resource tags of an If header. State tokens and entity tags,
// which are not addresses, stand in parentheses.
func eachTag(value string, replace func(string) string) string {
	var b strings.Builder
	depth := 0
	for i := 0; i < len(value); i++ {
		end := -1
		switch value[i] {
		case '(':
			depth++
		case ')':
			depth--
		case '"':
			end = quotedEnd(value[i:])
		case '<':
			end = strings.IndexByte(value[i:], '>')
			if end > 0 && depth == 0 {
				b.WriteString("<" + replace(value[i+1:i+end]) + ">")
				i += end
				continue
			}
		}
		if end > 0 {
			b.WriteString(value[i : i+end+1])
			i += end
			continue
		}
		b.WriteByte(value[i])
	}
	return b.String()
}
