package scope

import (
	"strings"
	"unicode/utf8"
)

// DenyList is a list of deny rules, indexed by their beginnings, so that a request's
// path is compared with only the few rules that could match it. It answers exactly as
// PathRules.matchFold does, and also tests a path without its parameters. A nil list
// denies nothing.
type DenyList struct {
	all    PathRules
	byHead map[string]PathRules // by the first one or two segments, in lower case
	open   PathRules            // rules that begin with a wildcard
}

// NewDenyList indexes rules.
func NewDenyList(rules PathRules) *DenyList {
	l := &DenyList{all: rules, byHead: make(map[string]PathRules)}
	for _, r := range rules {
		first, second := heads(r.Pattern)
		head := second
		if strings.Contains(head, "*") {
			head = first
		}
		if strings.Contains(head, "*") || !isASCII(r.Pattern) {
			l.open = append(l.open, r)
			continue
		}
		head = strings.ToLower(head)
		l.byHead[head] = append(l.byHead[head], r)
	}
	return l
}

// Denies reports whether a rule denies a cleaned path.
func (l *DenyList) Denies(method, path string) bool {
	if l == nil || len(l.all) == 0 {
		return false
	}
	if strings.IndexByte(path, ';') >= 0 && l.Denies(method, WithoutParameters(path)) {
		return true
	}
	if !isASCII(path) {
		// Some letters outside ASCII fold into it.
		return l.all.matchFold(method, path)
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	first, second := heads(path)
	return l.byHead[strings.ToLower(second)].matchFold(method, path) ||
		first != second && l.byHead[strings.ToLower(first)].matchFold(method, path) ||
		l.open.matchFold(method, path)
}

// WithoutParameters returns a path as seen by servers that drop everything after a
// semicolon in a segment (RFC 3986, section 3.3).
func WithoutParameters(path string) string {
	if strings.IndexByte(path, ';') < 0 {
		return path
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

// heads returns the first segment of a path, and its first two; both are the same if
// there is only one.
func heads(path string) (first, second string) {
	i := strings.IndexByte(path[min(1, len(path)):], '/')
	if i < 0 {
		return path, path
	}
	first = path[:1+i]
	j := strings.IndexByte(path[2+i:], '/')
	if j < 0 {
		return first, path
	}
	return first, path[:2+i+j]
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
