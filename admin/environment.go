package admin

import (
	"cmp"
	"slices"
	"strings"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/upstream"
)

const (
	// blank stands where a key's string is to be filled in: the server does
	// not have it.
	blank = "till_sk_..."
	// blankURL stands where the server's address is to be filled in.
	blankURL = "https://YOUR-SERVER"
)

// variables are what points an upstream's clients at this server.
type variables struct {
	Upstream string     `json:"upstream"`
	BaseURL  string     `json:"base_url"`
	Set      []variable `json:"set"`
	// Unset are the variables that would make clients use the real key.
	Unset []string `json:"unset,omitempty"`
	// InCode is the SDKs' parameter that takes the address, where no variable
	// does.
	InCode string `json:"in_code,omitempty"`
}

type variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// environment is the environment for an upstream's clients.
func environment(info wire.UpstreamInfo, base, key string) variables {
	base = cmp.Or(base, blankURL)
	v := variables{Upstream: info.Name, BaseURL: base}
	p, ok := upstream.Lookup(info.Preset)
	if !ok {
		v.Set = []variable{{"TILL_BASE_URL", base}, {"TILL_KEY", key}}
		return v
	}
	v.InCode = p.InCode
	for _, c := range p.ClientEnv {
		value := base + c.Path
		if c.Key {
			value = key
		}
		v.Set = append(v.Set, variable{c.Name, value})
	}
	for _, name := range p.KeyEnv {
		if !slices.ContainsFunc(v.Set, func(s variable) bool { return s.Name == name }) {
			v.Unset = append(v.Unset, name)
		}
	}
	return v
}

// lines is the environment for a POSIX shell. They set variables and do
// nothing else, because they are there to be evaluated.
func (v variables) lines() []string {
	var lines []string
	for _, name := range v.Unset {
		lines = append(lines, "unset "+name)
	}
	for _, s := range v.Set {
		lines = append(lines, "export "+s.Name+"="+quote(s.Value))
	}
	if v.InCode != "" {
		lines = append(lines, "# These SDKs take the address in code: "+v.InCode+" = "+quote(v.BaseURL))
	}
	return lines
}

// quote makes a word for a POSIX shell.
func quote(s string) string {
	plain := !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:", r)
	})
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
