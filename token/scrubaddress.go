package token

import (
	"regexp"
	"strings"
)

// addressScheme is the beginning of an address that has a scheme (RFC 3986, section 3.1).
var addressScheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)

// ScrubAddress returns an address as messages may repeat it: without a user, a password, a query
// and a fragment, even if it is not well formed.
func ScrubAddress(text string) string {
	scheme := addressScheme.FindString(text)
	hidden, rest := "", text[len(scheme):]
	user := strings.LastIndexByte(rest, '@') + 1
	if i := strings.LastIndex(rest, "%40"); i >= 0 { // too much was encoded
		user = max(user, i+len("%40"))
	}
	if user > 0 {
		hidden, rest = "…@", rest[user:]
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i+1] + "…"
	}
	return scheme + hidden + rest
}
