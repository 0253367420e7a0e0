package admin

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// runKey is a key that `run` minted, and what it is for.
type runKey struct {
	*minted
	info UpstreamInfo
}

// ownVariables are those of this program: a command that is given a scoped key
// has no business with the management API.
var ownVariables = []string{"TILL_TOKEN", "TILL_ADDRESS", "TILL_DATA", "TILL_DATABASE_URL", echoVariable}

// shortestSecret is how long a credential is at least, in bytes, for other
// variables with the same text to be taken out, too.
const shortestSecret = 16

// runEnviron is the environment of a command that is to use these keys alone:
// environ with their variables, and without any credential of any preset or
// configured upstream. notes say what somebody may wonder about. Variables in
// pass stay as they are.
func runEnviron(environ []string, command, base string, keys []runKey, all []UpstreamInfo, pass []string) (env, notes []string) {
	set, notes := runVariables(command, base, keys)
	out := withheld(all)
	var secrets []string
	for _, line := range environ {
		name, value, _ := strings.Cut(line, "=")
		value = strings.TrimSpace(value)
		if out[name] && len(value) >= shortestSecret && !strings.Contains(value, "://") {
			secrets = append(secrets, value)
		}
	}
	for _, line := range environ {
		name, value, _ := strings.Cut(line, "=")
		switch {
		case slices.ContainsFunc(set, func(v variable) bool { return v.Name == name }):
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

// runVariables are the variables that point clients at this server. One that
// several upstreams' clients read belongs to the upstream that comes first.
func runVariables(command, base string, keys []runKey) (set []variable, notes []string) {
	add := func(name, value string) bool {
		if i := slices.IndexFunc(set, func(v variable) bool { return v.Name == name }); i >= 0 {
			return set[i].Value == value
		}
		set = append(set, variable{name, value})
		return true
	}
	for _, k := range keys {
		add("TILL_BASE_URL", base)
		add("TILL_KEY", k.ScopedKey)
		own := keyVariable(k.info.Name)
		add(own, k.ScopedKey)
		p, ok := upstream.Lookup(k.info.Preset)
		if !ok {
			continue
		}
		var taken []string
		for _, c := range slices.Concat(p.ClientEnv, p.ToolEnv) {
			value := base + c.Path
			if c.Key {
				value = k.ScopedKey
			}
			// Claude Code asks people about this one, and warns when it has both.
			if c.Name == "ANTHROPIC_API_KEY" && tool(command) == "claude" {
				continue
			}
			if !add(c.Name, value) {
				taken = append(taken, c.Name)
			}
		}
		if len(taken) > 0 {
			notes = append(notes, strings.Join(taken, ", ")+" can be for one upstream only, and "+k.info.Name+" comes later: its key is in "+own+".")
		}
		if p.InCode != "" {
			notes = append(notes, "The SDKs of "+k.info.Name+" take the address in code: "+p.InCode+" = $TILL_BASE_URL.")
		}
	}
	return set, notes
}

// tool is the name of a command, whatever its path.
func tool(command string) string { return strings.TrimSuffix(filepath.Base(command), ".exe") }

// runArgs are the arguments that a command is run with. Codex gets the address by
// arguments, because it takes it from no variable: left alone it would go to the
// vendor, with whoever is signed in. The key stays in the environment.
func runArgs(args []string, base string, keys []runKey) []string {
	i := slices.IndexFunc(keys, func(k runKey) bool { return k.info.Preset == "openai" })
	if tool(args[0]) != "codex" || i < 0 {
		return args
	}
	provider := fmt.Sprintf(`model_providers.till={name="till", base_url=%q, env_key=%q, wire_api="responses"}`,
		base+"/v1", keyVariable(keys[i].info.Name))
	return append([]string{args[0], "-c", `model_provider="till"`, "-c", provider}, args[1:]...)
}

// keyVariable holds the key for an upstream, whatever others there are.
func keyVariable(name string) string { return "TILL_KEY_" + variableName(name) }

// variableName makes a part of a variable's name.
func variableName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(s))
}

// withheld are the variables that a command must not see: the credentials of
// every preset, also of those that no key is for.
func withheld(all []UpstreamInfo) map[string]bool {
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

// namesSlot reports whether a variable makes an SDK send a credential of its
// own, beside the scoped key or instead of it: OPENAI_CUSTOM_HEADERS and the
// like.
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
