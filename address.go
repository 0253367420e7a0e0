package till

import (
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

// front is how a client reaches the upstream by way of this server: what stands
// there for the upstream's own origin, and before its paths.
type front struct {
	host   string // with its port; "" where it is not known
	secure bool   // over HTTPS
	prefix string // that another handler took from the path, escaped
}

// front is found when the first address is to be translated. Proxies in front of
// this server are believed as Caddy believes them, and where they are not told of,
// public_url says whether they speak HTTPS.
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
	f.host, f.secure = r.Host, r.TLS != nil
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); trusted {
		if proto := last(r.Header["X-Forwarded-Proto"]); proto != "" {
			f.secure = strings.EqualFold(proto, "https")
		}
		if host := last(r.Header["X-Forwarded-Host"]); host != "" {
			f.host = host
		}
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
			prefix, ok = asked, true // all of it was taken
		}
		if _, err := scope.CleanPath(prefix); ok && err == nil {
			f.prefix = prefix
		}
	}
	return f
}

func last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	value := values[len(values)-1]
	return strings.TrimSpace(value[strings.LastIndexByte(value, ',')+1:])
}

// scheme is what the client's addresses of this server begin with.
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

// authority is a host with its port, where that is not the scheme's own, in the
// form in which two are compared: one server's can be spelled in several ways.
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

// matches reports whether an absolute address is one of the upstream's origins. One of
// the other scheme at its usual port is one too: whoever followed it would come to
// the same server, with a key that is not for it.
func (t *target) matches(u *url.URL) bool {
	for _, o := range t.origins {
		if authority(u.Scheme, u.Host) == authority(o.scheme, o.host) || o.network == "tcp" && authority(u.Scheme, u.Host) == authority(o.scheme, o.address) {
			return true
		}
	}
	return false
}

// belowBase is a path of the upstream, escaped, as it is below the address in the
// configuration. It reports false for what no request can reach there.
func (t *target) belowBase(escaped string) (string, bool) {
	if escaped == "" {
		escaped = "/"
	}
	if escaped == t.root {
		return "/", true
	}
	path, ok := strings.CutPrefix(escaped, t.base)
	return path, ok && len(path) > 1 && path[0] == '/' && path[1] != '/'
}

// ownPath reports whether an escaped path is one that this server answers itself.
func ownPath(escaped string) bool {
	path, err := url.PathUnescape(normalizePath(escaped))
	return err != nil || path == "/till" || strings.HasPrefix(path, "/till/")
}

// maxAddress bounds what is translated, in bytes.
const maxAddress = 16 << 10

var (
	errElsewhere = errors.New("it is another server's")
	errUnclear   = errors.New("it is no address that all readers read alike")
	errOutside   = errors.New("it is the upstream's, and not below the configured address")
)

// parseAddress reads what another side wrote as an address. What readers differ
// about is an error: backslashes, controls, and slashes too many or too few
// (WHATWG's URL standard reads a host where RFC 3986 reads none).
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

// clientAddress is where the client finds an address that the upstream gave in its answer
// to out. It comes as a path, or, with whole, as an absolute address where it was
// one.
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
// Location has rules of its own. Of all others a value counts that is an absolute
// address as a whole: Operation-Location, Azure-AsyncOperation, X-Goog-Upload-URL,
// OData-EntityId and what else vendors invent.
var addressed = map[string]bool{
	"Link":             true, // RFC 8288
	"Refresh":          true,
	"Content-Location": true, // RFC 9110, section 8.7
	"Sourcemap":        true, // ECMA-426
	"X-Sourcemap":      true,
	"Content-Base":     true, // RFC 2110
	"Uri":              true, // RFC 2068, section 19.6.2.5
}

// translate makes the addresses in the header of an answer the client's own: it
// would else go to the upstream, and with its key. A value whose address has no
// counterpart here, or cannot be read for sure, is dropped; those of other servers
// stay as they are.
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

// translated is one value of a header as the client is told it.
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

// absolute reports whether a value begins as an absolute address does, with or
// without its scheme.
func absolute(value string) bool {
	if strings.HasPrefix(value, "//") {
		return true
	}
	return len(value) > len("https://") && value[0]|0x20 == 'h' && (strings.EqualFold(value[:7], "http://") || strings.EqualFold(value[:8], "https://"))
}

// refresh is a Refresh header with an address, as browsers read it (HTML, section
// 4.2.4.3).
var refresh = regexp.MustCompile(`(?i)^([\s\d.]*[\s;,]\s*(?:url\s*=\s*)?)(["']?)([^\s"'].*?)(["']?\s*)$`)

// eachLink replaces the addresses of a Link header (RFC 8288, section 3): what
// stands between < and >, but not in a quoted parameter. It reports false where it
// cannot tell them apart, and where one cannot be replaced.
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

// quotedEnd is where the quoted string at the beginning of s ends; -1: nowhere.
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
