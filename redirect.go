package till

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/till-proxy/till/limiter"
)

// redirectHosts are the servers that redirects may lead to: hosts, perhaps with a
// port, and *.example.com for one label before example.com.
type redirectHosts []string

func parseRedirectHosts(list []string) (redirectHosts, error) {
	var all redirectHosts
	for _, text := range list {
		host := strings.ToLower(text)
		bare := strings.TrimPrefix(host, "*.")
		u, err := url.Parse("https://" + bare)
		switch {
		case err != nil || u.Host != bare || u.Hostname() == "" || plainHost(u) == "":
			return nil, fmt.Errorf("redirects pass takes hosts such as codeload.github.com, *.githubusercontent.com or files.example.com:8443, got %q", text)
		case bare != host && !strings.Contains(u.Hostname(), "."):
			return nil, fmt.Errorf("redirects pass %s would let redirects lead to half of the internet: write at least two names after the *", text)
		}
		all = append(all, host)
	}
	return all, nil
}

// allows reports whether a redirect may lead to an address. A host with other letters
// than hosts are made of is none: what some clients make of U+FF0F is a slash.
func (p redirectHosts) allows(u *url.URL) bool {
	host := plainHost(u)
	_, parent, _ := strings.Cut(host, ".")
	return slices.ContainsFunc(p, func(passed string) bool {
		if suffix, any := strings.CutPrefix(passed, "*."); any {
			return parent != "" && parent == authority(u.Scheme, suffix) && host[0] != '.'
		}
		return host == authority(u.Scheme, passed)
	})
}

// relocate judges the Location of an answer, and writes it as the client's own.
func (t *target) relocate(res *http.Response, out *http.Request, x *exchange, key *limiter.Key) *limiter.Refusal {
	locations := res.Header["Location"]
	if len(locations) == 0 || len(locations) == 1 && locations[0] == "" {
		return nil
	}
	location := locations[0]
	redirects := res.StatusCode >= 300 && res.StatusCode < 400
	// What was made (201, 202) is told as it came, for clients that take it for an
	// absolute address; whoever follows a redirect reads a path too.
	translated, err := t.clientAddress(location, !redirects, out, x)
	if len(locations) > 1 {
		err = errUnclear
	}
	if err == nil && redirects && t.origins[0].scheme == "http" {
		// It would come back to this server, and be asked over http once more.
		if u, _ := parseAddress(location); u != nil && u.Scheme == "https" {
			err = errOutside
		}
	}
	switch {
	case err == nil:
		res.Header["Location"] = []string{translated}
		return nil
	case !redirects && errors.Is(err, errElsewhere):
		return nil
	case !redirects:
		delete(res.Header, "Location")
		return nil
	}
	refuse := func(format string, args ...any) *limiter.Refusal {
		return keyRefusal(key, limiter.CodeUpstreamFailed, "was redirected by upstream "+t.name+" "+format, args...)
	}
	to, parseErr := parseAddress(location)
	switch {
	case errors.Is(err, errUnclear) || parseErr != nil:
		return refuse("to something that is no address of a web server, which is not followed")
	case errors.Is(err, errOutside):
		return refuse("to a place of its own that is not below the address in the configuration: whoever runs this server may change that to %s", t.plain(to, out))
	case to.Scheme == "" && to.Host != "":
		to.Scheme = t.origins[0].scheme
	}
	if to.User == nil && strings.EqualFold(to.Scheme+"://"+to.Host, t.publicOrigin) {
		if ownPath(to.EscapedPath()) { // where a DELETE revokes the key
			return refuse("to what this server answers itself, which is not followed")
		}
		return nil // an upstream that was told by which address it is reached
	}
	secure := to.Scheme == "https" || t.origins[0].scheme == "http"
	if to.User == nil && secure && t.redirectHosts.allows(to) {
		return nil
	}
	host := plainHost(to)
	switch {
	case host == "":
		return refuse("to another server, which is not followed")
	case !secure:
		return refuse("to %s without TLS, which is not followed", host)
	}
	return refuse("to %s, another server, which is not followed; whoever runs this server lets such redirects pass with: redirects pass %s", host, host)
}

// plainHost is the host of an address that somebody else wrote, fit for a message;
// "" where it holds anything but what hosts are made of.
func plainHost(u *url.URL) string {
	host := authority(u.Scheme, u.Host)
	if len(host) > 255 || strings.ContainsFunc(u.Host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_:[]", r))
	}) {
		return ""
	}
	return host
}

// plain is the address at the upstream that a redirect named, without what it asks
// there, fit for a message.
func (t *target) plain(u *url.URL, out *http.Request) string {
	here := url.URL{Scheme: t.origins[0].scheme, Host: out.Host, Path: out.URL.Path, RawPath: out.URL.RawPath}
	u = here.ResolveReference(u)
	path := u.EscapedPath()
	if len(path) > 200 {
		path = ""
	}
	return u.Scheme + "://" + plainHost(u) + path
}
