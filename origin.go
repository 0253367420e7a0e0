package till

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/till-proxy/till/scope"
	"github.com/till-proxy/till/token"
)

// origin is one address that the credential may be sent to.
type origin struct {
	scheme  string // http or https
	network string // tcp or unix
	address string // as dialled
	host    string // for the Host header
}

func (o origin) String() string {
	if o.network == "unix" {
		return "unix/" + o.address
	}
	return o.scheme + "://" + o.host
}

func (o origin) hostname() string {
	host, _, err := net.SplitHostPort(o.address)
	if err != nil {
		return o.host
	}
	return host
}

// dial is the address in reverse_proxy's form.
func (o origin) dial() string {
	if o.network == "unix" {
		return "unix/" + o.address
	}
	return o.address
}

// parseOrigin parses an address: http(s)://host[:port][/path] or unix//path. root is
// its path.
func parseOrigin(s string) (o origin, root string, err error) {
	if strings.ContainsAny(s, "{}") {
		return o, "", fmt.Errorf("an address must not hold placeholders, got %q: whoever chooses the address gets the credential", token.ScrubAddress(s))
	}
	if path, ok := strings.CutPrefix(s, "unix/"); ok {
		if !strings.HasPrefix(path, "/") {
			return o, "", fmt.Errorf("a unix socket is written unix//absolute/path, got %q", s)
		}
		return origin{scheme: "http", network: "unix", address: path, host: "localhost"}, "/", nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return o, "", fmt.Errorf("an address is written https://host[:port][/path], http://… or unix//path, got %q", token.ScrubAddress(s))
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return o, "", fmt.Errorf("an address must not hold a user, a query or a fragment, got %q", token.ScrubAddress(s))
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if root = u.EscapedPath(); root == "" {
		root = "/"
	}
	if _, err := scope.CleanPath(root); err != nil {
		return o, "", fmt.Errorf("address %s: %w", s, err)
	}
	host := strings.ToLower(u.Host)
	if (u.Scheme == "https" && u.Port() == "443") || (u.Scheme == "http" && u.Port() == "80") {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return origin{
		scheme: u.Scheme, network: "tcp", host: host,
		address: net.JoinHostPort(strings.ToLower(u.Hostname()), port),
	}, root, nil
}
