package till

import (
	"cmp"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/idna"

	"github.com/till-proxy/till/scope"
)

// front is the address by which a client reaches the upstream through this server: it
// takes the place of the upstream's origin, and of everything before its paths.
type front struct {
	host   string // with its port; "" if it is unknown
	secure bool   // reached over HTTPS
	prefix string // path prefix that another handler stripped, escaped
}

// front is worked out when the first address is translated. Proxies in front of this
// server are trusted as Caddy trusts them; where Caddy does not know of one, public_url
// says whether it speaks HTTPS.
func (x *exchange) front() *front {
	if x.foundFront != nil {
		return x.foundFront
	}
	f := new(front)
	x.foundFront = f
	r := x.request
	if r == nil {
		return f
	}
	f.host, f.secure = askedHost(r), r.TLS != nil
	if proto := last(r.Header["X-Forwarded-Proto"]); proto != "" && byTrustedProxy(r) {
		f.secure = strings.EqualFold(proto, "https")
	}
	if strings.EqualFold("https://"+f.host, x.target.publicOrigin) {
		f.secure = true
	}
	if u, err := url.Parse("http://" + f.host); err != nil || u.Host != f.host || u.User != nil || strings.ContainsAny(f.host, `<>",;\ `) {
		f.host = ""
	}
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		asked, here := original.URL.EscapedPath(), r.URL.EscapedPath()
		prefix, ok := strings.CutSuffix(asked, here)
		if here == "/" && !ok {
			prefix, ok = asked, true // all of it was stripped
		}
		if _, err := scope.CleanPath(prefix); ok && err == nil {
			f.prefix = prefix
		}
	}
	return f
}

func byTrustedProxy(r *http.Request) bool {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted
}

// askedHost returns the host for which a client asked, with its port.
func askedHost(r *http.Request) string {
	if host := last(r.Header["X-Forwarded-Host"]); host != "" && byTrustedProxy(r) {
		return host
	}
	return r.Host
}

func last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	value := values[len(values)-1]
	return strings.TrimSpace(value[strings.LastIndexByte(value, ',')+1:])
}

// scheme is the scheme of the addresses that the client uses for this server.
func (f *front) scheme() string {
	if f.secure {
		return "https"
	}
	return "http"
}

func (f *front) origin() string { return f.scheme() + "://" + f.host }

// matches reports whether an absolute address is one of this server's.
func (f *front) matches(u *url.URL) bool {
	return f.host != "" && (authority(u.Scheme, u.Host) == authority(f.scheme(), f.host) || strings.EqualFold(u.Host, f.host))
}

// authority returns a host, with its port unless that is the scheme's default, in a
// form in which two can be compared: one server can be spelled in several ways.
func authority(scheme, host string) string {
	host = strings.ToLower(host)
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name, port = host[:i], strings.TrimLeft(host[i+1:], "0")
	}
	if scheme == "https" && port == "443" || scheme != "https" && port == "80" {
		port = ""
	}
	name = strings.TrimSuffix(name, ".")
	if literal, ok := strings.CutPrefix(name, "["); ok {
		if addr, err := netip.ParseAddr(strings.TrimSuffix(literal, "]")); err == nil {
			name = "[" + addr.String() + "]"
		}
	} else if ascii, err := idna.Lookup.ToASCII(name); err == nil {
		name = ascii
	}
	if port != "" {
		return name + ":" + port
	}
	return name
}

// matches reports whether an absolute address is one of the upstream's origins. The
// same host under the other scheme, at its usual port, counts too: a client that
// followed such an address would reach the same server, with a key that is not for it.
func (t *target) matches(u *url.URL) bool {
	for _, o := range t.origins {
		if authority(u.Scheme, u.Host) == authority(o.scheme, o.host) || o.network == "tcp" && authority(u.Scheme, u.Host) == authority(o.scheme, o.address) {
			return true
		}
	}
	return false
}

// belowBase returns an escaped path of the upstream relative to the configured address.
// It reports false for a path that no request can reach there.
func (t *target) belowBase(escaped string) (string, bool) {
	escaped = cmp.Or(escaped, "/")
	if escaped == t.root {
		return "/", true
	}
	path, ok := strings.CutPrefix(escaped, t.base)
	return path, ok && len(path) > 1 && path[0] == '/' && path[1] != '/'
}

// ownPath reports whether this server answers an escaped path itself.
func ownPath(escaped string) bool {
	path, err := url.PathUnescape(normalizePath(escaped))
	return err != nil || path == "/till" || strings.HasPrefix(path, "/till/")
}

// maxAddress is the longest address that is translated, in bytes.
const maxAddress = 16 << 10

var (
	errElsewhere = errors.New("it belongs to another server")
	errUnclear   = errors.New("it can be read in more than one way")
	errOutside   = errors.New("it belongs to the upstream, but is not below the configured address")
)

// parseAddress parses an address that another party wrote. Anything that parsers
// disagree about is an error: backslashes, control characters, and too many or too few
// slashes (WHATWG's URL standard finds a host where RFC 3986 finds none).
func parseAddress(text string) (*url.URL, error) {
	if len(text) > maxAddress || strings.ContainsAny(text, "\\\r\n\t\x00") || strings.HasPrefix(text, "///") {
		return nil, errUnclear
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errUnclear
	case u.Scheme == "" && u.Opaque == "":
		return u, nil
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errElsewhere
	case u.Opaque != "" || u.Host == "":
		return nil, errUnclear
	}
	return u, nil
}

// clientAddress returns the client's counterpart of an address that the upstream named
// in its answer to out. The result is a path; with whole it is an absolute address if
// the upstream's was one.
func (t *target) clientAddress(address string, whole bool, out *http.Request, x *exchange) (string, error) {
	to, err := parseAddress(address)
	if err != nil {
		return "", err
	}
	whole = whole && to.Host != ""
	here := url.URL{Scheme: t.origins[0].scheme, Host: out.Host, Path: out.URL.Path, RawPath: out.URL.RawPath, RawQuery: out.URL.RawQuery}
	fragmentOnly := address != "" && address[0] == '#'
	if to = here.ResolveReference(to); !t.matches(to) {
		return "", errElsewhere
	}
	path, ok := t.belowBase(to.EscapedPath())
	if !ok || to.User != nil {
		return "", errOutside
	}
	if fragmentOnly {
		return address, nil
	}
	f := x.front()
	before := x.proxied
	if plain, err := url.PathUnescape(path); before == "" && (err != nil || ownPath(path) || strings.HasPrefix(plain, proxyPrefix)) {
		before = proxyPrefix + t.name
	}
	if path == "/" && before != "" && t.base != "" {
		path = ""
	}
	local := url.URL{RawPath: f.prefix + before + path, RawQuery: to.RawQuery, ForceQuery: to.ForceQuery, Fragment: to.Fragment, RawFragment: to.RawFragment}
	if local.Path, err = url.PathUnescape(local.RawPath); err != nil {
		return "", errUnclear
	}
	if whole && f.host != "" {
		local.Scheme, local.Host = f.scheme(), f.host
	}
	return local.String(), nil
}

// addressed are the headers of answers that hold addresses, absolute or relative.
// Location has rules of its own. In every other header a value counts only if all of it
// is an absolute address: Operation-Location, Azure-AsyncOperation, X-Goog-Upload-URL,
// OData-EntityId and others that vendors invent.
var addressed = map[string]bool{
	"Link":             true, // RFC 8288
	"Refresh":          true,
	"Content-Location": true, // RFC 9110, section 8.7
	"Sourcemap":        true, // ECMA-426
	"X-Sourcemap":      true,
	"Content-Base":     true, // RFC 2110
	"Uri":              true, // RFC 2068, section 19.6.2.5
}

// translate rewrites the addresses in an answer's header to the client's own,
// because a client that followed the upstream's would go there directly, with its key.
// A value is dropped if its address has no counterpart here or cannot be parsed
// reliably; addresses of other servers stay as they are.
func (t *target) translate(h http.Header, out *http.Request, x *exchange) {
	for name, values := range h {
		if name == "Location" {
			continue
		}
		var kept []string
		for i, value := range values {
			if !absolute(value) && !addressed[name] {
				if kept != nil {
					kept = append(kept, value)
				}
				continue
			}
			translated, ok := t.translated(name, value, out, x)
			if kept == nil && (!ok || translated != value) {
				kept = append(make([]string, 0, len(values)), values[:i]...)
			}
			if kept != nil && ok {
				kept = append(kept, translated)
			}
		}
		switch {
		case kept == nil:
		case len(kept) == 0:
			delete(h, name)
		default:
			h[name] = kept
		}
	}
}

// translated returns one header value as the client gets it, and whether the client may
// have it.
func (t *target) translated(name, value string, out *http.Request, x *exchange) (string, bool) {
	one := func(address string) (string, bool) {
		translated, err := t.clientAddress(address, true, out, x)
		if errors.Is(err, errElsewhere) {
			return address, true
		}
		return translated, err == nil
	}
	switch name {
	case "Link":
		return eachLink(value, one)
	case "Access-Control-Allow-Origin", "Timing-Allow-Origin":
		if u, err := parseAddress(value); err == nil && t.matches(u) && x.front().host != "" {
			return x.front().origin(), true
		}
		return value, true
	case "Refresh":
		parts := refresh.FindStringSubmatch(value)
		if parts == nil {
			return value, true // a time alone
		}
		translated, ok := one(parts[3])
		return parts[1] + parts[2] + translated + parts[4], ok
	}
	return one(value)
}

// absolute reports whether a value begins like an absolute address, with or without
// a scheme.
func absolute(value string) bool {
	if strings.HasPrefix(value, "//") {
		return true
	}
	return len(value) > len("https://") && value[0]|0x20 == 'h' && (strings.EqualFold(value[:7], "http://") || strings.EqualFold(value[:8], "https://"))
}

// refresh matches a Refresh header with an address, as browsers read it (HTML,
// section 4.2.4.3).
var refresh = regexp.MustCompile(`(?i)^([\s\d.]*[\s;,]\s*(?:url\s*=\s*)?)(["']?)([^\s"'].*?)(["']?\s*)$`)

// eachLink replaces the addresses of a Link header (RFC 8288, section 3): whatever
// stands between < and >, except in a quoted parameter. It reports false if it cannot
// find them reliably, or if one cannot be replaced.
func eachLink(value string, replace func(string) (string, bool)) (string, bool) {
	var b strings.Builder
	for value != "" {
		i := strings.IndexAny(value, `<"`)
		if i < 0 {
			break
		}
		b.WriteString(value[:i])
		value = value[i:]
		end := 0
		if value[0] == '<' {
			if end = strings.IndexByte(value, '>'); end < 0 {
				return "", false
			}
			replaced, ok := replace(value[1:end])
			if !ok || strings.ContainsAny(replaced, "<>\"") {
				return "", false
			}
			b.WriteString("<" + replaced + ">")
		} else {
			if end = quotedEnd(value); end < 0 {
				return "", false
			}
			b.WriteString(value[:end+1])
		}
		value = value[end+1:]
	}
	b.WriteString(value)
	return b.String(), true
}

// quotedEnd returns the index at which the quoted string at the start of s ends, or
// -1.
func quotedEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}
