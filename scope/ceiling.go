package scope

import (
	"net/netip"
	"slices"
	"strings"
)

// Beyond returns the first field in which s allows something that the ceiling does not,
// and the rule that does; both are empty if there is none. An empty list allows
// everything.
func (s Scope) Beyond(ceiling Scope) (field, rule string) {
	for _, l := range []struct {
		field          string
		rules, ceiling []string
		covers         func(wide, narrow string) bool
	}{
		{"models", s.Models, ceiling.Models, coversModel},
		{"paths", s.Paths, ceiling.Paths, coversPath},
		{"methods", s.Methods, ceiling.Methods, equal},
	} {
		if rule, ok := beyond(l.rules, l.ceiling, l.covers); ok {
			return l.field, rule
		}
	}
	if rule, ok := beyond(s.IPs, ceiling.IPs, coversNetwork); ok {
		if !rule.IsValid() {
			return "ips", ""
		}
		return "ips", rule.String()
	}
	return "", ""
}

// beyond finds a rule that none of the ceiling's rules covers. The zero rule stands for
// a list that allows everything.
func beyond[T any](rules, ceiling []T, covers func(wide, narrow T) bool) (rule T, found bool) {
	if len(ceiling) == 0 {
		return rule, false
	}
	if len(rules) == 0 {
		return rule, true
	}
	for _, rule := range rules {
		if !slices.ContainsFunc(ceiling, func(wide T) bool { return covers(wide, rule) }) {
			return rule, true
		}
	}
	return rule, false
}

func coversModel(wide, narrow string) bool {
	prefix, open := strings.CutSuffix(wide, "*")
	return wide == narrow || open && strings.HasPrefix(strings.TrimSuffix(narrow, "*"), prefix)
}

func coversNetwork(wide, narrow netip.Prefix) bool {
	return wide.IsValid() && narrow.IsValid() && wide.Bits() <= narrow.Bits() && wide.Contains(narrow.Addr())
}

// coversPath reports whether the wide pattern allows every path that the narrow one
// does. It reports false where that would be hard to find out.
func coversPath(wide, narrow string) bool {
	// Only a pattern that begins with a name may leave out the version.
	if first, _ := heads(wide); strings.Contains(first, "*") && wide != "/*" {
		if name, _ := heads(narrow); !strings.Contains(name, "*") {
			return false
		}
	}
	return coversPattern(wide, narrow) && coversPattern(WithoutParameters(wide), WithoutParameters(narrow))
}

func coversPattern(wide, narrow string) bool {
	if wide == "" || narrow == "" || wide[0] != '/' || narrow[0] != '/' {
		return false
	}
	wide, narrow = wide[1:], narrow[1:]
	for {
		w, restWide, moreWide := strings.Cut(wide, "/")
		n, restNarrow, moreNarrow := strings.Cut(narrow, "/")
		switch {
		case w == "*" && !moreWide:
			return n != ""
		case n == "*" && !moreNarrow: // any number of segments
			return false
		case !coversSegment(w, n) || moreWide != moreNarrow:
			return false
		case !moreWide:
			return true
		}
		wide, narrow = restWide, restNarrow
	}
}

func coversSegment(wide, narrow string) bool {
	head, tail, open := strings.Cut(wide, "*")
	if !open {
		return wide == narrow
	}
	from, to, pattern := strings.Cut(narrow, "*")
	if !pattern {
		return matchSegment(wide, narrow, equal)
	}
	return strings.HasPrefix(from, head) && strings.HasSuffix(to, tail)
}
