package cli

import (
	"slices"
	"strings"

	"github.com/till-proxy/till/admin/clients"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

type runKey struct {
	*wire.Minted
	info wire.UpstreamInfo
}

// ownVariables are the variables of this program. A command that gets a scoped key
// has no business with the management API.
var ownVariables = []string{"TILL_TOKEN", "TILL_ADDRESS", "TILL_DATA", "TILL_DATABASE_URL", echoVariable}

// shortestSecret is the least length, in bytes, of a credential for which other
// variables that contain it are removed, too.
const shortestSecret = 16

// runEnviron returns the environment of a command that is to use only these keys:
// the environment of run with the variables for the keys, and without the
// credentials of any preset or configured upstream. The variables named in pass
// stay as they are. notes explain what may surprise people.
func runEnviron(h *handover, keys []runKey, all []wire.UpstreamInfo, pass []string) (env, notes []string) {
	set, notes := runVariables(h, keys)
	out := withheld(all)
	var secrets []string
	for _, line := range h.environ {
		name, value, _ := strings.Cut(line, "=")
		value = strings.TrimSpace(value)
		if out[name] && len(value) >= shortestSecret && !strings.Contains(value, "://") {
			secrets = append(secrets, value)
		}
	}
	for _, line := range h.environ {
		name, value, _ := strings.Cut(line, "=")
		switch {
		case slices.ContainsFunc(set, func(v clients.Variable) bool { return v.Name == name }):
		case slices.Contains(pass, name):
			env = append(env, line)
		case out[name], strings.Contains(value, token.AdminPrefix), namesSlot(name, value),
			slices.ContainsFunc(secrets, func(s string) bool { return strings.Contains(value, s) }):
		default:
			env = append(env, line)
		}
	}
	for _, v := range set {
		env = append(env, v.Name+"="+v.Value)
	}
	return env, notes
}

// runVariables returns the variables that point clients at this server. A variable
// that the clients of several upstreams read is set for the first of these
// upstreams.
func runVariables(h *handover, keys []runKey) (set []clients.Variable, notes []string) {
	add := func(name, value string) bool {
		if i := slices.IndexFunc(set, func(v clients.Variable) bool { return v.Name == name }); i >= 0 {
			return set[i].Value == value
		}
		set = append(set, clients.Variable{Name: name, Value: value})
		return true
	}
	for _, k := range keys {
		add("TILL_BASE_URL", h.base)
		add("TILL_KEY", k.ScopedKey)
		own := keyVariable(k.info.Name)
		add(own, k.ScopedKey)
		p, ok := upstream.Lookup(k.info.Preset)
		if !ok {
			continue
		}
		var taken []string
		for _, c := range slices.Concat(p.ClientEnv, p.ToolEnv) {
			value := h.base + c.Path
			if c.Key {
				value = k.ScopedKey
			}
			if !slices.Contains(h.without, c.Name) && !add(c.Name, value) {
				taken = append(taken, c.Name)
			}
		}
		if len(taken) > 0 {
			notes = append(notes, strings.Join(taken, ", ")+" can be set for only one upstream, and "+k.info.Name+" is not the first: its key is in "+own+".")
		}
		if p.InCode != "" {
			notes = append(notes, "The SDKs of "+k.info.Name+" take the address in code: "+p.InCode+" = $TILL_BASE_URL.")
		}
	}
	for _, v := range h.set {
		add(v.Name, v.Value)
	}
	// OpenAI's Agents SDK sends traces, prompts and all, to the vendor's own address
	// with the key that it finds here (@openai/agents-openai 0.20.0,
	// openaiTracingExporter).
	if slices.ContainsFunc(set, func(v clients.Variable) bool { return v.Name == "OPENAI_API_KEY" }) {
		add("OPENAI_AGENTS_DISABLE_TRACING", "1")
	}
	return set, notes
}

// keyVariable is the name of the variable that always holds the key for this upstream.
func keyVariable(name string) string { return "TILL_KEY_" + variableName(name) }

func variableName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(s))
}

// withheld returns the variables that a command must not see: the credentials of
// every preset, even of those for which it gets no key.
func withheld(all []wire.UpstreamInfo) map[string]bool {
	out := make(map[string]bool)
	for _, name := range ownVariables {
		out[name] = true
	}
	for _, p := range upstream.All() {
		for _, name := range slices.Concat(p.KeyEnv, p.OtherEnv) {
			out[name] = true
		}
		for _, c := range slices.Concat(p.ClientEnv, p.ToolEnv) {
			if c.Key {
				out[c.Name] = true
			}
		}
	}
	for _, u := range all {
		if u.CredentialEnv != "" {
			out[u.CredentialEnv] = true
		}
	}
	return out
}

// namesSlot reports whether a variable, such as OPENAI_CUSTOM_HEADERS, makes an SDK
// send another credential beside the scoped key or in place of it.
func namesSlot(name, value string) bool {
	if !strings.HasSuffix(name, "_CUSTOM_HEADERS") {
		return false
	}
	for line := range strings.Lines(value) {
		header, _, _ := strings.Cut(line, ":")
		if slices.ContainsFunc(upstream.Slots(), func(slot string) bool { return strings.EqualFold(slot, strings.TrimSpace(header)) }) {
			return true
		}
	}
	return false
}
