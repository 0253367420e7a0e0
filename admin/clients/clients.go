// Package clients says how the clients of an upstream are pointed at this server:
// which environment variables, lines of code or configuration they need, and which
// request tries it out.
//
// It knows the presets of package upstream, but neither a server nor a store: the
// caller passes in the address, and the string of a key or a placeholder for it.
package clients

import (
	"strings"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/upstream"
)

// inVercel lists the functions of the Vercel AI SDK that take an address, by preset.
var inVercel = map[string]string{"openai": "createOpenAI", "anthropic": "createAnthropic", "gemini": "createGoogleGenerativeAI"}

// inCode lists the SDKs that take the address in code, by preset.
var inCode = map[string]wire.ClientText{
	"mistral": {Name: "Mistral SDK", Lines: []string{`new Mistral({ apiKey, serverURL: "BASE" });`}},
	"cohere":  {Name: "Cohere SDK", Lines: []string{`new CohereClientV2({ token: apiKey, environment: "BASE" });`}},
}

// Of lists the clients of an upstream. What most people need comes first.
func Of(info wire.UpstreamInfo, base, key string) []wire.ClientText {
	v := Environment(info, base, key)
	base = v.BaseURL
	p, known := upstream.Lookup(info.Preset)
	if !known {
		return []wire.ClientText{
			{Name: "curl", Lines: Curl(info, base, key)},
			{Name: "Shell", Note: "For scripts of your own.", Lines: v.Lines()},
		}
	}
	shell := wire.ClientText{Name: "Shell: SDKs and tools that read the environment", Note: "What “caddy till env” prints.", Lines: v.Lines()}
	var all []wire.ClientText
	switch info.Preset {
	case "anthropic":
		shell.Name = "Claude Code"
		all = []wire.ClientText{shell, {Name: "Anthropic SDKs", Lines: []string{
			"export ANTHROPIC_BASE_URL=" + Quote(base), "export ANTHROPIC_API_KEY=" + Quote(key)}}}
	case "openai":
		all = []wire.ClientText{shell, {Name: "Codex", Note: "In ~/.codex/config.toml, with the key in TILL_KEY.", Lines: []string{
			`model_provider = "till"`, "", "[model_providers.till]", `name = "till"`, `base_url = "` + base + `/v1"`,
			`env_key = "TILL_KEY"`, `wire_api = "responses"`}},
			{Name: "Aider", Note: "Models are named openai/NAME.", Lines: []string{"export OPENAI_API_BASE=" + Quote(base+"/v1"), "export OPENAI_API_KEY=" + Quote(key)}}}
	default:
		all = []wire.ClientText{shell}
	}
	if c, ok := inCode[info.Preset]; ok {
		c.Lines = []string{strings.ReplaceAll(c.Lines[0], "BASE", base)}
		all = append(all, c)
	}
	if create, ok := inVercel[info.Preset]; ok {
		all = append(all, wire.ClientText{Name: "Vercel AI SDK", Note: "The base URL has the version.", Lines: []string{create + `({ apiKey, baseURL: "` + base + p.Prefix + `" });`}})
	}
	return append(all, wire.ClientText{Name: "curl", Lines: Curl(info, base, key)})
}

// sample is a request that works when it is pasted into a shell.
type sample struct {
	path    string
	slot    string
	headers []string
	body    string
}

// samples lists the requests that try out a preset. For other presets the sample
// lists the models.
var samples = map[string]sample{
	"openai": {path: "/v1/chat/completions", slot: "Authorization: Bearer ",
		body: `{"model":"gpt-6-luna","messages":[{"role":"user","content":"Hi"}]}`},
	"anthropic": {path: "/v1/messages", slot: "x-api-key: ", headers: []string{"anthropic-version: 2023-06-01"},
		body: `{"model":"claude-haiku-5-5","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}`},
	"gemini": {path: "/v1beta/models/gemini-3.8-flash:generateContent", slot: "x-goog-api-key: ",
		body: `{"contents":[{"parts":[{"text":"Hi"}]}]}`},
}

// Curl returns the lines of a shell command that makes a sample request.
func Curl(info wire.UpstreamInfo, base, key string) []string {
	s, ok := samples[info.Preset]
	if !ok {
		s = sample{path: "/", slot: "Authorization: Bearer "}
		if p, known := upstream.Lookup(info.Preset); known && len(p.Free) > 0 {
			s.path = p.Canonical(p.Free[0].Pattern)
		}
	}
	words := []string{"curl " + base + s.path, "-H '" + s.slot + key + "'"}
	for _, h := range s.headers {
		words = append(words, "-H '"+h+"'")
	}
	switch {
	case s.body == "":
	case len(s.body) > 72:
		// The body is too long for one line of a terminal. It is broken where JSON
		// allows it.
		at := strings.Index(s.body, `,"messages"`) + 1
		words = append(words, "-H 'Content-Type: application/json'", "-d '"+s.body[:at]+"\n    "+s.body[at:]+"'")
	default:
		words = append(words, "-H 'Content-Type: application/json'", "-d '"+s.body+"'")
	}
	return strings.Split(strings.Join(words, " \\\n  "), "\n")
}
