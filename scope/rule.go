package scope

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// PathRule is one line of an allow or deny list: a method and a pattern.
type PathRule struct {
	Method  string // "*" for any
	Pattern string
}

// PathRules is an allow or deny list.
type PathRules []PathRule

// ParsePathRule checks a rule. A pattern is compared segment by segment. In a
// segment one "*" stands for any characters; a last segment that is just "*"
// stands for one or more segments:
//
//	/v1/chat/completions    that path
//	/repos/*                everything below /repos
//	/repos/*/issues         one segment between
//	/v1/models/*:countTokens
func ParsePathRule(method, pattern string) (PathRule, error) {
	if !validMethod(method) {
		return PathRule{}, fmt.Errorf(`a method must be in capitals, or "*" for any, got %q`, method)
	}
	if len(pattern) > maxRuleLen {
		return PathRule{}, fmt.Errorf("a path pattern may be %d bytes long, got %d", maxRuleLen, len(pattern))
	}
	if !strings.HasPrefix(pattern, "/") {
		return PathRule{}, fmt.Errorf(`a path pattern must begin with "/", got %q`, pattern)
	}
	if strings.ContainsAny(pattern, "?#%") {
		return PathRule{}, fmt.Errorf("a path pattern is written decoded and without query, got %q", pattern)
	}
	if _, err := CleanPath(pattern); err != nil {
		return PathRule{}, fmt.Errorf("path pattern %q: %w", pattern, err)
	}
	for segment := range strings.SplitSeq(pattern, "/") {
		if strings.Count(segment, "*") > 1 {
			return PathRule{}, fmt.Errorf(`a segment of a path pattern may hold one "*", got %q`, pattern)
		}
	}
	return PathRule{Method: method, Pattern: pattern}, nil
}

// MustPathRules builds a list for a table in the source, written as
// "METHOD /pattern". It panics on a rule that ParsePathRule refuses.
func MustPathRules(rules ...string) PathRules {
	list := make(PathRules, len(rules))
	for i, r := range rules {
		method, pattern, _ := strings.Cut(r, " ")
		rule, err := ParsePathRule(method, pattern)
		if err != nil {
			panic(fmt.Sprintf("rule %q: %v", r, err))
		}
		list[i] = rule
	}
	return list
}

// Match reports whether a rule allows a cleaned path, whose first version bytes are the
// version of its API. Case matters, and so does a slash at the end.
func (r PathRule) Match(method, path string, version int) bool {
	return (r.Method == "*" || r.Method == method) && allows(r.Pattern, path, version)
}

// allows reports whether a pattern allows a path. Some servers drop parameters, which
// follow a semicolon in a segment (RFC 3986, section 3.3), so a path that has them must
// match both with and without them.
func allows(pattern, path string, version int) bool {
	return matchBelow(pattern, path, version) &&
		(strings.IndexByte(path, ';') < 0 || matchBelow(WithoutParameters(pattern), WithoutParameters(path), version))
}

// matchBelow compares a path as it is, and without its version if the pattern leaves
// that out. A pattern that begins with a wildcard includes the version in it.
func matchBelow(pattern, path string, version int) bool {
	if matchPath(pattern, path, equal) {
		return true
	}
	if version == 0 {
		return false
	}
	first, _ := heads(pattern)
	return strings.IndexByte(first, '*') < 0 && matchPath(pattern, path[version:], equal)
}

// matchFold reports whether a rule denies a cleaned path: case is ignored, and so is a
// slash at the end.
func (r PathRule) matchFold(method, path string) bool {
	if r.Method != "*" && !strings.EqualFold(r.Method, method) {
		return false
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	return matchPath(r.Pattern, path, strings.EqualFold)
}

// Match reports whether any rule allows.
func (rs PathRules) Match(method, path string, version int) bool {
	return slices.ContainsFunc(rs, func(r PathRule) bool { return r.Match(method, path, version) })
}

// matchFold reports whether any rule denies.
func (rs PathRules) matchFold(method, path string) bool {
	return slices.ContainsFunc(rs, func(r PathRule) bool { return r.matchFold(method, path) })
}

func equal(a, b string) bool { return a == b }

func matchPath(pattern, path string, same func(a, b string) bool) bool {
	if pattern == "" || path == "" || pattern[0] != '/' || path[0] != '/' {
		return false
	}
	pattern, path = pattern[1:], path[1:]
	for {
		want, restPattern, morePattern := strings.Cut(pattern, "/")
		got, restPath, morePath := strings.Cut(path, "/")
		if want == "*" && !morePattern {
			return got != ""
		}
		if !matchSegment(want, got, same) || morePattern != morePath {
			return false
		}
		if !morePattern {
			return true
		}
		pattern, path = restPattern, restPath
	}
}

func matchSegment(want, got string, same func(a, b string) bool) bool {
	head, tail, open := strings.Cut(want, "*")
	if !open {
		return same(want, got)
	}
	if tail == "" {
		// Compared rune by rune, because a letter's other case can have another length.
		return hasPrefix(got, head, same) && (want != "*" || got != "")
	}
	return hasPrefix(got, head, same) && hasSuffix(got[min(len(head), len(got)):], tail, same)
}

func hasPrefix(s, prefix string, same func(a, b string) bool) bool {
	n := utf8.RuneCountInString(prefix)
	for i := range s {
		if n == 0 {
			return same(s[:i], prefix)
		}
		n--
	}
	return n == 0 && same(s, prefix)
}

func hasSuffix(s, suffix string, same func(a, b string) bool) bool {
	for i := range s {
		if same(s[i:], suffix) {
			return true
		}
	}
	return suffix == ""
}
