package token

import "strings"

// ScrubAddress returns an address as messages may repeat it: without a user, a password, a query
// and a fragment, also where it is not well formed.
func ScrubAddress(text string) string {
	scheme, rest, is := strings.Cut(text, "://")
	if !is {
		scheme, rest = "", text
	}
	hidden := ""
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		hidden, rest = "…@", rest[i+1:]
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i+1] + "…"
	}
	if is {
		scheme += "://"
	}
	return scheme + hidden + rest
}
