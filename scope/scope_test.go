package scope

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestAnEmptyScopeAllowsEverything(t *testing.T) {
	t.Parallel()
	var s Scope
	if !s.IsZero() || !s.AllowsAddr(netip.Addr{}) || !s.AllowsMethod("BREW") || !s.AllowsModel("") || !s.AllowsPath("/x", 0) {
		t.Error("it does not")
	}
}

func TestModelsAreExactOrBeginnings(t *testing.T) {
	t.Parallel()
	s := Scope{Models: []string{"gpt-5-mini", "claude-haiku-*"}}
	for model, want := range map[string]bool{
		"gpt-5-mini": true, "gpt-5-mini-2026": false, "GPT-5-mini": false, "gpt-5": false, "": false,
		"claude-haiku-": true, "claude-haiku-5-5": true, "claude-haiku": false, "xclaude-haiku-5": false,
	} {
		if s.AllowsModel(model) != want {
			t.Errorf("%q: %v", model, !want)
		}
	}
}

func TestAddressesMatchWhateverFormTheyComeIn(t *testing.T) {
	t.Parallel()
	var s Scope
	for _, text := range []string{"10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "fe80::1"} {
		p, err := ParseIP(text)
		if err != nil {
			t.Fatal(err)
		}
		s.IPs = append(s.IPs, p)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{
		"10.255.0.1": true, "::ffff:10.1.2.3": true, "11.0.0.1": false, "192.0.2.1": true, "192.0.2.2": false,
		"2001:db8:1::": true, "2001:db9::": false, "fe80::1%eth0": true,
	} {
		if s.AllowsAddr(netip.MustParseAddr(addr)) != want {
			t.Errorf("%s: %v", addr, !want)
		}
	}
	if s.AllowsAddr(netip.Addr{}) {
		t.Error("an unknown address is allowed")
	}
	for _, text := range []string{"", "x", "10.0.0.1/8", "10.0.0.0/33", "::ffff:10.0.0.0/104", "fe80::1%eth0"} {
		if _, err := ParseIP(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestValidateNamesTheFieldAndTheValue(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		s    Scope
		want []string
	}{
		{Scope{Models: []string{""}}, []string{"models"}},
		{Scope{Models: []string{"a*b"}}, []string{"models", `"a*b"`}},
		{Scope{Models: []string{"gpt-\x1b]0;x\x07"}}, []string{"models", "control", `\x1b`}},
		{Scope{Models: []string{"gpt-\n"}}, []string{"models", "control"}},
		{Scope{Models: []string{"gpt-\u009b31m"}}, []string{"models", "control", `\u009b`}},
		{Scope{Models: []string{"gpt-\u202e5"}}, []string{"models", "invisible"}},
		{Scope{Models: []string{"gpt-\u200b"}}, []string{"models", "invisible"}},
		{Scope{Models: []string{"gpt-\xff"}}, []string{"models", "control"}},
		{Scope{Models: []string{" "}}, []string{"models", "space"}},
		{Scope{Paths: []string{"v1"}}, []string{"paths", `"v1"`}},
		{Scope{Methods: []string{"post"}}, []string{"methods", `"post"`}},
		{Scope{Methods: []string{"*"}}, []string{"methods"}},
		{Scope{IPs: []netip.Prefix{{}}}, []string{"ips"}},
		{Scope{IPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}, []string{"ips", "10.0.0.1/8"}},
		{Scope{Models: slices.Repeat([]string{"m"}, maxRules+1)}, []string{"models", "100"}},
	} {
		err := test.s.Validate()
		if err == nil {
			t.Errorf("%+v is accepted", test.s)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not name %s", err, want)
			}
		}
	}
}

func TestACloneSharesNothing(t *testing.T) {
	t.Parallel()
	s := Scope{Models: []string{"a"}, Paths: []string{"/a"}, Methods: []string{"GET"}}
	c := s.Clone()
	c.Models[0], c.Paths[0], c.Methods[0] = "b", "/b", "PUT"
	if s.Models[0] != "a" || s.Paths[0] != "/a" || s.Methods[0] != "GET" {
		t.Errorf("%+v", s)
	}
}
