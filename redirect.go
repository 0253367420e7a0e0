package till

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// redirectHosts are the servers that redirects may lead to: hosts, with or without a
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
			return nil, fmt.Errorf("redirects pass takes hosts such as codeload.github.com, *.githubusercontent.com or files.example.com:8443, got %q", token.ScrubAddress(text))
		case bare != host && !strings.Contains(u.Hostname(), "."):
			return nil, fmt.Errorf("redirects pass %s would let redirects lead to half of the internet: write at least two names after the *", text)
		}
		all = append(all, host)
	}
	return all, nil
}

// allows reports whether a redirect may lead to an address. A host that contains other
// characters than host names do is refused: some clients read U+FF0F as a slash.
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

// relocate checks the Location of an answer, and rewrites it as the client's own.
func (t *target) relocate(res *http.Response, out *http.Request, x *exchange, key *record.Key) *record.Refusal {
	locations := res.Header["Location"]
	if len(locations) == 0 || len(locations) == 1 && locations[0] == "" {
		return nil
	}
	location := locations[0]
	redirects := res.StatusCode >= 300 && res.StatusCode < 400
	// The address of a new resource (201, 202) stays an absolute one, for clients that
	// expect that; in a redirect clients accept a path, too.
	translated, err := t.clientAddress(location, !redirects, out, x)
	if len(locations) > 1 {
		err = errUnclear
	}
	if err == nil && redirects && t.origins[0].scheme == "http" {
		// The client would come back to this server, and be redirected again from http.
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
	refuse := func(format string, args ...any) *record.Refusal {
		return key.Refuse(record.CodeUpstreamFailed, "was redirected by upstream "+t.name+" "+format, args...)
	}
	to, parseErr := parseAddress(location)
	switch {
	case errors.Is(err, errUnclear) || parseErr != nil:
		return refuse("to something that is not the address of a web server, which is not followed")
	case errors.Is(err, errOutside):
		return refuse("to an address of its own that is not below the configured one: the operator of this server may change that to %s", t.plain(to, out))
	case to.Scheme == "" && to.Host != "":
		to.Scheme = t.origins[0].scheme
	}
	if to.User == nil && strings.EqualFold(to.Scheme+"://"+to.Host, t.publicOrigin) {
		if ownPath(to.EscapedPath()) { // a DELETE there would revoke the key
			return refuse("to what this server answers itself, which is not followed")
		}
		return nil // the upstream knows the address by which it is reached
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
	return refuse("to %s, another server, which is not followed; the operator of this server lets such redirects pass with: redirects pass %s", host, host)
}

// plainHost returns the host of an address that another party wrote, fit for a message,
// or "" if it contains any character that host names do not.
func plainHost(u *url.URL) string {
	host := authority(u.Scheme, u.Host)
	if len(host) > 255 || strings.ContainsFunc(u.Host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_:[]", r))
	}) {
		return ""
	}
	return host
}

// plain returns the address at the upstream that a redirect named, without its query,
// fit for a message.
func (t *target) plain(u *url.URL, out *http.Request) string {
	here := url.URL{Scheme: t.origins[0].scheme, Host: out.Host, Path: out.URL.Path, RawPath: out.URL.RawPath}
	u = here.ResolveReference(u)
	path := u.EscapedPath()
	if len(path) > 200 {
		path = ""
	}
	return u.Scheme + "://" + plainHost(u) + path
}
