// Package scope defines what a request may look like: cleaned paths, and rules over
// paths, methods, models and addresses. It is used wherever something is allowed or
// denied, so that a path is read in the same way everywhere.
//
// It knows no key, no upstream and no budget, and imports nothing of ours.
package scope

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Scope limits what a key may be used for. An empty list allows everything.
type Scope struct {
	// Models are names, or prefixes that end with "*".
	Models []string `json:"models,omitempty"`
	// Paths are patterns by segment; see [ParsePathRule].
	Paths []string `json:"paths,omitempty"`
	// Methods are HTTP methods in capitals, matched exactly.
	Methods []string `json:"methods,omitempty"`
	// IPs are networks that clients must come from.
	IPs []netip.Prefix `json:"ips,omitempty"`
	// PinIP binds the key to the first address that uses it.
	PinIP bool `json:"pin_ip,omitempty"`
}

const (
	maxRules   = 100
	maxRuleLen = 512
)

// IsZero reports whether the scope limits nothing.
func (s Scope) IsZero() bool {
	return len(s.Models)+len(s.Paths)+len(s.Methods)+len(s.IPs) == 0 && !s.PinIP
}

// Clone returns a copy that shares no memory.
func (s Scope) Clone() Scope {
	s.Models = slices.Clone(s.Models)
	s.Paths = slices.Clone(s.Paths)
	s.Methods = slices.Clone(s.Methods)
	s.IPs = slices.Clone(s.IPs)
	return s
}

// Validate returns an error that names the first rule that cannot be used.
func (s Scope) Validate() error {
	for _, l := range []struct {
		field string
		n     int
	}{{"models", len(s.Models)}, {"paths", len(s.Paths)}, {"methods", len(s.Methods)}, {"ips", len(s.IPs)}} {
		if l.n > maxRules {
			return fmt.Errorf("%s may hold %d entries, got %d", l.field, maxRules, l.n)
		}
	}
	for _, m := range s.Models {
		if err := validModel(m); err != nil {
			return err
		}
	}
	for _, p := range s.Paths {
		if _, err := ParsePathRule("*", p); err != nil {
			return fmt.Errorf("paths: %w", err)
		}
	}
	for _, m := range s.Methods {
		if m == "*" || !validMethod(m) {
			return fmt.Errorf("methods must be HTTP methods in capitals, got %q", m)
		}
	}
	for _, p := range s.IPs {
		if !p.IsValid() || p != p.Masked() {
			return fmt.Errorf("ips must be addresses or networks such as 10.0.0.0/8, got %q", p)
		}
	}
	return nil
}

func validModel(m string) error {
	if m == "" || len(m) > maxRuleLen || strings.Contains(strings.TrimSuffix(m, "*"), "*") {
		return fmt.Errorf(`models must be names, or beginnings that end with one "*", got %q`, m)
	}
	if m != strings.TrimSpace(m) || !utf8.ValidString(m) || strings.ContainsFunc(m, func(r rune) bool {
		return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
	}) {
		return fmt.Errorf("models must not hold control or invisible characters, nor begin or end with a space, got %q", m)
	}
	return nil
}

func validMethod(m string) bool {
	if m == "*" {
		return true
	}
	for i := range len(m) {
		if c := m[i]; (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return m != "" && len(m) <= 32
}

// ParseIP parses an address or a network. Host bits must be zero.
func ParseIP(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("ips must be addresses or networks such as 10.0.0.0/8, got %q", s)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("the IPv4 network %q is written without its IPv6 prefix", s)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("the network %q has host bits set; write %s", s, p.Masked())
	}
	return p, nil
}

// AllowsModel reports whether a model is in scope.
func (s *Scope) AllowsModel(model string) bool {
	return len(s.Models) == 0 || slices.ContainsFunc(s.Models, func(m string) bool {
		prefix, open := strings.CutSuffix(m, "*")
		return m == model || open && strings.HasPrefix(model, prefix)
	})
}

// AllowsMethod reports whether a method is in scope.
func (s *Scope) AllowsMethod(method string) bool {
	return len(s.Methods) == 0 || slices.Contains(s.Methods, method)
}

// AllowsPath reports whether a cleaned path is in scope. Its first version bytes are
// the version of its API, which rules may leave out.
func (s *Scope) AllowsPath(path string, version int) bool {
	return len(s.Paths) == 0 || slices.ContainsFunc(s.Paths, func(pattern string) bool { return allows(pattern, path, version) })
}

// AllowsAddr reports whether a client's address is in scope. An unknown address is in
// no network.
func (s *Scope) AllowsAddr(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return len(s.IPs) == 0 || slices.ContainsFunc(s.IPs, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// ErrPath is wrapped by the errors of CleanPath.
var ErrPath = errors.New("the path cannot be read unambiguously")
