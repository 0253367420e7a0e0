package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/clients"
)

// handedOver is what `run` sets up for a command, with the contents of its files in
// place of their paths.
func handedOver(t *testing.T, environ []string, presets []string, args ...string) (string, error) {
	t.Helper()
	_, all := runKeys(presets...)
	h := &handover{args: args, base: "http://here", upstreams: all, environ: environ, dir: t.TempDir()}
	if err := runTools[tool(args[0])](h); err != nil {
		return "", err
	}
	var lines []string
	for _, v := range h.set {
		lines = append(lines, v.Name+"="+v.Value)
	}
	lines = append(lines, h.before...)
	for i, line := range lines {
		name, path, _ := strings.Cut("="+line, h.dir)
		if !strings.HasSuffix("="+line, path) || path == "" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(h.dir, path))
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = name[1:] + strings.Join(strings.Fields(string(text)), " ")
	}
	return strings.ReplaceAll(strings.Join(lines, "\n"), h.dir, "DIR"), nil
}

// TestEachCommandOfARunGetsTheAddressInItsOwnWay checks what is set up; e2e runs
// the commands themselves.
func TestEachCommandOfARunGetsTheAddressInItsOwnWay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		presets []string
		environ string
		args    []string
		want    string
		refused string
	}{
		"codex": {[]string{"anthropic", "openai"}, "", []string{"/usr/bin/codex", "exec", "hi"}, `-c
model_provider="till"
-c
model_providers.till={name="till", base_url="http://here/v1", env_key="TILL_KEY_OPENAI", wire_api="responses"}`, ""},
		"codex without a key for it": {[]string{"anthropic"}, "", []string{"codex"}, "", ""},
		"opencode": {[]string{"gemini", "anthropic", "github"}, "", []string{"opencode", "run"},
			`OPENCODE_CONFIG_CONTENT={"provider":{"anthropic":{"options":{"baseURL":"http://here/v1"}},"google":{"options":{"baseURL":"http://here/v1beta"}}}}`, ""},
		"opencode with a configuration": {[]string{"openai"}, `OPENCODE_CONFIG_CONTENT={"model":"openai/m","provider":{"openai":{"options":{"timeout":1,"baseURL":"x"}}}}`, []string{"opencode.exe"},
			`OPENCODE_CONFIG_CONTENT={"model":"openai/m","provider":{"openai":{"options":{"baseURL":"http://here/v1","timeout":1}}}}`, ""},
		"opencode with one that is broken":      {[]string{"openai"}, `OPENCODE_CONFIG_CONTENT={`, []string{"opencode"}, "", "OPENCODE_CONFIG_CONTENT must be a JSON object"},
		"opencode for what it would call alone": {[]string{"groq"}, "", []string{"opencode"}, "", "it would send the key to the vendor"},
		"opencode for an API":                   {[]string{"github"}, "", []string{"opencode"}, "", ""},
		"pi": {[]string{"openai", "anthropic", "gemini"}, "", []string{"pi", "-p", "hi"}, "-e\n" +
			`export default (pi) => { pi.registerProvider("openai", { baseUrl: "http://here/v1" }); ` +
			`pi.registerProvider("anthropic", { baseUrl: "http://here" }); pi.registerProvider("google", { baseUrl: "http://here/v1beta" }); };`, ""},
		"cline": {[]string{"openai"}, "", []string{"cline", "hi"}, `CLINE_PROVIDER_SETTINGS_PATH={ "lastUsedProvider": "openai-compatible", "modes": {}, ` +
			`"providers": { "openai-compatible": { "settings": { "baseUrl": "http://here/v1", "provider": "openai-compatible" }, "tokenSource": "manual", "updatedAt": "2026-01-01T00:00:00Z" } }, "version": 1 }`, ""},
		"cn":                            {[]string{"openai"}, "", []string{"cn", "-p", "hi"}, "", "run it with --config FILE"},
		"cn with a configuration":       {[]string{"openai"}, "", []string{"cn", "--config=x.yaml", "-p", "hi"}, "", ""},
		"goose":                         {[]string{"gemini", "openai"}, "", []string{"goose", "run"}, "OPENAI_HOST=http://here\nGOOSE_PROVIDER=openai\nGOOGLE_HOST=http://here", ""},
		"goose with a provider":         {[]string{"anthropic"}, "GOOSE_PROVIDER=anthropic", []string{"goose"}, "ANTHROPIC_HOST=http://here", ""},
		"goose for what it calls alone": {[]string{"mistral"}, "", []string{"goose"}, "", "it would send the key to the vendor"},
		"qwen":                          {[]string{"deepseek"}, "", []string{"qwen", "-p", "hi"}, "--auth-type\nopenai", ""},
		"qwen that is set up already":   {[]string{"anthropic"}, "", []string{"qwen", "--auth-type=anthropic"}, "", ""},
		"gemini in a fresh home":        {[]string{"gemini"}, "GEMINI_CLI_HOME=/no/such/home", []string{"gemini"}, "GEMINI_CLI_HOME=DIR", ""},
		"gemini without a key for it":   {[]string{"openai"}, "", []string{"gemini"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := handedOver(t, []string{test.environ}, test.presets, test.args...)
			if test.refused == "" && err != nil || test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)) {
				t.Fatalf("%v, want %q", err, test.refused)
			}
			if got = strings.ReplaceAll(got, "{ \"security\": { \"auth\": { \"selectedType\": \"gemini-api-key\" } } }", "DIR"); got != test.want {
				t.Errorf("it is set up with\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestGeminiKeepsItsHome: everything in the user's home is visible to the command,
// and what `run` has to change is changed only in the copy.
func TestGeminiKeepsItsHome(t *testing.T) {
	t.Parallel()
	home, dir := t.TempDir(), t.TempDir()
	own := filepath.Join(home, ".gemini")
	if err := os.MkdirAll(filepath.Join(own, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	const before = `{"ui":{"theme":"Dark"},"security":{"auth":{"selectedType":"oauth-personal"},"folderTrust":{"enabled":true}}}`
	for name, text := range map[string]string{"settings.json": before, "GEMINI.md": "Be brief.", "tmp/x": "x"} {
		if err := os.WriteFile(filepath.Join(own, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, all := runKeys("gemini")
	h := &handover{args: []string{"gemini"}, base: "http://here", upstreams: all, environ: []string{"GEMINI_CLI_HOME=" + home}, dir: dir}
	if err := h.gemini(); err != nil || !slices.Contains(h.set, clients.Variable{Name: "GEMINI_CLI_HOME", Value: dir}) {
		t.Fatalf("%v %v", err, h.set)
	}
	for name, want := range map[string]string{
		"settings.json": `{ "security": { "auth": { "selectedType": "gemini-api-key" }, "folderTrust": { "enabled": true } }, "ui": { "theme": "Dark" } }`,
		"GEMINI.md":     "Be brief.", "tmp/x": "x",
	} {
		text, err := os.ReadFile(filepath.Join(dir, ".gemini", name))
		if got := strings.Join(strings.Fields(string(text)), " "); err != nil || got != want {
			t.Errorf("%s: %v %s", name, err, got)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(own, "settings.json")); err != nil || string(text) != before {
		t.Errorf("%v: the person's settings are %s", err, text)
	}
	if _, err := os.Stat(filepath.Join(own, "tmp/x")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(own, "settings.json"), []byte("// mine\n{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.dir = t.TempDir()
	if err := h.gemini(); err == nil || !strings.Contains(err.Error(), `security.auth.selectedType must be "gemini-api-key"`) {
		t.Errorf("settings that cannot be read: %v", err)
	}
}
