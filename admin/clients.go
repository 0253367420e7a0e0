package admin

import (
	"net/http"
	"strings"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/upstream"
)

// clientText is what one client of an upstream needs to use a scoped key: the
// lines of docs/clients.md.
type clientText struct {
	Name  string   `json:"name"`
	Note  string   `json:"note,omitempty"`
	Lines []string `json:"lines"`
}

// clients tells the lines for each client of an upstream, with a blank where
// the key's string belongs.
func (a *api) clients(_ *limiter.Limiter, r *http.Request) (int, any, error) {
	name := r.PathValue("name")
	for _, info := range a.backend.UpstreamInfos() {
		if info.Name == name {
			return http.StatusOK, map[string]any{
				"upstream": name, "base_url": a.backend.BaseURL(), "clients": clientTexts(info, a.backend.BaseURL(), blank),
			}, nil
		}
	}
	return 0, nil, &apiError{http.StatusNotFound, "not_found", "upstream " + cut(name, 64) + " is not configured"}
}

// inVercel are the functions of the Vercel AI SDK that take an address.
var inVercel = map[string]string{"openai": "createOpenAI", "anthropic": "createAnthropic", "gemini": "createGoogleGenerativeAI"}

// inCode are SDKs that take the address in code.
var inCode = map[string]clientText{
	"mistral": {"Mistral SDK", "", []string{`new Mistral({ apiKey, serverURL: "BASE" });`}},
	"cohere":  {"Cohere SDK", "", []string{`new CohereClientV2({ token: apiKey, environment: "BASE" });`}},
}

// clientTexts are the clients of an upstream, what most people need first.
func clientTexts(info UpstreamInfo, base, key string) []clientText {
	v := environment(info, base, key)
	base = v.BaseURL
	p, known := upstream.Lookup(info.Preset)
	if !known {
		return []clientText{
			{"curl", "", curlLines(info, base, key)},
			{"Shell", "For scripts of your own.", v.lines()},
		}
	}
	shell := clientText{"Shell: SDKs and tools that read the environment", "What “caddy till env” prints.", v.lines()}
	var all []clientText
	switch info.Preset {
	case "anthropic":
		shell.Name = "Claude Code"
		all = []clientText{shell, {"Anthropic SDKs", "", []string{
			"export ANTHROPIC_BASE_URL=" + quote(base), "export ANTHROPIC_API_KEY=" + quote(key)}}}
	case "openai":
		all = []clientText{shell, {"Codex", "In ~/.codex/config.toml, with the key in TILL_KEY.", []string{
			`model_provider = "till"`, "", "[model_providers.till]", `name = "till"`, `base_url = "` + base + `/v1"`,
			`env_key = "TILL_KEY"`, `wire_api = "responses"`}},
			{"Aider", "Models are named openai/NAME.", []string{"export OPENAI_API_BASE=" + quote(base+"/v1"), "export OPENAI_API_KEY=" + quote(key)}}}
	default:
		all = []clientText{shell}
	}
	if c, ok := inCode[info.Preset]; ok {
		c.Lines = []string{strings.ReplaceAll(c.Lines[0], "BASE", base)}
		all = append(all, c)
	}
	if create, ok := inVercel[info.Preset]; ok {
		all = append(all, clientText{"Vercel AI SDK", "The base URL has the version.", []string{create + `({ apiKey, baseURL: "` + base + p.Prefix + `" });`}})
	}
	return append(all, clientText{"curl", "", curlLines(info, base, key)})
}
