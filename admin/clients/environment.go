package clients

import (
	"cmp"
	"slices"
	"strings"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/upstream"
)

const (
	// Blank is the placeholder for a key's string, which the server does not have.
	Blank = "till_sk_..."
	// BlankURL is the placeholder for the server's address.
	BlankURL = "https://YOUR-SERVER"
)

// Variables are the environment variables that point an upstream's clients at this
// server.
type Variables struct {
	Upstream string     `json:"upstream"`
	BaseURL  string     `json:"base_url"`
	Set      []Variable `json:"set"`
	// Unset lists the variables that would make clients use the real key.
	Unset []string `json:"unset,omitempty"`
	// InCode is the parameter by which the SDKs take the address, if no variable
	// does that.
	InCode string `json:"in_code,omitempty"`
}

type Variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Environment returns the variables for an upstream's clients.
func Environment(info wire.UpstreamInfo, base, key string) Variables {
	base = cmp.Or(base, BlankURL)
	v := Variables{Upstream: info.Name, BaseURL: base}
	p, ok := upstream.Lookup(info.Preset)
	if !ok {
		v.Set = []Variable{{"TILL_BASE_URL", base}, {"TILL_KEY", key}}
		return v
	}
	v.InCode = p.InCode
	for _, c := range p.ClientEnv {
		value := base + c.Path
		if c.Key {
			value = key
		}
		v.Set = append(v.Set, Variable{c.Name, value})
	}
	for _, name := range p.KeyEnv {
		if !slices.ContainsFunc(v.Set, func(s Variable) bool { return s.Name == name }) {
			v.Unset = append(v.Unset, name)
		}
	}
	return v
}

// Lines writes the variables for a POSIX shell. The lines only set variables,
// because people evaluate them.
func (v Variables) Lines() []string {
	var lines []string
	for _, name := range v.Unset {
		lines = append(lines, "unset "+name)
	}
	for _, s := range v.Set {
		lines = append(lines, "export "+s.Name+"="+Quote(s.Value))
	}
	if v.InCode != "" {
		lines = append(lines, "# These SDKs take the address in code: "+v.InCode+" = "+Quote(v.BaseURL))
	}
	return lines
}

// Quote writes a text as one word of a POSIX shell.
func Quote(s string) string {
	plain := !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:", r)
	})
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
